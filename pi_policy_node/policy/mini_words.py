"""The words that mini knows: one token each, and what to do about those that it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pi_policy_node.policy.mini_scene import PAD, UNKNOWN

SPECIAL = 4  # tokens that are no words: padding, unknown, begin, end
DONE = "done"  # the subtask's words when nothing is left to do
PICK = "pick"  # the first word of those that may be done by either arm
THEN = "place it"  # begins the words of what comes after that
DRIVE, PLACES = "drive", ("table", "counter", "dock")  # begins those in which the base moves; what ends them
LONGEST = 32  # words of an instruction or a subtask
# Words that people put around a task and that may be passed over: politeness, articles, further words for handling
# things. The network reads each as "a word I do not know", which it has learnt to read past. Nothing that turns a
# sentence round belongs here: no "not", "except", "instead", "before".
PASSABLE = frozenset("""
    a an and at can collect could drop each fetch for get grab grasp hand head hey hi i i'd it its just kindly lay let
    like me my need now of okay onto out over own robot set should slide some tell thank thanks that then thing things
    this want we will with would you your yourself
""".split())
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class Words:
    """A vocabulary in a fixed order, which is part of the weights, and subtasks that end in what a thing is called."""

    def __init__(self, words: Iterable[str], names: Iterable[str] = ()) -> None:
        self.words, self.names = tuple(words), tuple(names)
        self._token = {word: SPECIAL + i for i, word in enumerate(self.words)}
        if len(self._token) != len(self.words):
            raise ValueError("a vocabulary holds every word once")

    def __len__(self) -> int:
        """With the tokens that are no words."""
        return SPECIAL + len(self.words)

    def encode(self, text: str) -> list[int]:
        """A token for each word; those beyond the longest sentence are left out."""
        return [self._token.get(word, UNKNOWN) for word in split(text)[:LONGEST]]

    def rows(self, texts: Sequence[str]) -> Tensor:
        """int64 [texts, words of the longest], padded."""
        rows = [self.encode(text) for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], dtype=torch.int64).reshape(
            len(rows), longest)

    def named(self) -> list[list[int]]:
        """Those subtasks in tokens."""
        return [self.encode(name) for name in self.names]

    def decode(self, tokens: Iterable[int]) -> str:
        return " ".join(self.words[t - SPECIAL] for t in tokens if t >= SPECIAL)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not in the vocabulary and may not be passed over, each once, in their order."""
        return tuple(dict.fromkeys(w for w in split(text) if w not in self._token and w not in PASSABLE))


def split(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return _WORD.findall(text.lower())
