"""Prompts as PaliGemma's tokenizer writes them. The sentencepiece file is the user's: its download is gated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sentencepiece

from pi_policy_node.policy.base import InputError, PolicyError
from pi_policy_node.policy.shapes import Shape

NAMES = ("tokenizer.model", "paligemma_tokenizer.model")  # looked for beside a checkpoint
_EDGES = np.linspace(-1, 1, 257)[:-1]


class Tokenizer:
    def __init__(self, file: Path | str) -> None:
        file = Path(file)
        if not file.is_file():
            raise PolicyError(f"{file}: no such tokenizer file; pi0 and pi05 need PaliGemma's sentencepiece file")
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError) as error:
            raise PolicyError(f"{file}: not a sentencepiece model ({' '.join(str(error).split())})") from None
        self.size = self._pieces.vocab_size()
        self.stop = self._pieces.eos_id()

    @classmethod
    def beside(cls, folder: Path) -> Tokenizer:
        for name in NAMES:
            if (folder / name).is_file():
                return cls(folder / name)
        raise PolicyError(
            f"{folder}: no {' or '.join(NAMES)} in it. Put PaliGemma's sentencepiece file there, or name it: pi0 and "
            "pi05 cannot read a prompt without it"
        )

    def prompt(self, text: str, shape: Shape, state: np.ndarray | None = None) -> list[int]:
        """A prompt's tokens. state: normalised, the robot's own numbers only; pi05 reads it as words."""
        clean = text.strip().replace("_", " ").replace("\n", " ")
        if not clean.strip():
            raise InputError("the prompt is empty")
        try:
            clean.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt is not text ({error.reason})") from None
        if shape.family == "pi05":
            tokens = self._pieces.encode(f"Task: {clean}, State: {spell(state)};\nAction: ", add_bos=True)
        else:
            tokens = self._pieces.encode(clean, add_bos=True) + self._pieces.encode("\n")
        if len(tokens) > shape.prompt_tokens:
            raise InputError(f"the prompt has {len(tokens)} tokens; {shape.name} reads {shape.prompt_tokens} at most")
        return tokens

    def text(self, tokens: list[int]) -> str:
        """Tokens as words. A model knows a few more tokens than its tokenizer; those say nothing."""
        return self._pieces.decode([t for t in tokens if 0 <= t < self.size]).strip()


def spell(state: np.ndarray) -> str:
    """Each number as one of 256 bins of -1..1: "128 0 255"; below -1 it is bin -1, as in training."""
    return " ".join(str(b) for b in np.digitize(state, _EDGES) - 1)
