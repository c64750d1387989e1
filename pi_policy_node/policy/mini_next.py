"""What mini does next: what its network says, unless its eyes and fingers know better; and by which arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pi_policy_node.policy.mini_model import Mini
from pi_policy_node.policy.mini_plans import HELD, OPEN
from pi_policy_node.policy.mini_scene import PAD, Found, Look, Scene, placed
from pi_policy_node.policy.mini_words import DONE, DRIVE, PICK, PLACES, THEN, Words, split

NEXT_TO, SIDES = "next to the", ("to the left of the", "to the right of the")  # either will do: one is chosen
ROOM, OWN = 0.08, 0.05  # m from other things that is enough, and within which what is noticed is the thing itself
SURE = 0.7  # of what is where: an eye that is less sure does not choose the arm, nor judge
LOOKED = 1.0  # s after which an arm is chosen all the same, by the thing alone: with none to go by hands do not move
REACHED = 0.52  # m from the shoulder, seen from above, at working height
KEEP = 0.1  # m that the other arm must be nearer, to be taken instead
NAMED = 0.25  # of the doubt that all is done, where one named thing has just been put down: it is seen better than all
THERE, ASTRAY = 0.03, 0.09  # m beside its place, seen from above: a thing so near has arrived, one so far has not
AMONG = 0.075  # m, of one of several in a container
# Where one thing after another goes in a container, from its middle, seen from the robot; m aside on what is flat, and
# m aside and higher in a bin, where things lie on each other.
SLOTS = (0, 0), (-1, 0), (1, 0), (0, 1), (0, -1)
ASIDE, ASIDE_IN_BIN, HIGHER = 0.04, 0.03, 0.02
ONTO, INTO, FLAT, BIN = f"{THEN} on the", f"{THEN} in the", ("tray", "plate"), "bin"
SURFACES = f"{ONTO} table", f"{ONTO} counter"
_DRIVES = tuple(f"{DRIVE} to the {place}" for place in PLACES)
ABOUT = tuple((x, y) for x in (0.0, -0.04, 0.04) for y in (0.0, -0.04, 0.04, -0.08, 0.08, -0.12, 0.12))
TETHER = 0.3  # m of room that it must have more, per m that a spot is farther from where it would be put
AT_HAND = 0.1  # m from the tool to what it may hold: what is seen farther away surely is not in it
RISEN = 0.03  # m that a hand has to rise from what it has let go
SEEN, UNSEEN = 2.0, 0.01  # how much it counts that the front eye sees a thing, and what it counts as if it does not
FEW = 4  # likeliest things that are looked at once more
STAYS, TIRES = 4.0, 10.0  # nats that another thing must be likelier, and s after which it may be as much less likely
GLIMPSE = 0.1  # of how surely the front eye sees a thing: what it sees less it does not see
DIM = 4  # looks in a row at which a thing that is picked up may not be seen, before another one is looked for
BLIND = 5  # looks in a row at which nothing is seen that could be picked up, after which that may be all


class Next(NamedTuple):
    """A subtask, and what it is about."""

    subtask: str = ""
    arm: int = -1  # that is to pick up; -1: either
    pick: str = ""  # the words of picking up the thing that it is about
    then: str = ""  # and of putting it down
    put: tuple[tuple[str, str], ...] = ()  # things that were put down until now, or are just being, and in which words
    dim: int = 0  # looks in a row at which what is picked up, of many things, was not seen
    blind: int = 0  # looks in a row at which none of what could be picked up was seen
    holder: int = -1  # the arm that has held what it puts down; -1: none has yet
    left: tuple[float, ...] = ()  # m: where that let go of it
    known: bool = False  # whether a look has surely seen where it is put down, or anywhere will do
    thens: tuple[str, ...] = ()  # in which words it would be put down, of many things, by one look after another
    aside: tuple[float, ...] = (0.0, 0.0, 0.0)  # m from the middle of the container in which it is put down
    spot: tuple[float, ...] = ()  # m, seen from above: where it is put down, whatever the eyes say; (): what they say


class _Now(NamedTuple):
    """What one robot sees, and what it makes of it."""

    look: Look
    seen: dict[str, Tensor]
    found: Found
    scene: Scene
    openings: np.ndarray  # [arms] of its hands
    lasts: float  # s that it has been doing what it does


class Chooser:
    """Says what is next."""

    def __init__(self, model: Mini, words: Words, shoulders: Sequence[np.ndarray], *, doubt: float, stay: float) -> None:
        """shoulders: of each arm [3], in the base's frame. doubt, stay: as `MiniPolicy` has them."""
        self.model, self.words, self.shoulders = model, words, shoulders
        done = torch.zeros(len(words))
        done[words.encode(DONE)] = 1.0
        self._doubt, self._stay = doubt * done, stay
        self._picks = [name for name in words.names if name.startswith(PICK)]
        self._named = [words.names.index(name) for name in self._picks]
        self._tokens = words.rows([*self._picks, DONE])
        self.things = {name.split()[-1] for name in self._picks}

    def choose(self, look: Look, seen: dict[str, Tensor], prompts: Sequence[str], openings: np.ndarray,
               before: Next = Next(), lasts: float = 0.0) -> list[Next]:
        """For every robot that looks. openings [B, arms]: of their hands. before, lasts: what one robot alone does
        now, and for how long it has [s]."""
        found = self.model.find(look, seen)[0]
        scene = self.model.see(look, found, drop=bool((look.instruction != PAD).all()))
        said = self._words(scene, prompts, before.subtask)
        if len(prompts) == 1:
            return [self._next(said[0], _Now(look, seen, found, scene, openings[0], lasts), prompts[0], before)]
        if not any(words.startswith(PICK) for words in said):
            return [Next(words) for words in said]
        places, sure = self._where(look, seen, said, self._spoken(scene, begun=self.words.encode(THEN)))
        arms = [self._reaching(places[row], look.tools[row].numpy(), -1)
                if words.startswith(PICK) and sure[row].min() >= SURE else -1 for row, words in enumerate(said)]
        return [Next(words, arm) for words, arm in zip(said, arms)]

    def _next(self, said: str, now: _Now, prompt: str, before: Next) -> Next:
        """For one robot, of which it is known what it does now."""
        many = not self.names_one(prompt)
        before = self._lets_go(now, before)
        said = said if self._makes_sense(said) else before.subtask or said
        words, before = self._sensible(said, now, prompt, before)
        if words.startswith(PICK) and before.subtask.startswith(PICK) and self._grips(now, before.arm).any():
            words = before.subtask
        words = self._sided(words, now, before)
        if not words.startswith(PICK):
            after = self._follows(words, before, many)
            words = after.subtask
            return after._replace(spot=self._free(words, now, before)) if words in SURFACES else after
        then, thens = before.then, ()
        if many or words != before.pick:
            then, = self._spoken(now.scene, begun=self.words.encode(THEN))
        if many:
            thens = (*(before.thens if words == before.pick else ()), then)
            then = _oftenest(thens)
        then = self._sided(then, now, before)
        kept = before.arm if words == before.subtask else -1
        places, sure = self._where(now.look, now.seen, [words], [then])
        if words == before.subtask and kept < 0 and now.lasts > LOOKED and sure.min() < SURE:
            places, sure = places[:, [0, 0]], np.ones_like(sure)
        arm = self._reaching(places[0], now.look.tools[0].numpy(), kept) if sure.min() >= SURE else kept
        return Next(words, arm, words, then, before.put, before.dim, before.blind, thens=thens)

    @staticmethod
    def _follows(words: str, before: Next, many: bool) -> Next:
        """What is no picking up. many: things are put down one after another."""
        if not words.startswith(THEN):
            return before._replace(subtask=words, arm=-1, holder=-1, left=(), known=False)
        thens = (*(before.thens if before.subtask.startswith(THEN) else ()), words) if many else ()
        words = _oftenest(thens) if many else words  # of the looks at what is in hand: they see which it is
        others = tuple((pick, into) for pick, into in before.put if pick != before.pick or into == words)
        put = tuple(dict.fromkeys((*others, (before.pick, words))))
        number = [pick for pick, into in put if into == words].index(before.pick)
        flat, bin_ = words.startswith(ONTO) and words.endswith(FLAT), words.startswith(INTO) and words.endswith(BIN)
        far = (flat * ASIDE + bin_ * ASIDE_IN_BIN) * many
        x, y = SLOTS[number % len(SLOTS)]
        aside = far * x, far * y, HIGHER * bin_ * many * (number > 0)
        held = {"holder": before.holder, "left": before.left, "known": before.known}
        held = held if words == before.subtask else {}
        return Next(words, -1, before.pick, words, put, thens=thens, aside=aside, **held)

    def _lets_go(self, now: _Now, before: Next) -> Next:
        """The same, and which hand holds what is put down, or where it let go of it, if that is where it goes."""
        if not before.subtask.startswith(THEN):
            return before
        if not before.known:
            sure = 1.0 if before.subtask in SURFACES else self._where(
                now.look, now.seen, [before.pick or before.subtask], [before.subtask])[1][0, 1]
            before = before._replace(known=bool(sure >= SURE))
        if before.holder >= 0 and not before.left and now.openings[before.holder] >= OPEN:
            if not before.known:
                return before._replace(holder=-1)
            return before._replace(left=tuple(now.look.tools[0, before.holder].tolist()))
        grips = self._grips(now)
        return before._replace(holder=int(grips.argmax()), left=()) if grips.any() else before

    # ---- words

    def _words(self, scene: Scene, prompts: Sequence[str], before: str) -> list[str]:
        """What the network says. before: what was until now, of one robot alone."""
        put_down = before == DONE or before.startswith(THEN)
        doubt = self._doubt * (NAMED if put_down and self.names_one(prompts[0]) else 1.0)
        if before:
            same, old = self.model.weigh(scene, self.words.encode(before), doubt=doubt)
            if same:
                return [before]
        said = self._spoken(scene, doubt=doubt)
        if before not in ("", DONE, said[0]) and said[0] != DONE:
            _, new = self.model.weigh(scene, self.words.encode(said[0]))
            said = said if new > old + self._stay else [before]
        return said

    def _spoken(self, scene: Scene, **how) -> list[str]:
        return [self.words.decode(tokens) for tokens in self.model.speak(scene, **how)]

    def _makes_sense(self, words: str) -> bool:
        """Whether there is such a thing to pick up, or such a place to drive to: words come one by one."""
        if words.startswith(PICK):
            return words in self._picks or not self._picks
        return words in _DRIVES or not words.startswith(DRIVE)

    def names_one(self, prompt: str) -> bool:
        """Whether an instruction is about a thing that it names."""
        return not self.things.isdisjoint(split(prompt))

    # ---- what eyes and fingers know better

    def _sensible(self, said: str, now: _Now, prompt: str, before: Next) -> tuple[str, Next]:
        """What one robot says, or what contradicts less what it sees; and `before` with what was not seen."""
        goes_on, picks = said == before.subtask, said.startswith(PICK)
        one = self.names_one(prompt)
        strays = picks or not one and not said.startswith(THEN)  # one of many things is put down before all else
        strays |= said.startswith(DRIVE) and before.subtask.startswith(DRIVE)  # nor does it turn back with it
        busy = before.subtask.startswith((THEN, DRIVE) if one else (PICK, THEN, DRIVE))
        if strays and busy and before.pick and self._is_held(now, before):
            return before.subtask, before._replace(blind=0)
        left = said.startswith(THEN) and self._is_empty(now, before)
        if not one:
            many = self._picks and (picks or said == DONE and before.pick or left)
            return self._thing(said, now, before) if many else (said, before._replace(blind=0))
        if before.pick and (said in (DONE, before.pick) and not goes_on or left):
            beside = self._beside(now, before)
            said = DONE if beside < THERE else before.pick if beside > (THERE if left else ASTRAY) else said
        return said, before._replace(blind=0)

    def _sided(self, words: str, now: _Now, before: Next) -> str:
        """Words that leave a side open with the one on which there is more room; the one that it is at, if it is."""
        if NEXT_TO not in words:
            return words
        sides = [words.replace(NEXT_TO, side) for side in SIDES]
        if before.then in sides:
            return before.then
        places, _ = self._where(now.look, now.seen, [before.pick or words] * 2, sides)
        hand = now.look.tools[0].numpy()
        others = self._noticed(now, [places[:, 1].mean(0), *hand])

        def room(side: int) -> tuple[float, float]:
            """And the way there."""
            place = places[side, 1]
            return (min([ROOM, *(_across((place, other)) for other in others)]),
                    -min(_across((place, tool)) for tool in hand))

        return sides[max(range(2), key=room)]

    def _free(self, words: str, now: _Now, before: Next) -> tuple[float, ...]:
        """Where on a surface there is room, about where eyes that know nothing of room would put it."""
        if words == before.subtask and before.spot:
            return before.spot
        place = self._where(now.look, now.seen, [before.pick or words], [words])[0][0, 1, :2]
        others = self._noticed(now, now.look.tools[0].numpy())

        def room(at: np.ndarray) -> float:
            return min([ROOM, *(_across((at, other)) for other in others)]) - TETHER * math.dist(at, place)

        return tuple(max((place + off for off in np.array(ABOUT)), key=room).tolist())

    def _noticed(self, now: _Now, but: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[3] m where the front eye notices something, but what is at these points."""
        things = placed(now.look.cameras[:, :1], now.found.places)[0][now.found.noticed[0, :, -1] > 0.5].numpy()
        return [thing for thing in things if min(_across((thing, point)) for point in but) > OWN]

    def _is_held(self, now: _Now, before: Next) -> bool:
        """Whether what was picked up is in a hand."""
        places, sure = self._where(now.look, now.seen, [before.pick], [before.then])
        near = np.linalg.norm(now.look.tools[0].numpy() - places[0, 0], axis=-1) < AT_HAND
        return bool((self._grips(now) & (near | (sure[0, 0] < SURE))).any())

    @staticmethod
    def _grips(now: _Now, arm: int = -1) -> np.ndarray:
        """[arms] whether they are closed around something; of one arm alone, where there is one."""
        grips = (now.openings > HELD[0]) & (now.openings < HELD[1])
        return grips[arm] if arm >= 0 else grips

    @staticmethod
    def _is_empty(now: _Now, before: Next) -> bool:
        """Whether there is nothing to put down: hands are open, and one that has just let go has risen from there."""
        risen = not before.left or float(now.look.tools[0, before.holder, 2]) > before.left[2] + RISEN
        return risen and now.openings.min() >= OPEN

    def _beside(self, now: _Now, before: Next) -> float:
        """m from what was picked up to where it has to go, or was let go, from above; NaN where nobody can tell."""
        if now.openings.min() < OPEN:
            return math.nan
        places, sure = self._where(now.look, now.seen, [before.pick], [before.then])
        ways = [_across(places[0])] if sure[0, 1] >= SURE else []
        if before.left and not (ways and _across((places[0, 1], before.left)) > ASTRAY):
            ways.append(_across((places[0, 0], before.left)))
        return min(ways, default=math.nan) if sure[0, 0] >= SURE else math.nan

    def _thing(self, said: str, now: _Now, before: Next) -> tuple[str, Next]:
        """What to pick up where no thing is named: what the network would say of what the front eye sees, but not what
        is where it has to go. Done, where that is likelier than all of them, and said, or nothing is seen for long."""
        seen = self._notices(now)
        *likely, done = self.model.likely(now.scene, self._tokens).tolist()
        dim = 0
        if before.subtask in self._picks:
            doing = self._picks.index(before.subtask)  # a hand that comes near hides it, at last from all eyes
            seen[doing] = max(seen[doing], self._where(now.look, now.seen, [before.subtask], [before.then])[1][0, 0])
            dim = before.dim + 1 if seen[doing] < GLIMPSE else 0
            likely[doing] += 0.0 if dim >= DIM else STAYS if now.lasts < TIRES else -STAYS
        believed = seen.copy()
        if 0 < dim < DIM and now.lasts < TIRES:
            believed[doing] = SURE
        score = likely + SEEN * np.log(believed + UNSEEN)
        may_be_all = said == DONE or before.blind >= BLIND
        best = np.argsort(-score)[:FEW]
        for i, among in zip(best, self._among([self._picks[i] for i in best], now, before.put)):
            if may_be_all and score[i] < done - float(self._doubt.max()):
                return DONE, before
            if not among:
                blind = 0 if seen[i] > GLIMPSE else before.blind + 1
                if self._picks[i] != before.subtask:
                    dim = DIM if blind else 0  # what has not been seen at all is not hidden
                return self._picks[i], before._replace(dim=dim, blind=blind)
        return (DONE if may_be_all else self._picks[best[0]]), before._replace(dim=DIM, blind=before.blind + 1)

    def _notices(self, now: _Now) -> np.ndarray:
        """[picks] how surely the front eye notices what each of them names."""
        noticed = now.found.noticed
        return (self.model.fits(noticed[..., :-1]) * noticed[..., -1:])[0, :, self._named].amax(0).numpy()

    def _among(self, picks: list[str], now: _Now, put: tuple[tuple[str, str], ...]) -> np.ndarray:
        """bool [picks]: the thing lies where others were put down."""
        if not put:
            return np.zeros(len(picks), bool)
        words = list(dict.fromkeys(words for _, words in put))
        places, sure = self._where(now.look, now.seen, [pick for pick in picks for _ in words], words * len(picks))
        there = [_across(points) < AMONG for points in places] & (sure.min(1) >= SURE)
        return there.reshape(len(picks), len(words)).any(1)

    # ---- places and arms

    def _where(self, look: Look, seen: dict[str, Tensor], picks: list[str], thens: list[str]) -> tuple[
            np.ndarray, np.ndarray]:
        """[B, 2, 3] m where things are and where they go, and how sure that is [B, 2]."""
        places, sure = self.model.where(look, seen, torch.stack(self.words.rows([*picks, *thens]).chunk(2), 1))
        return places.numpy(), sure.numpy()

    def _reaching(self, points: np.ndarray, tools: np.ndarray, kept: int) -> int:
        """The arm that reaches a thing and its place, points [2, 3]; of two the nearer, or the one that is kept to."""
        def cost(arm: int) -> float:
            """m; what is out of reach costs more than any way."""
            beyond = float(np.hypot(*(points - self.shoulders[arm])[:, :2].T).max()) - REACHED
            return 20 * max(0.0, beyond) + float(np.hypot(*(points[0] - tools[arm])[:2])) - (arm == kept) * KEEP

        return min(range(len(tools)), key=cost)


def _oftenest(words: Sequence[str]) -> str:
    """What was said most often; of several the first, so that it does not go to and fro."""
    return max(words, key=words.count)


def _across(points: Sequence[np.ndarray]) -> float:
    """m between two points, seen from above."""
    return math.dist(points[0][:2], points[1][:2])
