"""The network of `mini`: pi0.5's three outputs from one prefix, small enough to be trained on a laptop.

The prefix is what the eyes see (convolutional, told what to look for by the words), the state, and the words. After
it, the language model says the next subtask word by word; or, with the subtask among the words, the expert turns
noise into actions, and the state's own token tells how far the subtask is. Time runs as in model.py: 1 is noise.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pi_policy_node.policy.gemma import KV, Gemma
from pi_policy_node.policy.mini_eyes import EYES, POINTING, Eye, Pointing, even
from pi_policy_node.policy.model import embed_time, times
from pi_policy_node.policy.shapes import EyeShape, GemmaShape, MiniShape

REACH = 0.1  # m (and rad): the unit in which the network speaks of places
PAD, UNKNOWN, BEGIN, END = range(4)  # tokens that are no words
_TEXT = 512  # position of the first word of the instruction; the state's token and the eyes' come before
_SUBTASK, _SAID, _ACTION = _TEXT + 32, _TEXT + 64, _TEXT + 96


@dataclass
class Look:
    """A batch as the network takes it. Pictures float [B, 3, H, W] in -1..1, by eye."""

    pictures: dict[str, Tensor]
    seen: Tensor  # bool [B, eyes]: there is a picture
    state: Tensor  # float [B, state_dim], normalised
    cameras: Tensor  # float [B, 3, 3, 4]: the pointing eyes' optical frames in the base's
    tools: Tensor  # float [B, 2, 3] m, in the base's frame
    instruction: Tensor  # int64 [B, N], padded with PAD
    subtask: Tensor  # int64 [B, M], padded; empty where it is to be said


@dataclass
class Scene:
    """What the expert and the language head attend to, and what the prefix itself tells."""

    kv: KV
    valid: Tensor  # bool [B, P]
    hidden: Tensor  # [B, W] of the state's token
    pointing: dict[str, Pointing]  # eye -> where the thing in question is
    full: bool = False  # nothing is padded


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


class Reader(nn.Module):
    """Words [B, N, E] -> what they ask to look for [B, E]. Neighbours are read together: "red block", not a heap."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, words: Tensor, there: Tensor) -> Tensor:
        x = (words * there[..., None]).transpose(1, 2)
        y = F.relu(self.first(x)) * there[:, None]  # or the padding's length would be read
        return even(((x + self.second(y)) * there[:, None]).sum(-1))


class Mini(nn.Module):
    def __init__(self, shape: MiniShape, words: int) -> None:
        """words: size of the vocabulary, with the tokens that are no words."""
        super().__init__()
        self.shape = shape
        width = shape.vlm.width
        self.embed = nn.Embedding(words, width)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.reader = Reader(width)
        self.front = Eye(shape.front, shape.channels, width)
        self.wrist = Eye(shape.wrist, shape.channels, width)
        self.rear, self.wide = (Eye(shape.around, shape.channels, width) for _ in range(2))
        self.spot = nn.Sequential(nn.Linear(shape.channels + 1 + 9, width), nn.ReLU(), nn.Linear(width, width))
        self.noticed = nn.Sequential(nn.Linear(shape.channels + 1 + 9, width), nn.ReLU(), nn.Linear(width, width))
        self.camera = nn.Parameter(0.02 * torch.randn(len(EYES), width))
        self.absent = nn.Parameter(torch.zeros(len(EYES), width))
        self.roles = nn.Parameter(0.02 * torch.randn(3, width))  # instruction, subtask, what is being said
        self.state_in = nn.Sequential(nn.Linear(shape.state_dim, width), nn.ReLU(), nn.Linear(width, width))
        self.vlm = QuickGemma(shape.vlm)
        self.head = nn.Linear(width, words)
        self.facts = nn.Linear(width, 1 + 2 + 3 + 3)  # progress, which arm, where it goes from the tool, the base
        self.expert = QuickGemma(shape.expert, adaptive=True)
        self.action_in = nn.Linear(shape.action_dim, shape.expert.width)
        self.given = nn.Parameter(torch.zeros(shape.expert.width))
        self.action_out = nn.Linear(shape.expert.width, shape.action_dim)
        self.time_in = nn.Linear(shape.expert.width, shape.expert.width)
        self.time_out = nn.Linear(shape.expert.width, shape.expert.width)

    # ---- the prefix

    def see(self, look: Look, *, drop: bool = False, seen: dict[str, Tensor] | None = None) -> Scene:
        """Everything but the actions. drop: leave out the padding, where all rows have as many words. seen: by `look`."""
        instruction, subtask = look.instruction, look.subtask
        words = self.embed(torch.cat((instruction, subtask), 1))
        there = torch.cat((instruction, subtask), 1) != PAD
        asked = self._asked(words, there, instruction.shape[1])
        tokens, pointing = self._eyes(look, self.look(look.pictures) if seen is None else seen, asked)
        n, m = instruction.shape[1], subtask.shape[1]
        roles = torch.cat((self.roles[0].expand(n, -1), self.roles[1].expand(m, -1)))
        with torch.autocast(words.device.type, enabled=False):
            state = self.state_in(look.state)[:, None]
        x = torch.cat((state, tokens, words + roles), 1)
        valid = torch.cat((torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)[:, : -(n + m)], there), 1)
        spots = torch.cat((torch.arange(x.shape[1] - n - m), _TEXT + torch.arange(n), _SUBTASK + torch.arange(m)))
        out, kv = self.vlm(x, spots[None].to(x.device), mask=None if drop else valid[:, None])
        return Scene(kv, valid, out[:, 0], pointing, drop)

    def _asked(self, words: Tensor, there: Tensor, n: int) -> Tensor:
        """What to look for: the subtask where there is one, else the instruction. Read apart, so as not to mix."""
        task = self.reader(words[:, :n] + self.roles[0], there[:, :n])
        if words.shape[1] == n:
            return task
        step = self.reader(words[:, n:] + self.roles[1], there[:, n:])
        return torch.where(there[:, n:].any(1, keepdim=True), step, task)

    def look(self, pictures: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the cells of each eye hold; both wrists in one go."""
        left, right = self.wrist.see(torch.cat((pictures["left_wrist"], pictures["right_wrist"]))).chunk(2)
        return {"front": self.front.see(pictures["front"]), "left_wrist": left, "right_wrist": right,
                "rear": self.rear.see(pictures["rear"]), "wide": self.wide.see(pictures["wide"])}

    def _eye(self, name: str) -> Eye:
        return self.wrist if "wrist" in name else getattr(self, name)

    def _eyes(self, look: Look, seen: dict[str, Tensor], asked: Tensor) -> tuple[Tensor, dict[str, Pointing]]:
        tokens, pointing = [], {}
        for i, eye in enumerate(EYES):
            module, cells = self._eye(eye), seen[eye]
            part = module.tokens(cells)
            if eye in POINTING:
                found = pointing[eye] = module.point(cells, asked[:, None])
                spot = self._place(self.spot, found.looks, found.spot, look.cameras[:, i], look.tools)
                part = torch.cat((module.gaze(cells, asked), spot, part), 1)
            if module.shape.things:
                there = self._place(self.noticed, *module.notice(cells), look.cameras[:, i], look.tools)
                part = torch.cat((there, part), 1)
            tokens.append(torch.where(look.seen[:, i, None, None], part, self.absent[i]) + self.camera[i])
        return torch.cat(tokens, 1), pointing

    def _place(self, reader: nn.Module, looks: Tensor, spots: Tensor, camera: Tensor, tools: Tensor) -> Tensor:
        """[B, K, W] things that an eye sees: how they look, and where they are from each tool and from the base."""
        with torch.autocast(tools.device.type, enabled=False):
            places = torch.einsum("bij,bkj->bki", camera[:, :, :3], spots) + camera[:, None, :, 3]  # [B, K, 3]
            apart = torch.cat(((places[:, :, None] - tools[:, None]).flatten(2), places), 2) / REACH
            return reader(torch.cat((looks, apart), 2))

    def point(self, seen: dict[str, Tensor], questions: Tensor) -> dict[str, Pointing]:
        """Where each eye sees what subtasks [B, K, N] name."""
        words, there = self.embed(questions) + self.roles[1], questions != PAD
        wanted = self.reader(words.flatten(0, 1), there.flatten(0, 1)).unflatten(0, questions.shape[:2])
        return {eye: self._eye(eye).point(seen[eye], wanted) for eye in POINTING}

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
    def speak(self, scene: Scene, *, limit: int = 14) -> list[list[int]]:
        """The likeliest words of each row, one after another."""
        tokens = torch.full((len(scene.valid), 1), BEGIN)
        said: list[list[int]] = [[] for _ in tokens]
        ended, past = [False] * len(said), None
        for count in range(limit):
            logits, past = self.say(scene, tokens, said=count, past=past)
            tokens = logits[:, -1].argmax(-1)[:, None]
            for row, token in enumerate(tokens[:, 0].tolist()):
                ended[row] = ended[row] or token == END
                if not ended[row]:
                    said[row].append(token)
            if all(ended):
                break
        return said

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


def describe(shape: MiniShape) -> str:
    """A shape as JSON, for the weights' metadata."""
    return json.dumps(asdict(shape), sort_keys=True)


def from_description(text: str) -> MiniShape:
    """The shape again; ValueError or TypeError where the text is no shape."""
    parts = json.loads(text)
    for key in ("front", "wrist", "around"):
        parts[key] = EyeShape(**{k: tuple(v) if isinstance(v, list) else v for k, v in parts[key].items()})
    for key in ("vlm", "expert"):
        parts[key] = GemmaShape(**parts[key])
    return MiniShape(**parts)
