"""A checkpoint as a policy for a robot: transforms, engine and real-time chunking put together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pi_policy_node.policy import checkpoint as checkpoints
from pi_policy_node.policy import tune
from pi_policy_node.policy.base import Observation, PolicyError, Prefix, Result, check_alive
from pi_policy_node.policy.embodiment import Embodiment, from_robot, load_embodiment
from pi_policy_node.policy.engine import Engine, together
from pi_policy_node.policy.lane import Given
from pi_policy_node.policy.model import Inputs
from pi_policy_node.policy.rtc import Ensemble, Guide, soft_mask
from pi_policy_node.policy.tokenizer import Tokenizer
from pi_policy_node.policy.transforms import Transforms
from pi_policy_node.robot import Robot

CHUNKING = ("guided", "trained", "none", "ensemble")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class VlaPolicy:
    """A pi0 or pi05 checkpoint in charge of a robot."""

    def __init__(
        self,
        robot: Robot,
        *,
        checkpoint: str | Path,
        tokenizer: str | Path | None = None,
        embodiment: str | Path | None = None,
        preset: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        steps: int = 10,
        chunking: str = "guided",
        subtask_every: float = 0.0,
        seed: int | None = None,
    ) -> None:
        """tokenizer: the sentencepiece file; None = the one beside the checkpoint. embodiment: a name or file; None =
        the robot's own columns in their order. device, dtype: None = CUDA in bfloat16 where there is one, else the
        CPU in whichever is faster. chunking: "guided" for any checkpoint, "trained" for one trained with clean
        prefixes, "none" to start each chunk afresh, "ensemble" to average overlapping chunks. subtask_every: seconds
        between asking the language head what it is doing, 0 = never. seed: the noise's, for repeatable answers.
        """
        if chunking not in CHUNKING:
            raise PolicyError(f"chunking is {chunking!r}; it can be {', '.join(CHUNKING)}")
        if dtype is not None and dtype not in DTYPES:
            raise PolicyError(f"dtype is {dtype!r}; it can be {', '.join(DTYPES)}")
        path = Path(checkpoint)
        folder = path if path.is_dir() else path.parent
        self.robot, self.chunking = robot, chunking
        made_for = from_robot(robot) if embodiment is None else load_embodiment(embodiment)
        self._columns = {
            "state": _columns(made_for, made_for.state.names, robot),
            "actions": _columns(made_for, made_for.actions.names, robot),
        }
        words = Tokenizer.beside(folder) if tokenizer is None else Tokenizer(tokenizer)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        shape = checkpoints.inspect(path, preset=preset).shape
        self._views = len(made_for.cameras)
        kind = DTYPES.get(dtype or "") or _fitting_dtype(shape, device, self._views)
        loaded = checkpoints.load(path, preset=preset, dtype=kind, device=device, asset=made_for.asset)
        if embodiment is not None:  # rows in a chunk are not in the weights: who trained it knows
            loaded.model.shape = replace(loaded.shape, horizon=made_for.horizon)
        self.transforms = Transforms(made_for, loaded.model.shape, loaded.statistics, words)
        self.engine = Engine(loaded.model, steps=steps)
        self.name = f"{loaded.shape.name} ({path.name})"
        self.dt = robot.dt
        self.horizon = _rows(loaded.model.shape.horizon, made_for.dt, robot.dt)
        self._ensemble = Ensemble(dt=robot.dt)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._subtask, self._subtask_every, self._said_at = "", subtask_every, float("-inf")

    def warm_up(self) -> None:
        mode = {"guided": "guided", "trained": "given"}.get(self.chunking)
        self.engine.warm_up(views=self._views, prompt=20, modes=("plain", mode) if mode else ("plain",))

    def reset(self) -> None:
        """A new task begins: nothing of the old one may be averaged in."""
        self._ensemble.reset()
        self._subtask, self._said_at = "", float("-inf")

    def infer(
        self,
        obs: Observation,
        *,
        prefix: Prefix | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Result:
        check_alive(deadline, cancel)
        started = time.monotonic()
        state, inputs = self._inputs(obs)
        noise = self._noise(1)
        prepared = time.monotonic() - started
        chunking = self._chunking([prefix], [state])
        actions = self.engine.sample(inputs, noise=noise, deadline=deadline, cancel=cancel, **chunking)
        timing = dict(self.engine.timing) | {"prepare": prepared}
        rows = self._absolute(actions[0].numpy(), state)
        if self.chunking == "ensemble":
            rows = self._ensemble.add(obs.stamp, rows)
        rows = _committed(rows, prefix)
        if self._subtask_every and started - self._said_at >= self._subtask_every:
            said = self.engine.say(inputs, stop=self.transforms.tokenizer.stop, deadline=deadline, cancel=cancel)
            self._subtask, self._said_at = self.transforms.tokenizer.text(said[0]), started
        timing["total"] = time.monotonic() - started
        return Result(actions=rows, subtask=self._subtask, timing=timing)

    def infer_batch(self, requests: Sequence) -> list[Result | Exception]:
        """Several robots at once: one pass for all of them. Nothing is remembered between robots, so chunks are not
        averaged, and nothing is asked of the language head. What cannot be answered has its own error.

        requests: with `observation`, `prefix`, `deadline` and `cancel`, as `infer` takes them.
        """
        started = time.monotonic()
        answers: list[Result | Exception | None] = [None] * len(requests)
        ready: list[tuple[int, np.ndarray, Inputs]] = []
        for i, request in enumerate(requests):
            try:
                check_alive(request.deadline, request.cancel)
                ready.append((i, *self._inputs(request.observation)))
            except PolicyError as error:
                answers[i] = error
        if not ready:
            return answers
        asked = [requests[i] for i, *_ in ready]
        states = [state for _, state, _ in ready]
        limits = [request.deadline for request in asked]
        actions = self.engine.sample(
            together([inputs for *_, inputs in ready]),
            noise=self._noise(len(ready)),
            deadline=None if None in limits else max(limits),
            cancel=_All([request.cancel for request in asked]),
            **self._chunking([request.prefix for request in asked], states),
        )
        timing = dict(self.engine.timing) | {"total": time.monotonic() - started}
        for (i, state, _), request, one in zip(ready, asked, actions.numpy()):
            answers[i] = Result(_committed(self._absolute(one, state), request.prefix), timing=dict(timing))
        return answers

    # ---- the robot's rows and the model's

    def _inputs(self, obs: Observation) -> tuple[np.ndarray, Inputs]:
        state = np.asarray(obs.state, dtype=np.float64)
        return state, self.transforms.inputs(obs.images, state[self._columns["state"]], obs.prompt)

    def _noise(self, batch: int) -> torch.Tensor:
        shape = self.engine.shape
        return torch.randn(batch, shape.horizon, shape.action_dim, generator=self._generator)

    def _chunking(self, prefixes: list[Prefix | None], states: list[np.ndarray]) -> dict:
        """The previous chunks, as the engine wants them: absolute rows made relative to the state of now."""
        if self.chunking in ("none", "ensemble") or not any(p is not None and len(p.rows) for p in prefixes):
            return {}
        shape = self.engine.shape
        rows = torch.zeros(len(states), shape.horizon, shape.action_dim)
        first = torch.zeros(rows.shape[:2], dtype=torch.bool)
        weight = torch.zeros_like(rows)
        for i, (prefix, state) in enumerate(zip(prefixes, states)):
            if prefix is None or len(prefix.rows) == 0:
                continue
            known, committed = self._known(prefix)
            normal = self.transforms.rows_in(known, state[self._columns["actions"]])
            rows[i, : len(known)] = torch.from_numpy(normal)
            first[i, :committed] = True
            mask = soft_mask(shape.horizon, committed, len(known))
            weight[i, :, : known.shape[1]] = torch.from_numpy(mask)[:, None].float()
        return {"given": Given(rows, first)} if self.chunking == "trained" else {"guide": Guide(rows, weight)}

    def _known(self, prefix: Prefix) -> tuple[np.ndarray, int]:
        """What is left of the previous chunk, in the model's columns and at its rate, and how much is committed."""
        step = self.transforms.embodiment.dt
        every = prefix.rows if prefix.planned is None else np.concatenate((prefix.rows, prefix.planned))
        known = _resample(every[:, self._columns["actions"]], self.dt, step)[: self.engine.shape.horizon]
        return known, min(_rows(len(prefix.rows), self.dt, step), len(known))

    def _absolute(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The network's actions -> rows [H, A]. What the checkpoint does not command stays; a base stands."""
        rows = self.transforms.rows_out(actions, state[self._columns["actions"]])
        rows = _resample(rows, self.transforms.embodiment.dt, self.dt)
        out = np.where(self.robot.is_base, 0.0, state)[None].repeat(len(rows), 0)
        out[:, self._columns["actions"]] = rows
        return out


@dataclass
class _All:
    """Set when all of them are: a batch is given up only when nobody waits for any of it."""

    events: list[threading.Event]

    def is_set(self) -> bool:
        return all(event.is_set() for event in self.events)


def _committed(rows: np.ndarray, prefix: Prefix | None) -> np.ndarray:
    """What runs whatever we say comes back as it was."""
    if prefix is not None:
        count = min(len(prefix.rows), len(rows))
        rows[:count] = prefix.rows[:count]
    return rows


def _columns(embodiment: Embodiment, names: tuple[str, ...], robot: Robot) -> list[int]:
    missing = [name for name in names if name not in robot.action_names]
    if missing:
        raise PolicyError(
            f"the embodiment {embodiment.name} has {', '.join(missing[:4])}, which the robot {robot.name} has not; "
            f"the robot's are {', '.join(robot.action_names)}"
        )
    return [robot.action_names.index(name) for name in names]


def _fitting_dtype(shape, device: str, views: int) -> torch.dtype:
    if device.startswith("cuda"):
        return torch.bfloat16
    return tune.best_dtype(shape, views * shape.vision.tokens + shape.prompt_tokens)


def _rows(count: int, dt: float, other: float) -> int:
    """How many rows `other` apart lie within `count` rows that are dt apart."""
    return int((count - 1) * dt / other + 1e-6) + 1


def _resample(rows: np.ndarray, dt: float, other: float) -> np.ndarray:
    """Rows dt apart -> rows `other` apart from the same first one on, straight lines between."""
    if abs(dt - other) < 1e-9 or len(rows) == 0:
        return rows
    times, wanted = np.arange(len(rows)) * dt, np.arange(_rows(len(rows), dt, other)) * other
    return np.stack([np.interp(wanted, times, column) for column in rows.T], axis=1)
