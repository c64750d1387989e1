"""The network of `mini`: pi0.5's three outputs, small enough to be trained on a laptop.

The eyes (convolutional, told by words what to look for) see each set of pictures once. After everything that they see,
the state and the instruction, the language model says the next subtask word by word. After the state, where that
subtask's thing is, where the room's places are and the subtask's words, the expert turns noise into actions, and the
state's own token tells how far the subtask is. Time runs as in model.py: 1 is noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.gemma import KV, Gemma
from pi_policy_node.policy.mini_eyes import (
    AROUND, EYES, POINTING, Eye, Pointing, Reader, Room, eye_shape, heading, turned)
from pi_policy_node.policy.mini_scene import BEGIN, END, PAD, Found, Look, Scene, placed
from pi_policy_node.policy.model import embed_time, times
from pi_policy_node.policy.shapes import GemmaShape, MiniShape

REACH = 0.1  # m (and rad): the unit in which the network speaks of places
CLOSE = 0.02  # m: the unit of what is near to a hand
FAR = 0.15  # m: as far as arms are supposed to go in a straight line
BENT, SLIGHTLY = 0.2, 0.04  # rad: units of how joints would have to move
HELD = ("front", "wrist", "rear", "wide", "room", "reader", "embed", "roles")  # all that what the eyes find depends on
_TEXT = 512  # position of the first word of the instruction; the state's token and the eyes' come before
_SUBTASK, _SAID, _ACTION = _TEXT + 32, _TEXT + 64, _TEXT + 96


class SquaredRelu(nn.Linear):
    """relu(x·Wᵀ)²: half the work of GeGLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x)).square()


class QuickGemma(Gemma):
    """Gemma, cheaper to train on a CPU."""

    def __init__(self, shape: GemmaShape, *, adaptive: bool = False) -> None:
        super().__init__(shape, adaptive=adaptive)
        for block in self.blocks:
            block.gate_up = SquaredRelu(shape.width, shape.mlp, bias=False)


class Mini(nn.Module):
    def __init__(self, shape: MiniShape, words: int, names: Sequence[Sequence[int]] = ()) -> None:
        """words: size of the vocabulary, with the tokens that are no words; names: subtasks, in tokens, that end in the
        two words by which a thing is called."""
        super().__init__()
        longest = max(map(len, names), default=2)
        table = [[*tokens, *[PAD] * (longest - len(tokens))] for tokens in names]
        self.register_buffer("names", torch.tensor(table, dtype=torch.int64).reshape(-1, longest), persistent=False)
        self.shape = shape
        self._names: Tensor | None = None
        width = shape.vlm.width
        self.embed = nn.Embedding(words, width)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.reader = Reader(width)
        self.front = Eye(shape.front, shape.channels, width)
        self.wrist = Eye(shape.wrist, shape.channels, width)
        self.rear, self.wide = (Eye(shape.around, shape.channels, width) for _ in range(2))
        self.room = Room(shape)
        self.stand = nn.Sequential(nn.Linear(7, width), nn.ReLU(), nn.Linear(width, width))
        self.places = nn.Parameter(0.02 * torch.randn(shape.places, width))
        self.lost = nn.Parameter(torch.zeros(width))  # where an eye for what is around has no picture
        self.spot = nn.Sequential(nn.Linear(shape.channels + 1 + 12 + 9, width), nn.ReLU(), nn.Linear(width, width))
        self.trust = nn.Parameter(torch.tensor([0.0, 1.0, 1.0]))  # in each pointing eye: wrists are nearer
        told = 22 + 2 * (4 * shape.joints + 6)
        self.agreed = nn.Sequential(nn.Linear(told, width), nn.ReLU(), nn.Linear(width, width))
        self.noticed = nn.Sequential(nn.Linear(shape.channels + 1 + 9, width), nn.ReLU(), nn.Linear(width, width))
        self.called = nn.Linear(2 * width, width)  # how what was noticed is called
        self.camera = nn.Parameter(0.02 * torch.randn(len(EYES), width))
        self.absent = nn.Parameter(torch.zeros(len(EYES), width))
        self.roles = nn.Parameter(0.02 * torch.randn(3, width))  # instruction, subtask, what is being said
        self.state_in = nn.Sequential(nn.Linear(shape.state_dim, width), nn.ReLU(), nn.Linear(width, width))
        self.vlm = QuickGemma(shape.vlm)
        self.head = nn.Linear(width, words)
        self.hand = nn.Parameter(torch.zeros(2, width))  # that is to pick up, as acting is told it
        self.facts = nn.Linear(width, 1 + 2 + 3 + 3)  # progress, which arm, where it goes from the tool, the base
        self.expert = QuickGemma(shape.expert, adaptive=True)
        self.action_in = nn.Linear(shape.action_dim, shape.expert.width)
        self.given = nn.Parameter(torch.zeros(shape.expert.width))
        self.action_out = nn.Linear(shape.expert.width, shape.action_dim)
        self.time_in = nn.Linear(shape.expert.width, shape.expert.width)
        self.time_out = nn.Linear(shape.expert.width, shape.expert.width)

    # ---- what comes before the answer

    def see(self, look: Look, found: Found, *, drop: bool = False) -> Scene:
        """Everything that is seen, and the instruction. drop: leave out the padding, where no row has any."""
        tokens, first = [], 0
        spots = self._spots(look, found)
        for i, eye in enumerate(EYES):
            shape = eye_shape(self.shape, eye)
            part = found.maps[:, first : first + shape.tokens]
            first += shape.tokens
            if eye in POINTING:
                part = torch.cat((found.gaze[:, i, None], spots[:, i, None], part), 1)
            if shape.things:
                there = self._place(self.noticed, found.noticed, found.places, look.cameras[:, i], look.tools)
                there = there + self._called(found.noticed[..., :-1])
                part = torch.cat((there, part), 1)
            tokens.append(self._there(look, part, i))
        return self._prefix(look, [*tokens, self._stands(look, found)], look.instruction, _TEXT, 0, drop)

    def aim(self, look: Look, found: Found, *, drop: bool = False) -> Scene:
        """Where the subtask's thing is, where the room's places are, and the subtask's words: all that acting needs."""
        spots = self._spots(look, found)
        tokens = [self._there(look, spots[:, i, None], i) for i in range(len(POINTING))]
        hand = torch.where((look.arm < 0)[:, None], 0.0, self.hand[look.arm.clamp(min=0)])
        return self._prefix(look, [*tokens, self._stands(look, found)], look.subtask, _SUBTASK, 1, drop,
                            self._agreed(look, found) + hand)

    def _prefix(self, look: Look, seen: list[Tensor], text: Tensor, first: int, role: int, drop: bool,
                told: Tensor | None = None) -> Scene:
        """told [B, W]: what the state's token is told besides."""
        with torch.autocast(text.device.type, enabled=False):
            state = self.state_in(look.state)
            state = (state if told is None else state + told)[:, None]
        x = torch.cat((state, *seen, self.embed(text) + self.roles[role]), 1)
        count = x.shape[1] - text.shape[1]
        valid = torch.cat((torch.ones(len(x), count, dtype=torch.bool, device=x.device), text != PAD), 1)
        spots = torch.cat((torch.arange(count), first + torch.arange(text.shape[1])))
        out, kv = self.vlm(x, spots[None].to(x.device), mask=None if drop else valid[:, None])
        return Scene(kv, valid, out[:, 0], drop)

    def _there(self, look: Look, tokens: Tensor, i: int) -> Tensor:
        """An eye's tokens, where it has a picture."""
        return torch.where(look.seen[:, i, None, None], tokens, self.absent[i]) + self.camera[i]

    def _called(self, looks: Tensor) -> Tensor:
        """[B, K, W] by which two words what looks so to the front eye would be called."""
        with torch.autocast(looks.device.type, enabled=False):
            share = self.fits(looks)
            ends = (self.names != PAD).sum(1, keepdim=True) + torch.tensor([-2, -1], device=looks.device)
            return self.called(share @ self.embed(self.names.gather(1, ends)).flatten(1))

    def fits(self, looks: Tensor) -> Tensor:
        """[B, K, names] how much what looks so to the front eye [B, K, C] is each of them; together 1."""
        return self.front.fits(looks, self.asked_names()).softmax(-1)

    def asked_names(self) -> Tensor:
        """[M, W] what to look for, for each name. Kept while nothing is learnt: it depends on no picture."""
        if self._names is not None:
            return self._names
        asked = self.reader(self.embed(self.names) + self.roles[1], self.names != PAD)
        if not self.training and not torch.is_grad_enabled():
            self._names = asked
        return asked

    def train(self, mode: bool = True) -> Mini:
        self._names = None
        return super().train(mode)

    def _spots(self, look: Look, found: Found) -> Tensor:
        """[B, 3, W] the thing in question, as each pointing eye sees it."""
        looks = torch.cat((found.looks, found.turns, turned(found.turns, heading(look.cameras))), -1)
        parts = [self._place(self.spot, looks[:, i, None], found.spots[:, i, None], look.cameras[:, i], look.tools)
                 for i in range(len(POINTING))]
        return torch.cat(parts, 1)

    def _agreed(self, look: Look, found: Found) -> Tensor:
        """[B, W] where the thing in question is from both hands, by all eyes together (the surest count most), and how
        arms would have to move to be there: with that, what acting has to find is nearly what it is told."""
        with torch.autocast(found.spots.device.type, enabled=False):
            place, turn, sure = self.place(look, found)
            apart = place[:, None] - look.tools
            way = look.ways * (apart * (FAR / apart.norm(dim=-1, keepdim=True).clamp(min=FAR)))[:, :, None]
            bent = torch.cat((way[..., :2].sum(-1), way[..., 2]), -1).flatten(1)  # to be above or below; up or down
            apart, across = apart.flatten(1), turned(turn[:, None], -look.hands)
            parts = (apart / REACH, (apart / CLOSE).tanh(), place / REACH, turn, sure[:, None],
                     bent / BENT, (bent / SLIGHTLY).tanh(), across.flatten(1))
            return self.agreed(torch.cat(parts, 1))

    def _shares(self, there: Tensor, looks: Tensor) -> tuple[Tensor, Tensor]:
        """[..., eyes, 1] how much each pointing eye counts, and [..., eyes] how sure it is; there: it has a picture."""
        sure = looks[..., -1].float() * there
        return (self.trust + 1.5 * sure.logit(1e-3)).softmax(-1)[..., None], sure

    def where(self, look: Look, seen: dict[str, Tensor], subtasks: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K, 3] m in the base's frame where the hand would go for subtasks [B, K, N], by all eyes together, and
        [B, K] how sure the surest of them is that it is there."""
        pointing = self.point(seen, subtasks, look.cameras).values()
        looks, spots = (torch.stack([getattr(p, name) for p in pointing], 2) for name in ("looks", "spot"))
        share, sure = self._shares(look.seen[:, None, : len(POINTING)], looks)
        return (share * placed(look.cameras[:, None], spots)).sum(2), sure.amax(-1)

    def place(self, look: Look, found: Found) -> tuple[Tensor, Tensor, Tensor]:
        """By all eyes together, the surest count most, in the base's frame: [B, 3] m where the thing in question is,
        [B, 6] how fingers would have to be turned, and [B] how sure the surest eye is."""
        share, sure = self._shares(look.seen[:, : len(POINTING)], found.looks)
        return ((share * placed(look.cameras, found.spots)).sum(1),
                (share * turned(found.turns, heading(look.cameras))).sum(1), sure.amax(1))

    def _stands(self, look: Look, found: Found) -> Tensor:
        """[B, places, W] where one would stand at the room's places: finely where that is near."""
        with torch.autocast(found.room.device.type, enabled=False):
            fine = (found.room[..., (0, 1, 3)] / REACH).tanh()
            tokens = self.stand(torch.cat((found.room, fine), -1))
        there = look.seen[:, len(POINTING):].all(1)
        return torch.where(there[:, None, None], tokens, self.lost) + self.places

    def find(self, look: Look, seen: dict[str, Tensor] | None = None, *, acting: bool = False) -> tuple[
            Found, dict[str, Pointing]]:
        """What the eyes see for the subtask (where there is one, else for the instruction), and where, by eye.
        acting: only what `aim` needs."""
        seen = self.look(look.pictures) if seen is None else seen
        asked = self._asked(look)
        pointing = {eye: self.eye(eye).point(seen[eye], asked[:, None], look.cameras[:, i])
                    for i, eye in enumerate(POINTING)}
        maps = torch.cat([self.eye(eye).tokens(seen[eye]) for eye in (AROUND if acting else EYES)], 1)
        room = self.room(maps[:, -len(AROUND) * self.shape.around.tokens:])
        looks, spots, turns = (torch.cat([getattr(p, name) for p in pointing.values()], 1)
                               for name in ("looks", "spot", "turn"))
        if acting:
            return Found(maps[:, :0], looks, spots, turns, room, maps[:, :0], looks[:, :0], spots[:, :0]), pointing
        gaze = torch.cat([self.eye(eye).gaze(seen[eye], asked) for eye in POINTING], 1)
        noticed = self.front.notice(seen["front"], look.cameras[:, 0])
        return Found(maps, looks, spots, turns, room, gaze, *noticed), pointing

    def _asked(self, look: Look) -> Tensor:
        """What to look for. Subtask and instruction are read apart, so as not to mix."""
        read = [self.reader(self.embed(tokens) + role, tokens != PAD)
                for tokens, role in zip((look.instruction, look.subtask), self.roles) if tokens.shape[1]]
        return read[0] if len(read) == 1 else torch.where((look.subtask != PAD).any(1, keepdim=True), read[1], read[0])

    def look(self, pictures: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the cells of each eye hold; both wrists in one go."""
        left, right = self.wrist.see(torch.cat((pictures["left_wrist"], pictures["right_wrist"]))).chunk(2)
        return {"front": self.front.see(pictures["front"]), "left_wrist": left, "right_wrist": right,
                "rear": self.rear.see(pictures["rear"]), "wide": self.wide.see(pictures["wide"])}

    def eye(self, name: str) -> Eye:
        return self.wrist if "wrist" in name else getattr(self, name)

    def _place(self, reader: nn.Module, looks: Tensor, spots: Tensor, camera: Tensor, tools: Tensor) -> Tensor:
        """[B, K, W] things that an eye sees: how they look, and where they are from each tool and from the base."""
        with torch.autocast(tools.device.type, enabled=False):
            places = placed(camera[:, None], spots)  # [B, K, 3]
            apart = torch.cat(((places[:, :, None] - tools[:, None]).flatten(2), places), 2) / REACH
            return reader(torch.cat((looks, apart), 2))

    def point(self, seen: dict[str, Tensor], questions: Tensor, cameras: Tensor) -> dict[str, Pointing]:
        """Where each eye sees what subtasks [B, K, N] name; cameras [B, 3, 3, 4]."""
        words, there = self.embed(questions) + self.roles[1], questions != PAD
        wanted = self.reader(words.flatten(0, 1), there.flatten(0, 1)).unflatten(0, questions.shape[:2])
        return {eye: self.eye(eye).point(seen[eye], wanted, cameras[:, i]) for i, eye in enumerate(POINTING)}

    # ---- words out

    def say(self, scene: Scene, tokens: Tensor, *, said: int = 0, past: KV | None = None) -> tuple[Tensor, KV]:
        """Logits [B, S, words] of what follows each of tokens [B, S] (BEGIN first); said: tokens already in `past`."""
        count = tokens.shape[1]
        x = self.embed(tokens) + self.roles[2]
        kv = scene.kv if past is None else past
        causal = torch.ones(count, count + said, dtype=torch.bool, device=x.device).tril(said)
        mask = torch.cat((scene.valid[:, None].expand(-1, count, -1), causal.expand(len(x), -1, -1)), -1)
        spots = (_SAID + said + torch.arange(count, device=x.device))[None]
        out, kv = self.vlm(x, spots, mask=mask, past=kv)
        return self.head(out), kv

    @torch.no_grad()
    def speak(self, scene: Scene, *, limit: int = 14, doubt: Tensor | None = None,
              begun: Sequence[int] = ()) -> list[list[int]]:
        """The likeliest words of each row, one after another. doubt: [words] nats that each is less likely as the first
        one than the network thinks. begun: words that it has said already."""
        tokens = torch.tensor([[BEGIN, *begun]] * len(scene.valid))
        said: list[list[int]] = [list(begun) for _ in tokens]
        ended, past, heard = [False] * len(said), None, 0
        for count in range(len(begun), limit):
            logits, past = self.say(scene, tokens, said=heard, past=past)
            heard += tokens.shape[1]
            logits = logits[:, -1] if doubt is None or count else logits[:, -1] - doubt
            tokens = logits.argmax(-1)[:, None]
            for row, token in enumerate(tokens[:, 0].tolist()):
                ended[row] = ended[row] or token == END
                if not ended[row]:
                    said[row].append(token)
            if all(ended):
                break
        return said

    @torch.no_grad()
    def weigh(self, scene: Scene, words: list[int], *, doubt: Tensor | None = None) -> tuple[bool, float]:
        """Whether these words, and none after them, are what `speak` would say, found out in one go; and how likely
        they are, log. One row."""
        said = torch.tensor([*words, END])
        logits = self.say(scene, F.pad(said[None, :-1], (1, 0), value=BEGIN))[0][0].float()
        likely = float(logits.log_softmax(-1).gather(1, said[:, None]).sum())
        if doubt is not None:
            logits[0] -= doubt
        return torch.equal(logits.argmax(-1), said), likely

    @torch.no_grad()
    def likely(self, scene: Scene, phrases: Tensor) -> Tensor:
        """[K] how likely each of phrases [K, N], padded, is what is said first, whatever follows: log. Of a scene with
        one row. What phrases have in common but for their last words is computed once."""
        ends = (phrases != PAD).sum(1, keepdim=True) - 1
        begun, which = phrases.scatter(1, ends, PAD).unique(dim=0, return_inverse=True)
        several = Scene([(k.expand(len(begun), *k.shape[1:]), v.expand(len(begun), *v.shape[1:])) for k, v in scene.kv],
                        scene.valid.expand(len(begun), -1), scene.hidden, scene.full)
        logits = self.say(several, F.pad(begun[:, :-1], (1, 0), value=BEGIN))[0].float().log_softmax(-1)
        return torch.where(phrases != PAD, logits[which].gather(2, phrases[..., None])[..., 0], 0.0).sum(1)

    # ---- actions

    def velocity(self, scene: Scene, x: Tensor, t: Tensor, given: Tensor) -> Tensor:
        """Of noisy chunks x [B·R, knots, A] at times t [B·R]; given: bool [B·R, knots], clean ones. R per scene."""
        repeats = len(x) // len(scene.valid)
        kv, valid = scene.kv, scene.valid
        if repeats > 1:
            kv = [(k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)) for k, v in kv]
            valid = valid.repeat_interleave(repeats, 0)
        time = embed_time(t[:, None], self.shape.expert.width)
        modulations = self.expert.modulate(F.silu(self.time_out(F.silu(self.time_in(time)))))
        y = self.action_in(x) + self.given * given[..., None]
        mask = None if scene.full else F.pad(valid, (0, x.shape[1]), value=True)[:, None]
        spots = (_ACTION + torch.arange(x.shape[1], device=x.device))[None]
        y, _ = self.expert(y, spots, mask=mask, past=kv, modulations=modulations)
        with torch.autocast(y.device.type, enabled=False):
            return self.action_out(y.float())

    @torch.no_grad()
    def act(self, scene: Scene, noise: Tensor, *, steps: int, known: Tensor | None = None,
            given: Tensor | None = None) -> Tensor:
        """Chunks [B, knots, A], normalised, from noise of that shape. known: the given knots, normalised."""
        if given is None:
            given = torch.zeros(noise.shape[:2], dtype=torch.bool)
        x = noise
        for t in times(steps):
            if known is not None:
                x = torch.where(given[..., None], known, x)
            x = x - self.velocity(scene, x, x.new_full((len(x),), t), given) / steps
        return x if known is None else torch.where(given[..., None], known, x)

    def tell(self, scene: Scene) -> dict[str, Tensor]:
        """What the state's token knows: progress [B], arm [B, 2] logits, reach [B, 3] and base [B, 3], scaled."""
        facts = self.facts(scene.hidden).float()
        return {"progress": facts[:, 0], "arm": facts[:, 1:3], "reach": facts[:, 3:6], "base": facts[:, 6:9]}
