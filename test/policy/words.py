"""A tiny sentencepiece model with PaliGemma's special tokens: the real file may not be passed on."""

import io
from pathlib import Path

import sentencepiece

SENTENCES = [
    "pick up the red block and put it in the left bin",
    "Task: open the drawer, State: 0 128 255 17 96;",
    "Action: stack the green cup on the blue plate",
    "fold the towel, close the box and wipe the table",
] * 5


def make(folder: Path, size: int = 380) -> Path:
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=made,
        vocab_size=size,
        byte_fallback=True,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["\n"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    file = folder / "tokenizer.model"
    file.write_bytes(made.getvalue())
    return file
