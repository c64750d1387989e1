"""What the engine keeps for requests of one kind: static buffers, and the three stages that work on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pi_policy_node.policy.model import Context, Inputs, Plan
from pi_policy_node.policy.rtc import Guide, guided_velocity

if TYPE_CHECKING:
    from pi_policy_node.policy.engine import Engine


@dataclass(frozen=True)
class Key:
    """What must be equal for two requests to share buffers and graphs."""

    batch: int
    pictures: int  # in the whole batch, absent cameras left out
    prefix: int  # tokens of the prefix, padding left out, rounded up to a bucket
    full: bool  # no padding is left
    mode: str  # "plain", "given" (clean first rows) or "guided"


@dataclass
class Given:
    """Rows that are known, for a model trained with clean prefixes: normalised rows [B, H, D], which ones [B, H]."""

    rows: Tensor
    mask: Tensor


class Lane:
    """Static buffers for requests of one kind, and the stages that work on them."""

    plan: Plan  # of the request at hand, on the host

    def __init__(self, engine: Engine, key: Key) -> None:
        self.engine, self.key, self.model = engine, key, engine.model
        shape, device = engine.shape, engine.device
        self.images = torch.zeros(key.pictures, 3, shape.vision.image, shape.vision.image, device=device)
        self.tokens = torch.zeros(key.batch, shape.prompt_tokens, dtype=torch.int64, device=device)
        self.index = torch.zeros(key.batch, key.prefix, dtype=torch.int64, device=device)
        self.valid = torch.ones(key.batch, key.prefix, dtype=torch.bool, device=device)
        self.state = torch.zeros(key.batch, shape.action_dim, device=device)
        actions = (key.batch, shape.horizon, shape.action_dim)
        self.noise, self.rows, self.weight = (torch.zeros(actions, device=device) for _ in range(3))
        self.mask = torch.zeros(actions[:2], dtype=torch.bool, device=device)
        self.stages: dict[str, Stage] = {}

    def load(self, inputs: Inputs, noise: Tensor, guide: Guide | None, given: Given | None) -> None:
        """Put a request into the buffers."""
        self.images.copy_(inputs.images.flatten(0, 1)[self.plan.images])
        for name in ("tokens", "state"):
            getattr(self, name).copy_(getattr(inputs, name))
        self.index.copy_(self.plan.index)
        self.valid.copy_(self.plan.valid)
        self.noise.copy_(noise)
        if guide is not None:
            self.rows.copy_(guide.target)
            self.weight.copy_(guide.weight)
        if given is not None:
            self.rows.copy_(given.rows)
            self.mask.copy_(given.mask)

    def run(self, alive: Callable[[], None], timing: dict[str, float]) -> Tensor:
        laps, result = Laps(cuda=self.engine.cuda), None
        for name in ("vision", "prefill", "denoise"):
            alive()
            if name not in self.stages:
                graph = self.key.batch in self.engine.captured
                self.stages[name] = Stage(getattr(self, "_" + name), self.engine.pool if graph else None)
            result = self.stages[name]()
            laps.end(name)
        actions = result.to("cpu", copy=True)  # waits for the device
        timing |= laps.seconds()
        return actions

    def _vision(self) -> Tensor:
        """[M, T, W]"""
        self.pictures = self.model.vision(self.images)
        return self.pictures

    def _prefill(self) -> Context:
        where = Plan(self.index, self.index, self.valid, self.key.full)
        x = self.model.pool(self.pictures, self.tokens, where)
        self.context = self.model.with_state(self.model.prefill(x, where)[0], self.state)
        return self.context

    def _denoise(self) -> Tensor:
        engine, x = self.engine, self.noise
        for t, condition in zip(engine.grid, engine.conditions):
            if self.key.mode == "guided":
                guide = Guide(self.rows, self.weight)
                v = guided_velocity(lambda y, c=condition: self.model.velocity(self.context, y, c), x, t, guide)
            elif self.key.mode == "given":
                x = torch.where(self.mask[..., None], self.rows, x)
                v = self.model.velocity(self.context, x, self._mixed(condition))
            else:
                v = self.model.velocity(self.context, x, condition)
            x = x - v / engine.steps
        return torch.where(self.mask[..., None], self.rows, x) if self.key.mode == "given" else x

    def _mixed(self, condition: Tensor) -> Tensor:
        """The condition of each row: that of time 0 where the row is given, that of the step elsewhere."""
        clean, mask = self.engine.conditions[-1], self.mask[..., None]  # [B, H, 1]
        if self.engine.shape.family == "pi05":
            mask = mask[None, ..., None]  # of [2·depth + 1, B, H, 3, W]
        return torch.where(mask, clean, condition)


class Stage:
    """A function without arguments, called again and again: with a pool of CUDA memory recorded as a graph and
    replayed, elsewhere just called.

    All graphs share the pool: they never run at the same time, and what one hands on to the next is held on to.
    """

    def __init__(self, function: Callable[[], object], pool: object | None) -> None:
        self.function, self.graph = function, None
        if pool is not None:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries allocate and choose their kernels on the first calls
                for _ in range(3):
                    function()
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=pool):
                self.result = function()

    def __call__(self) -> object:
        if self.graph is None:
            return self.function()
        self.graph.replay()
        return self.result


class Laps:
    """How long each stage takes, by the device's own clock on CUDA, where the host only waits at the end."""

    def __init__(self, *, cuda: bool) -> None:
        self._cuda, self._marks = cuda, []
        self.end("")

    def end(self, name: str) -> None:
        if self._cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        else:
            mark = time.perf_counter()
        self._marks.append((name, mark))

    def seconds(self) -> dict[str, float]:
        """By name; on CUDA the last mark must have been reached."""
        pairs = zip(self._marks, self._marks[1:])
        return {name: a.elapsed_time(b) / 1e3 if self._cuda else b - a for (_, a), (name, b) in pairs}
