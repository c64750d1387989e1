"""The words that mini knows: one token each, and what to do about those that it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pi_policy_node.policy.mini_model import UNKNOWN

SPECIAL = 4  # tokens that are no words: padding, unknown, begin, end
LONGEST = 32  # words of an instruction or a subtask
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class Words:
    """A vocabulary in a fixed order; the order is part of the weights."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self._token = {word: SPECIAL + i for i, word in enumerate(self.words)}
        if len(self._token) != len(self.words):
            raise ValueError("a vocabulary holds every word once")

    def __len__(self) -> int:
        """With the tokens that are no words."""
        return SPECIAL + len(self.words)

    def encode(self, text: str) -> list[int]:
        """A token for each word; those beyond the longest sentence are left out."""
        return [self._token.get(word, UNKNOWN) for word in split(text)[:LONGEST]]

    def decode(self, tokens: Iterable[int]) -> str:
        return " ".join(self.words[t - SPECIAL] for t in tokens if t >= SPECIAL)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not in the vocabulary, each once, in their order."""
        return tuple(dict.fromkeys(word for word in split(text) if word not in self._token))


def split(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return _WORD.findall(text.lower())
