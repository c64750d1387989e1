"""The model, run fast: what is computed once is computed once, what is not there is not computed.

For every combination of batch, pictures and prefix length there is a `Lane`: static buffers and three stages (vision,
prefill, denoise). On CUDA each stage is captured as a graph and replayed; on the CPU the same functions are called.
The time-dependent half of the expert (time embeddings; for pi05 every adaptive norm's scale, shift and gate) is the
same for every request and computed at construction.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from pi_policy_node.policy import text, tune
from pi_policy_node.policy.base import InputError, check_alive
from pi_policy_node.policy.lane import Given, Key, Lane
from pi_policy_node.policy.model import Inputs, Pi, plan, times
from pi_policy_node.policy.packed import pack
from pi_policy_node.policy.rtc import Guide


BUCKET = 16  # tokens; on CUDA the prefix is rounded up to a multiple of this, as a graph has one length


class Engine:
    """Takes a model over (norm weights are folded in place) and answers requests, one at a time, from any thread."""

    def __init__(
        self,
        model: Pi,
        *,
        steps: int = 10,
        threads: int | None = None,
        packed: bool | None = None,
        compiled: bool | None = None,
        lanes: int | None = None,
    ) -> None:
        """threads, packed, compiled: None = on the CPU, what `warm_up` measures to be fastest; on CUDA, compiled.

        lanes: how many are kept. None = on CUDA, where one takes seconds to make, all that warm-up could want; on the
        CPU, where one costs nothing but memory, few.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}; there must be at least one")
        self.model = model.fold().eval().requires_grad_(False)
        self.shape, self.steps = model.shape, steps
        self.device = model.embed.device
        self.threads, self.packed, self.compiled = threads, packed, compiled
        self.timing: dict[str, float] = {}  # s, of the latest request; replaced, never changed
        self._lanes: OrderedDict[Key, Lane] = OrderedDict()
        self.cuda = self.device.type == "cuda"
        self._most_lanes = lanes or (256 if self.cuda else 4)
        self.captured = {1}  # batch sizes that are worth a graph; others just run, and keep a device busy anyway
        self.pool = torch.cuda.graph_pool_handle() if self.cuda else None
        self._lock = threading.Lock()
        self._alive: Callable[[], None] = lambda: None
        self.grid = times(steps)
        with torch.no_grad():
            moments = torch.tensor([*self.grid, 0.0], device=self.device)
            self.conditions = [model.condition(t[None]) for t in moments]  # the last is that of clean rows
        if not self.cuda:  # between two layers is a good moment to notice that nobody waits any more
            for stack in (model.vision, model.vlm, model.expert):
                for block in stack.blocks:
                    block.register_forward_pre_hook(lambda *_: self._alive())

    # ---- requests

    @torch.no_grad()
    def sample(
        self,
        inputs: Inputs,
        *,
        noise: Tensor | None = None,
        guide: Guide | None = None,
        given: Given | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Tensor:
        """Actions [B, H, action_dim], normalised, on the CPU. inputs and noise are host tensors.

        Waits for its turn no longer than the deadline (s, time.monotonic()).
        """
        check_inputs(inputs, self.shape)
        inputs = padded(inputs, self.shape.prompt_tokens)
        shape = (len(inputs.tokens), self.shape.horizon, self.shape.action_dim)
        noise = torch.randn(shape) if noise is None else noise
        arrived = time.monotonic()
        with _Turn(self, deadline, cancel):
            started = time.monotonic()
            lane = self._lane(inputs, "guided" if guide is not None else "plain" if given is None else "given")
            lane.load(inputs, noise, guide, given)
            timing = {"queue": started - arrived}
            actions = lane.run(self._alive, timing)
            self.timing = timing | {"total": time.monotonic() - started}
        return actions

    @torch.no_grad()
    def say(
        self,
        inputs: Inputs,
        *,
        limit: int = 50,
        stop: int = 1,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> list[list[int]]:
        """What the language head says to pictures and prompt: tokens per row, up to and without `stop`."""
        check_inputs(inputs, self.shape)
        with _Turn(self, deadline, cancel):
            return text.generate(
                self.model,
                inputs.to(self.device),
                limit=limit,
                stop=stop,
                temperature=temperature,
                generator=generator,
                alive=self._alive,
            )

    def warm_up(self, *, views: int = 3, prompt: int | None = None, batch: int = 1, modes: tuple = ("plain",)) -> None:
        """Choose how to run here, then allocate, compile and capture for requests of this kind.

        On CUDA for prompts of every length and for every number of cameras down to one, so that no graph has to be
        captured in the control loop, not even when a camera dies.
        """
        self.captured.add(batch)
        most = self.shape.prompt_tokens
        prompt = prompt or most
        if not self.cuda:
            self._choose(views * self.shape.vision.tokens + prompt)
        if not self._lanes and (self.compiled or (self.compiled is None and self.cuda)):
            tune.compile_blocks(self.model)
        zeros = torch.zeros(batch, self.shape.horizon, self.shape.action_dim)
        lengths = sorted({*range(BUCKET, most, BUCKET), most}) if self.cuda else [prompt]
        for there, length in product(range(views, 0, -1) if self.cuda else [views], lengths):
            inputs = blank(self.shape, batch=batch, views=there, prompt=length)
            for mode in modes:
                guide = Guide(zeros, zeros) if mode == "guided" else None
                given = Given(zeros, zeros[..., 0].bool()) if mode == "given" else None
                self.sample(inputs, noise=zeros, guide=guide, given=given)

    # ---- inside

    def _choose(self, prefix: int) -> None:
        """How to run on this CPU. Packed weights take what compiling would change out of its hands."""
        self.threads = self.threads or tune.best_threads(self.model, prefix)
        if self.packed is None:
            self.packed = not self.compiled and tune.packing_wins(self.model, prefix)
        if self.packed:
            pack(self.model, prefix)
        if self.compiled is None:
            self.compiled = not self.packed and tune.compiling_wins(self.model, prefix)

    def _lane(self, inputs: Inputs, mode: str) -> Lane:
        # Graphs have one shape each, so lengths are rounded up into buckets; elsewhere nothing is padded.
        bucket = BUCKET if self.cuda else 1
        where = plan(inputs.image_mask, inputs.token_mask, self.shape.vision.tokens, multiple=bucket)
        full = where.full and bucket == 1
        key = Key(len(inputs.tokens), len(where.images), where.index.shape[1], full, mode)
        lane = self._lanes.pop(key, None) or Lane(self, key)
        self._lanes[key] = lane  # the newest last
        while len(self._lanes) > self._most_lanes:
            self._lanes.popitem(last=False)
        lane.plan = where
        return lane


class _Turn:
    """The engine, for one request: waited for within the deadline, given back whatever happens."""

    def __init__(self, engine: Engine, deadline: float | None, cancel: threading.Event | None) -> None:
        self.engine, self.alive = engine, lambda: check_alive(deadline, cancel)

    def __enter__(self) -> None:
        self.alive()
        if self.engine.cuda:
            torch.cuda.set_device(self.engine.device)  # graphs and events are those of the thread's current device
        while not self.engine._lock.acquire(timeout=0.01):
            self.alive()
        self.engine._alive = self.alive
        if self.engine.threads and torch.get_num_threads() != self.engine.threads:
            torch.set_num_threads(self.engine.threads)

    def __exit__(self, *_: object) -> None:
        self.engine._alive = lambda: None
        self.engine._lock.release()


def blank(shape, *, batch: int = 1, views: int = 3, prompt: int | None = None) -> Inputs:
    """Inputs of a shape with nothing in them, all there."""
    prompt, size = prompt or shape.prompt_tokens, shape.vision.image
    return Inputs(
        images=torch.zeros(batch, views, 3, size, size),
        image_mask=torch.ones(batch, views, dtype=torch.bool),
        tokens=torch.zeros(batch, prompt, dtype=torch.int64),
        token_mask=torch.ones(batch, prompt, dtype=torch.bool),
        state=torch.zeros(batch, shape.action_dim),
    )


def padded(inputs: Inputs, count: int) -> Inputs:
    """The same with `count` prompt tokens, those behind its own masked: one buffer for prompts of any length."""
    extra = count - inputs.tokens.shape[1]
    if extra == 0:
        return inputs
    tokens, mask = (torch.nn.functional.pad(x, (0, extra)) for x in (inputs.tokens, inputs.token_mask))
    return replace(inputs, tokens=tokens, token_mask=mask)


def together(requests: Sequence[Inputs]) -> Inputs:
    """One batch of several."""
    longest = max(one.tokens.shape[1] for one in requests)
    requests = [padded(one, longest) for one in requests]
    return Inputs(*(torch.cat([getattr(one, name) for one in requests]) for name in Inputs.__dataclass_fields__))


def check_inputs(inputs: Inputs, shape) -> None:
    """Refuse what would go through the network unnoticed and come out as motion."""
    size = shape.vision.image
    if inputs.images.ndim != 5 or inputs.images.shape[2:] != (3, size, size):
        raise InputError(f"images have the shape {tuple(inputs.images.shape)}, not [B, V, 3, {size}, {size}]")
    if inputs.state.shape != (len(inputs.tokens), shape.action_dim):
        raise InputError(f"the state has the shape {tuple(inputs.state.shape)}, not [B, {shape.action_dim}]")
    if not inputs.image_mask.any(1).all():
        raise InputError("a request without any picture: the policy would move blindly")
    if inputs.tokens.shape[1] > shape.prompt_tokens:
        count = inputs.tokens.shape[1]
        raise InputError(f"{count} tokens of a prompt; {shape.name} reads {shape.prompt_tokens} at most")
    if not inputs.token_mask.any(1).all():
        raise InputError("a request without any token of a prompt")
    if not torch.isfinite(inputs.state).all():
        raise InputError(f"the state is not finite: {inputs.state.tolist()}")
    if not torch.isfinite(inputs.images).all():
        raise InputError("an image has pixels that are not finite")
    if inputs.tokens.min() < 0 or inputs.tokens.max() >= shape.vocabulary:
        raise InputError(f"token {int(inputs.tokens.max())} is outside of the vocabulary of {shape.vocabulary}")
