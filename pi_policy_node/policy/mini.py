"""mini in charge of a robot: the small policy that ships with this repository."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pi_policy_node.policy import mini_weights
from pi_policy_node.policy import mini_plans as plans
from pi_policy_node.policy.base import InputError, Observation, PolicyError, Prefix, Result, check_alive
from pi_policy_node.policy.mini_eyes import EYES, POINTING, directions, eye_shape, fit
from pi_policy_node.policy.mini_memory import Asked, Doing, Unsaid
from pi_policy_node.policy.mini_next import SURFACES, Chooser, Next
from pi_policy_node.policy.mini_rows import hands, origin, perceived, settle, to_rows
from pi_policy_node.policy.mini_scene import PAD, Look, spotted
from pi_policy_node.policy.mini_steady import JUMP, SURE, Steady
from pi_policy_node.policy.mini_words import DONE, DRIVE, PICK, PLACES, THEN, split
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import Kinematics, Robot

FARTHEST = 1000.0  # rad, m or m/s: anything beyond it is a broken message, not a robot
RESTLESS = 0.5  # spread of the noise where a subtask does not come to its end
SHOULDER = "link2"  # where an arm begins to reach out
AWAY, AGAIN = 0.06, 3.0  # m from home at which hands hide nothing; s after which it is done though they are not there
HOLDS = 3.0  # s for which what has no known place is held, to see whether it gets one
STALE = 1.0  # s after which nothing is done any more as it was chosen, before it has been looked at anew
DRAWER = "the drawer"  # the last words of those in which a drawer is moved


class MiniPolicy:
    """Pictures, a state and words -> rows, the words of the subtask, and how far it is. One thread at a time."""

    takes_subtask = True  # `Observation.subtask` is not mixed up with the prompt
    understood = ("sentences like 'put the red block in the blue bin', 'stack the ball on the brick', 'move the ball next "
                  "to the prism', 'open the drawer', 'drive to the counter', 'clear the table' (docs/tasks.md)")

    def __init__(
        self,
        robot: Robot,
        *,
        weights: str | Path | None = None,
        steps: int = 5,
        subtask_every: float = 0.4,
        spread: float = 0.0,
        doubt: float = 4.0,
        stay: float = 1.0,
        patience: float = 6.0,
        threads: int = 1,
        seed: int | None = None,
    ) -> None:
        """weights: a file of them; None = those that are shipped. steps: of Euler. subtask_every: s between two looks
        at what is to be done next; a new instruction is looked at at once. spread: of the noise that chunks are made
        of: 1 as in training; 0, the middle of what could be done, so that one thought is like the next. doubt: nats
        that "done" must be likelier than anything else, a quarter of it where the one thing that the
        instruction names has just been put down: said too soon it ends the task, said later it is asked for again.
        stay: nats that another subtask must be likelier than the one in hand: where several would be as good to begin
        with, it stays with one. patience: s with one subtask (driving apart), after which chunks are made of
        noise: where there are two ways, the middle of them may be to stand still.
        threads: torch's in this process, from `warm_up` on, 0 = as they are; with more than one, each product waits for
        the slowest on a busy machine. seed: the noise's, for repeatable answers.
        """
        file = mini_weights.SHIPPED if weights is None else Path(weights)
        if not file.is_file():
            raise PolicyError(f"mini has no weights in {file}: make them with ./pi train mini, or give weights:=FILE")
        if steps < 1:
            raise PolicyError(f"steps must be 1 or more, not {steps}")
        if not 0 <= doubt < np.inf:
            raise PolicyError(f"doubt must be 0 or more, not {doubt}")
        if not 0 <= stay < np.inf:
            raise PolicyError(f"stay must be 0 or more, not {stay}")
        if not 0 <= patience:
            raise PolicyError(f"patience must be 0 or more, not {patience}")
        if not 0 <= spread <= 1:
            raise PolicyError(f"spread must be between 0 and 1, not {spread}")
        loaded = mini_weights.load(file)
        if robot.action_names != loaded.actions:
            raise PolicyError(f"{file} was trained on another robot: on {', '.join(loaded.actions[:3])}…, and "
                              f"{robot.name} has {', '.join(robot.action_names[:3])}…")
        names = {camera.name: camera for camera in robot.cameras}
        if missing := [name for name in loaded.cameras.values() if name not in names]:
            raise PolicyError(f"{file} needs {', '.join(missing)}; {robot.name} has {', '.join(names) or 'no camera'}")
        self.robot, self.model, self.words, self.scales = robot, loaded.model, loaded.words, loaded.scales
        self.name, self.dt = "mini", robot.dt
        shape = self.model.shape
        self._every = round(shape.knot / robot.dt)
        if abs(self._every * robot.dt - shape.knot) > 1e-6:
            raise PolicyError(f"mini's knots are {shape.knot} s apart, which is no multiple of {robot.name}'s dt")
        self.horizon = min(robot.horizon, (shape.knots - 1) * self._every + 1)
        self.cameras = tuple(dict.fromkeys(loaded.cameras.values()))
        self._eyes = {eye: names[camera] for eye, camera in loaded.cameras.items()}
        self._kinematics = Kinematics(robot)
        self._tools = [group.name for group in robot.groups if group.kind == "arm"]
        self._home = self._kinematics.tools(robot.home)
        shoulders = [self._kinematics.link_pose(robot.home, arm.replace("arm", SHOULDER))[:3, 3] for arm in self._tools]
        self.chooser = Chooser(self.model, self.words, shoulders, doubt=doubt, stay=stay)
        self._steps, self._subtask_every, self._spread, self._threads = steps, subtask_every, spread, threads
        self._patience = patience
        self._generator = torch.Generator()
        self._generator.seed() if seed is None else self._generator.manual_seed(seed)
        self._asked, self._doing, self._steady = Asked(), Doing(), Steady()
        self._unsaid: Unsaid | None = None
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """One inference of each sort: what torch makes on first use is made."""
        if self._threads:
            torch.set_num_threads(self._threads)
        image = {name: np.zeros((72, 96, 3), np.uint8) for name in self.cameras}
        self.infer(Observation(image, self.robot.home, "put the red block in the blue bin", 0.0))
        self.afterwards()
        self.reset()

    def reset(self) -> None:
        """A new task begins: what is to be done next is looked at anew."""
        with self._lock:
            self._asked, self._doing, self._steady, self._unsaid = Asked(), Doing(), Steady(), None

    def afterwards(self) -> None:
        """What can wait until an answer is out: to choose what is next. The next answer knows it; where nobody has
        called this, it begins with that."""
        with self._lock, torch.inference_mode():
            self._say_now()

    def reseed(self, seed: int) -> None:
        """The noise's beginning, so that an episode does not depend on those before it."""
        self._generator.manual_seed(seed)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that it does not know and that may matter."""
        return self.words.unknown(text)

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
        state = self._checked(obs)
        with self._lock, torch.inference_mode():
            pictures, there = self._pictures(obs)
            prepared = time.monotonic()
            seen = self.model.look(pictures)
            looked = time.monotonic()
            subtask, arm, told = self._choose(obs, seen, there, state)
            chosen = time.monotonic()
            check_alive(deadline, cancel)
            spread = max(self._spread, RESTLESS * self._lasts(subtask, obs.stamp))
            knots, progress = self._act([obs.prompt], [subtask], [arm], [prefix], seen, there, state[None], spread,
                                        obs.stamp)
            rows = self._rows(knots[0], prefix, subtask, state)
        now = time.monotonic()
        timing = {"prepare": prepared - started, "look": looked - prepared, "say": chosen - looked,
                  "act": now - chosen, "total": now - started}
        far = float(progress[0]) if told == subtask else math.nan
        return Result(actions=rows, subtask=told, progress=far, timing=timing)

    def infer_batch(self, requests: Sequence) -> list[Result]:
        """Several robots at once; what is next is looked at each time, for nothing is remembered between them."""
        started = time.monotonic()
        observations = [request.observation for request in requests]
        states = np.stack([self._checked(obs) for obs in observations])
        with self._lock, torch.inference_mode():
            made = [self._pictures(obs) for obs in observations]
            seen = self.model.look({eye: torch.cat([one[0][eye] for one in made]) for eye in EYES})
            there = torch.cat([one[1] for one in made])
            subtasks, arms = [obs.subtask for obs in observations], [-1] * len(observations)
            if not all(subtasks):
                said = self._say([obs.prompt for obs in observations], seen, there, states)
                chosen = [Next(told) if told else own for told, own in zip(subtasks, said)]
                subtasks, arms = [one.subtask for one in chosen], [one.arm for one in chosen]
            prefixes = [request.prefix for request in requests]
            knots, progress = self._act([obs.prompt for obs in observations], subtasks, arms, prefixes, seen, there,
                                        states, self._spread)
        timing = {"total": time.monotonic() - started}
        return [Result(self._rows(k, p, subtask, state), subtask, float(far), dict(timing))
                for k, p, subtask, state, far in zip(knots, prefixes, subtasks, states, progress)]

    # ---- what goes in

    def _checked(self, obs: Observation) -> np.ndarray:
        state = np.asarray(obs.state, dtype=np.float64)
        if state.shape != (len(self.robot.action_names),) or not np.isfinite(state).all():
            raise InputError(f"the state must be {len(self.robot.action_names)} finite numbers")
        if (absurd := np.abs(state) > FARTHEST).any():
            name = self.robot.action_names[int(np.argmax(absurd))]
            raise InputError(f"{name} is {state[np.argmax(absurd)]:g}; no joint is beyond {FARTHEST:g}")
        if not any(name in obs.images for name in self.cameras):
            raise InputError(f"mini needs a picture of at least one of {', '.join(self.cameras)}")
        if not split(obs.prompt) and not split(obs.subtask):
            raise InputError("mini was told nothing to do")
        return state

    def _pictures(self, obs: Observation) -> tuple[dict[str, Tensor], Tensor]:
        """[1, 3, h, w] in -1..1 by eye, and [1, eyes] which there are."""
        made, seen = {}, []
        shape: MiniShape = self.model.shape
        for eye in EYES:
            kind, camera = eye_shape(shape, eye), self._eyes[eye]
            image = obs.images.get(camera.name)
            seen.append(image is not None)
            if image is None:
                made[eye] = torch.zeros(1, 3, kind.rows[1] - kind.rows[0], kind.width)
                continue
            image = np.ascontiguousarray(fit(unboxed(image, camera.width / camera.height), kind))
            made[eye] = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        return made, torch.tensor([seen])

    def _look(self, prompts: list[str], subtasks: list[str], arms: list[int], there: Tensor,
              states: np.ndarray) -> Look:
        """All but the pictures."""
        found = self._kinematics.tools(states)
        tools = np.stack([found[arm] for arm in self._tools], 1)  # [B, 2, 3]
        full = np.concatenate((perceived(self.robot, states), tools.reshape(len(states), -1)), 1)
        poses = np.stack([self._kinematics.link_pose(states, self._eyes[eye].frame)[:, :3] for eye in POINTING], 1)
        return Look({}, there, torch.from_numpy(self.scales.state_in(full)), torch.from_numpy(poses).float(),
                    torch.from_numpy(tools).float(), self.words.rows(prompts), self.words.rows(subtasks),
                    torch.tensor(arms))

    # ---- what comes out

    def _choose(self, obs: Observation, seen: dict[str, Tensor], there: Tensor, state: np.ndarray) -> tuple[
            str, int, str]:
        """The subtask in words, and by which arm: what somebody said, else what the network says now and then; and what
        to say that it is."""
        if obs.subtask:
            self._asked, self._unsaid = Asked(told=obs.subtask), None  # not said any more, it is chosen afresh
            return obs.subtask, -1, obs.subtask
        if self._unsaid and (self._unsaid.prompt != obs.prompt or not 0 <= obs.stamp - self._unsaid.stamp < STALE):
            self._unsaid = None  # nobody asks for that any more
        self._say_now()
        asked = self._asked
        anew = asked.prompt != obs.prompt or not 0 <= obs.stamp - asked.at < STALE
        if anew or obs.stamp - asked.at > self._subtask_every - 1e-6:
            lasts = obs.stamp - self._doing.since if asked.next.subtask == self._doing.subtask else 0.0
            self._unsaid = Unsaid(obs.prompt, obs.stamp, lasts, seen, there, state)
        if anew:
            self._say_now()
        return self._asked.next.subtask, self._asked.next.arm, self._asked.told

    def _say_now(self) -> None:
        """Chooses what is next, where that has been put off."""
        if self._unsaid is None:
            return
        asked, look = self._asked, self._unsaid
        doing = asked.next if asked.prompt == look.prompt and asked.at <= look.stamp else Next()
        said, = self._say([look.prompt], look.seen, look.there, look.state[None], doing, look.lasts)
        told, since = said.subtask, np.inf
        last = asked.told if asked.prompt in ("", look.prompt) else ""
        if said.subtask == DONE and last.startswith((PICK, THEN)) and not self.chooser.names_one(look.prompt):
            since = min(asked.since, look.stamp)
            if look.stamp - since < AGAIN and not self._hands_are_away(look.state):
                told = last
        self._asked, self._unsaid = Asked(look.prompt, said, look.stamp, told, since), None

    def _hands_are_away(self, state: np.ndarray) -> bool:
        """Whether they are about home, where they hide nothing: of many things one may lie behind a hand."""
        here = self._kinematics.tools(state)
        return all(math.dist(here[arm], self._home[arm]) < AWAY for arm in self._tools)

    def _say(self, prompts: list[str], seen: dict[str, Tensor], there: Tensor, states: np.ndarray,
             doing: Next = Next(), lasts: float = 0.0) -> list[Next]:
        """What is to be done next. doing, lasts: what one robot alone does now, and for how long it has [s]."""
        look = self._look(prompts, [""] * len(prompts), [-1] * len(prompts), there, states)
        return self.chooser.choose(look, seen, prompts, states[:, self.robot.is_gripper], doing, lasts)

    def _lasts(self, subtask: str, stamp: float) -> bool:
        """Whether a subtask has taken longer than there is patience for."""
        if subtask != self._doing.subtask or subtask == DONE or subtask.startswith(DRIVE) or stamp < self._doing.since:
            self._doing = Doing(subtask, stamp)
        return stamp - self._doing.since > self._patience

    def _act(self, prompts: list[str], subtasks: list[str], arms: list[int], prefixes: list[Prefix | None],
             seen: dict[str, Tensor], there: Tensor, states: np.ndarray,
             spread: float, stamp: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Knots [B, K, A] in the robot's units and progress [B] in 0..1. stamp: where one robot alone looks, when."""
        shape = self.model.shape
        at = origin(self.robot, states)
        known = np.zeros((len(states), shape.knots, shape.action_dim))
        given = np.zeros(known.shape[:2], bool)
        for row, prefix in enumerate(prefixes):
            if prefix is not None and len(prefix.rows):  # told more of them, it goes on as they do, right or wrong
                known[row, 0], given[row, 0] = prefix.rows[0], True
        look = self._look(prompts, subtasks, arms, there, states)
        look.ways, look.hands = hands(self.robot, self._kinematics, states)
        found, _ = self.model.find(look, seen, acting=True)
        steady = None
        if stamp is not None and subtasks[0].startswith((PICK, THEN)):
            place, turn, sure = self.model.place(look, found)
            doing = self._asked.next if subtasks[0] == self._asked.next.subtask else Next()
            seen_at = place[0].numpy() + doing.aside
            seen_at[:2] = doing.spot or seen_at[:2]
            steady = self._steady.take(subtasks[0], seen_at, float(sure[0]), stamp)
            found = replace(found, spots=spotted(look.cameras, torch.from_numpy(steady).float()[None, None]))
        scene = self.model.aim(look, found, drop=bool((look.subtask != PAD).all()))
        noise = spread * torch.randn(known.shape, generator=self._generator)
        told = self.scales.knots_in(known, at) * ~self.robot.is_base  # see `perceived`
        chunk = self.model.act(scene, noise, steps=self._steps, known=torch.from_numpy(told),
                               given=torch.from_numpy(given)).numpy().astype(np.float64)
        chunk = self.scales.knots_out(chunk, at)
        fingers = self.robot.is_gripper  # at rest they are where they are, or hold what is between them
        rest = np.where((states > plans.HELD[0]) & (states < plans.HELD[1]), plans.GRIPS, states)[:, fingers]
        chunk[:, 0, fingers] = np.where(given[:, :1], chunk[:, 0, fingers], rest)
        if steady is not None:
            picks = subtasks[0].startswith(PICK)
            chunk[0] = plans.drawn(self.robot, self._kinematics, chunk[0], steady, picks)
            lasts, lost = stamp - self._doing.since, stamp - self._steady.lost
            knows = self._steady.knows or min(lasts, lost) < HOLDS
            if picks or knows and subtasks[0] not in SURFACES:  # of these no eye is sure, and anywhere will do
                low = np.r_[steady[:2], self._steady.lay if picks else steady[2]]
                chunk[0] = plans.lowered(self.robot, self._kinematics, chunk[0], states[0], low, picks,
                                         self._steady.knows, lasts < self._patience)
            if picks and sure[0] >= SURE and math.dist(seen_at[:2], steady[:2]) < JUMP:
                chunk[0] = plans.faced(self.robot, self._kinematics, chunk[0], states[0], steady,
                                       directions(turn[0].numpy()))
        elif stamp is not None and subtasks[0].endswith(DRAWER):
            chunk[0] = plans.pulled(self.robot, self._kinematics, chunk[0], states[0])
        elif stamp is not None and subtasks[0].startswith(DRIVE) and (place := subtasks[0].split()[-1]) in PLACES:
            chunk[0] = plans.docked(self.robot, chunk[0], shape.knot, found.room[0, PLACES.index(place)].numpy())
        knots = np.where(given[..., None], known, chunk)
        return knots, self.model.tell(scene)["progress"].clamp(0, 1).numpy()

    def _rows(self, knots: np.ndarray, prefix: Prefix | None, subtask: str, state: np.ndarray) -> np.ndarray:
        """[H, A]; committed rows come back as they were."""
        rows = to_rows(knots, self._every, self.horizon)
        if not subtask.startswith(DRIVE):
            rows[:, self.robot.is_base] = 0.0
        rows[:, self.robot.is_gripper] = rows[:, self.robot.is_gripper].clip(0.0, 1.0)
        return settle(self.robot, rows, None if prefix is None else prefix.rows, state)


def unboxed(image: np.ndarray, aspect: float) -> np.ndarray:
    """A picture without the black bars that it was letterboxed with, if it was."""
    height, width = image.shape[:2]
    tall, wide = min(height, round(width / aspect)), min(width, round(height * aspect))
    top, left = (height - tall) // 2, (width - wide) // 2
    return np.ascontiguousarray(image[top : top + tall, left : left + wide])
