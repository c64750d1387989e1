"""Trains mini: on one device or in some single-threaded workers, resumable at any moment.

What a step does follows from the recipe, the data, the number of workers and the step's own number, so that a run that
was killed and started again goes through the same curve.
"""

from __future__ import annotations

import datetime
import json
import math
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from pi_policy_node.learn import curves
from pi_policy_node.learn.asked import Asked
from pi_policy_node.learn.dataset import CAMERAS, Demonstrations, moved, names, vocabulary
from pi_policy_node.learn.held import hold
from pi_policy_node.learn.losses import draw, evaluate, glances, losses, right_words
from pi_policy_node.learn.recipe import TrainingRecipe
from pi_policy_node.policy import mini_weights
from pi_policy_node.policy.mini_model import HELD, Mini
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.policy.tensorfile import replace_file
from pi_policy_node.robot import load_robot

CHECKPOINT, WEIGHTS, PICTURE, RUN = "checkpoint.pt", "mini.safetensors", "curves.png", "run.json"


class TrainError(ValueError):
    """A run cannot begin or go on; the message says what would be right."""


@dataclass(frozen=True)
class Run:
    """What is trained, from what, into where."""

    recipe: TrainingRecipe
    files: tuple[Path, ...]  # shards of episodes
    out: Path
    glances: tuple[Path, ...] = ()  # files of pictures with answers
    init: Path | None = None  # weights to begin from
    workers: int = 1
    device: str = "cpu"
    minutes: float = math.inf  # of this call
    compile: bool = False  # with torch.compile: a minute or two before the first step, and shorter steps


@dataclass(frozen=True)
class Progress:
    """What a person hears now and then."""

    step: int
    steps: int
    parts: dict[str, float]  # of the loss, the mean since the last time
    pace: float  # steps per s
    checked: dict[str, float] | None = None  # on unseen episodes, where they were looked at just now


def train(run: Run, report: Callable[[Progress], None]) -> int:
    """Trains until the recipe's steps are done, the minutes are over or somebody interrupts; returns the last step."""
    if run.recipe.glances + run.recipe.looking and not run.glances:
        raise TrainError("the recipe wants pictures with answers: make them with ./pi sim look, and give "
                         "--glances FOLDER (or a recipe with glances 0 and looking 0)")
    run.out.mkdir(parents=True, exist_ok=True)
    run = _agree(run)
    shape = MiniShape()
    robot = load_robot(run.recipe.robot)
    data, asked = Demonstrations(robot, shape, run.files), Asked(robot, shape, run.glances) if run.glances else None
    if run.recipe.held:
        _hold(run, data, asked)
    if run.workers == 1:
        return Worker(run, data, shape, 0, asked).go(report)
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")  # the data are shared, not copied
        others = [context.Process(target=_other, args=(run, data, shape, rank, asked, f"{folder}/meet"), daemon=True)
                  for rank in range(1, run.workers)]
        for process in others:
            process.start()
        _meet(f"{folder}/meet", 0, run.workers)
        try:
            return Worker(run, data, shape, 0, asked).go(report)
        finally:
            dist.destroy_process_group()
            for process in others:
                process.join(5.0)
                process.kill()


def _hold(run: Run, data: Demonstrations, asked: Asked | None) -> None:
    if run.init is None or run.recipe.looking:
        raise TrainError("eyes that are held must come from weights, and have looked enough: give --init FILE, and in "
                         "the recipe looking 0")
    data.pictures.held, of_glances = hold(
        run.init, run.recipe.robot, run.files, run.glances, run.out, run.workers, _looked)
    if asked is not None:
        asked.pictures.held = of_glances


def _looked(done: int, of: int) -> None:
    print(f"what the eyes see: {done} of {of} files", end="\n" if done == of else "\r", flush=True)


def _other(run: Run, data: Demonstrations, shape: MiniShape, rank: int, asked: Asked | None, meeting: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one says when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _meet(meeting, rank, run.workers)
    Worker(run, data, shape, rank, asked).go(lambda progress: None)
    dist.destroy_process_group()


def _meet(file: str, rank: int, count: int) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    patience = datetime.timedelta(days=7)  # a run may be paused over night
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count, timeout=patience)


def _agree(run: Run) -> Run:
    """Goes on with the files that the run began with: a folder that is still being recorded to must not change it."""
    note = run.out / RUN
    wanted = {"recipe": json.loads(json.dumps(asdict(run.recipe))), "workers": run.workers}
    if not note.exists():
        wanted |= {name: [str(f.resolve()) for f in getattr(run, name)] for name in ("files", "glances")}
        replace_file(note, lambda out: out.write(json.dumps(wanted, indent=1).encode()))
        return run
    begun = json.loads(note.read_text())
    differ = [k for k in wanted["recipe"] if begun["recipe"].get(k) != wanted["recipe"][k]]
    differ += ["workers"] * (begun["workers"] != run.workers)
    if differ:
        raise TrainError(f"{run.out} was begun with another {', '.join(differ)}: give another --out "
                         f"(and --init {run.out / WEIGHTS} to begin from its weights)")
    lost = [f for f in begun["files"] + begun["glances"] if not Path(f).is_file()]
    if lost:
        raise TrainError(f"{run.out} was begun with {lost[0]}, which is not there any more")
    return replace(run, **{name: tuple(map(Path, begun[name])) for name in ("files", "glances")})


class Worker:
    """One of the workers; the first one also watches, checks and saves."""

    def __init__(self, run: Run, data: Demonstrations, shape: MiniShape, rank: int, asked: Asked | None = None) -> None:
        self.run, self.recipe, self.data, self.rank, self.asked = run, run.recipe, data, rank, asked
        if run.device == "cpu":
            torch.set_num_threads(1 if run.workers > 1 else max(1, int(os.environ.get("OMP_NUM_THREADS", 1))))
        torch.manual_seed(self.recipe.seed)
        self.words, self.scales = Words(vocabulary(), names()), data.scales()
        self.model = Mini(shape, len(self.words), self.words.named())
        if run.init is not None and not (run.out / CHECKPOINT).exists():
            self._warm_start(run.init)
        self.model.to(run.device, memory_format=torch.channels_last)
        for name, value in self.model.named_parameters():
            value.requires_grad_(not (self.recipe.held and name.split(".")[0] in HELD))
        self._learnt = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.average = {name: value.detach().clone() for name, value in self._learnt.items()}
        decayed = [p for p in self._learnt.values() if p.ndim > 1]
        others = [p for p in self._learnt.values() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.recipe.decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.recipe.rate, betas=(0.9, 0.95), fused=True)
        self._precision = precision(run.device)
        self.step, self.curve, self.checks = 0, [], []
        if (run.out / CHECKPOINT).exists():
            self._resume(run.out / CHECKPOINT)
        weights = data.weights(self.recipe.families, self.recipe.kinds)
        self._chances = np.cumsum(weights / weights.sum())
        unseen = np.flatnonzero(data.validation())
        rng = np.random.default_rng(self.recipe.seed)
        self._unseen = np.sort(rng.permutation(unseen)[: self.recipe.check_frames])
        self._pictures = () if asked is None else np.flatnonzero(asked.validation())[: self.recipe.check_frames]
        self._stop = False
        self._losses, self._glances = losses, glances
        if run.compile:
            self._losses, self._glances = (torch.compile(f, dynamic=False) for f in (losses, glances))

    # ---- the loop

    def go(self, report: Callable[[Progress], None]) -> int:
        begun, sums, count, told = time.monotonic(), {}, 0, time.monotonic()
        if self.rank == 0:
            before = {s: signal.signal(s, self._interrupted) for s in (signal.SIGINT, signal.SIGTERM)}
        self.model.train()
        while self.step < self.recipe.steps:
            parts = self._learn()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            if self.rank == 0:
                self._stop |= time.monotonic() - begun > 60 * self.run.minutes
                checked = None
                if self.step % self.recipe.check_every == 0 or self.step == self.recipe.steps:
                    checked = self._check()
                if self.step % self.recipe.save_every == 0 or checked or self._stop:
                    means = {name: value / count for name, value in sums.items()}
                    self.curve.append((self.step, means))
                    report(Progress(self.step, self.recipe.steps, means, count / (time.monotonic() - told), checked))
                    self.save()
                    sums, count, told = {}, 0, time.monotonic()
            if self._agreed_to_stop():
                break
        if self.rank == 0:
            self.save()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.step

    def _learn(self) -> dict[str, float]:
        recipe, device = self.recipe, self.run.device
        rng = np.random.default_rng([recipe.seed, self.step, self.rank])
        kind = self._precision
        with torch.autocast(device.partition(":")[0], dtype=kind, enabled=kind != torch.float32):
            parts = {} if self.step < recipe.looking else self._do(rng)
            if count := recipe.looked if self.step < recipe.looking else recipe.glances:
                parts |= self._glance(rng, count // self.run.workers)
            total = sum(getattr(recipe.loss, name) * value for name, value in parts.items())
        self.optimizer.zero_grad()
        total.backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self._learnt.values(), recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(self.step)
        self.optimizer.step()
        self.step += 1
        keep = min(recipe.average, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self._learnt.values()), 1 - keep)
        return {name: float(value.detach()) for name, value in parts.items()}

    def _do(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The losses of a batch of everything."""
        share = self.recipe.batch // self.run.workers
        frames = np.searchsorted(self._chances, rng.random(share)).clip(0, len(self.data) - 1)
        asked = round(share * self.recipe.asked)
        batch = self.data.batch(frames, asked, self.words, self.scales, rng=rng).to(self.run.device)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = draw(batch, every=self.data.every, repeats=self.recipe.repeats, latest=self.recipe.latest,
                     generator=generator)
        return self._losses(self.model, batch, moved(noise, self.run.device))

    def _glance(self, rng: np.random.Generator, count: int) -> dict[str, torch.Tensor]:
        """The losses of pictures that are only looked at."""
        batch = self.asked.batch(self.asked.draw(count, rng), self.recipe.questions, self.words, self.scales, rng=rng,
                                 rooms=0 if self.recipe.held else self.recipe.rooms // self.run.workers)
        return self._glances(self.model, batch.to(self.run.device))

    def _share_gradients(self) -> None:
        if self.run.workers == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._learnt.values()]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        put_gradients(self._learnt.values(), flat / self.run.workers)

    def _agreed_to_stop(self) -> bool:
        """All stop at the same step, when the first one says so."""
        if self.run.workers == 1:
            return self._stop
        flag = torch.tensor([float(self._stop)])
        dist.broadcast(flag, 0)
        return bool(flag.item())

    def _interrupted(self, number: int, frame: object) -> None:
        self._stop = True

    # ---- what is kept

    def averaged(self) -> Mini:
        """The model with the averaged weights."""
        model = Mini(self.model.shape, len(self.words), self.words.named()).to(self.run.device)
        model.load_state_dict(self.model.state_dict() | self.average)
        return model.eval()

    def _check(self) -> dict[str, float]:
        model, means = self.averaged(), (self.words, self.scales)
        found = evaluate(model, self.data, self._unseen, *means) if len(self._unseen) else {}
        if len(self._pictures):
            found["words in pictures"] = right_words(model, self.asked, self._pictures, *means)
        self.checks.append((self.step, found))
        return found

    def save(self) -> None:
        """The checkpoint, the weights to ship, and the curves; each whole or not at all."""
        out = self.run.out
        state = {"step": self.step, "model": self.model.state_dict(), "average": self.average,
                 "optimizer": self.optimizer.state_dict(), "curve": self.curve, "checks": self.checks}
        replace_file(out / CHECKPOINT, lambda file: torch.save(state, file))
        about = {"step": str(self.step), "episodes": str(len(self.data.instructions)), "frames": str(len(self.data)),
                 "recipe": json.dumps(asdict(self.recipe), sort_keys=True)}
        mini_weights.save(out / WEIGHTS, mini_weights.Weights(
            self.averaged(), self.words, self.scales, CAMERAS, self.data.robot.action_names, about))
        panels: dict[str, list[tuple[float, float]]] = {}
        for name, points in (("loss: ", self.curve), ("unseen: ", self.checks)):
            for step, values in points:
                for key, value in values.items():
                    panels.setdefault(name + key, []).append((step, value))
        curves.draw(out / PICTURE, {title: curves.smooth(points) for title, points in panels.items()})

    def _resume(self, file: Path) -> None:
        state = torch.load(file, map_location=self.run.device, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.average = {name: state["average"][name] for name in self.average}
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve, self.checks = state["step"], state["curve"], state["checks"]

    def _warm_start(self, file: Path) -> None:
        """Weights, and the scales that belong to them."""
        given = mini_weights.load(file)
        if given.model.shape != self.model.shape:
            raise TrainError(f"{file} has another shape than what is trained")
        if given.words.words != self.words.words:
            raise TrainError(f"{file} knows other words than the tasks of today: train from the beginning")
        self.scales = given.scales
        self.model.load_state_dict(given.model.state_dict())


def precision(device: str) -> torch.dtype:
    """bfloat16, but on CPUs without instructions for it, which take ten times as long as with float32.

    By what the CPU says of itself, not by a measurement: a run that goes on must not go on in another precision.
    """
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if device != "cpu" or able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def put_gradients(parameters: Iterable[torch.nn.Parameter], flat: torch.Tensor) -> None:
    """Gradients one behind the other into the parameters, each laid out as its parameter is in memory: the fused AdamW
    goes through both without asking how they lie, and would give one weight the gradient of another."""
    at = 0
    for p in parameters:
        p.grad = torch.empty_like(p).copy_(flat[at : at + p.numel()].view(p.shape))
        at += p.numel()


def shards(folders: Sequence[Path]) -> tuple[Path, ...]:
    """All files of episodes under some folders that were recorded to."""
    from pi_policy_node.learn import episodes

    return tuple(file for folder in folders for file in episodes.shards(folder))
