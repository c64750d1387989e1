"""What a person's words are before anything is made of them: a stop, a cancel, a command, or nothing usable."""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 500  # characters of a command

STOP = {"stop", "halt", "freeze", "abort", "whoa", "estop", "stopp", "anhalten"}
STOP_PHRASES = {"e stop", "emergency stop", "hold it", "hold still", "stand still", "dont move", "do not move",
                "don t move"}
CANCEL_PHRASES = {"cancel", "cancel that", "cancel it", "never mind", "nevermind", "forget it"}
NEXT = re.compile(r"\s*(?:next|step|subtask)(?:\s+step)?\s*[:,]\s*(.*)", re.IGNORECASE | re.DOTALL)
FREELY = {"", "go on", "as you like", "you choose", "auto", "free"}  # after "next:": the policy chooses again
POLITE = {"please", "pls", "now", "robot", "hey", "ok", "okay", "immediately", "the", "oh", "no", "pi"}

_BEFORE = r"(?:hey|hi|ok|okay|so|now|robot|pi|please|(?:can|could|would|will) you)\b[\s,]*"
_AFTER = r"[\s,]*\b(?:please|now|robot|thanks|thank you|will you|would you)"
AROUND = re.compile(rf"(?:{_BEFORE})*(.*?)(?:{_AFTER})*[\s.!?]*", re.IGNORECASE)
EXAMPLE = "say what to do, for example 'put the red block in the bin'"
_LOOK = 2000  # characters looked at: a stop must not wait for megabytes
_SHORT = 3  # words; in so short an utterance a stop word counts wherever it stands


class Refused(Exception):
    """Words that are no command. The message says why, and what would be one."""


def is_stop(text: str) -> bool:
    """Whether somebody wants the robot to stop. In doubt, they do.

    In any case and punctuation: a stop word at the beginning ("Stop!", "please STOP the arm", "s.t.o.p", "stoooop"), or
    anywhere in an utterance of up to three words ("robot, stop").
    """
    words = _words(text)
    if not words:
        return False
    if _is_stop_word("".join(words[:8])) or " ".join(words[:3]) in STOP_PHRASES or " ".join(words[:2]) in STOP_PHRASES:
        return True
    rest = [word for word in words if word not in POLITE] or words
    if _is_stop_word(rest[0]) or " ".join(rest[:2]) in STOP_PHRASES or " ".join(rest[:3]) in STOP_PHRASES:
        return True
    return len(rest) <= _SHORT and any(map(_is_stop_word, rest))


def is_cancel(text: str) -> bool:
    """Whether somebody wants the task ended, without a latched stop."""
    words = [word for word in _words(text) if word not in POLITE]
    return " ".join(words) in CANCEL_PHRASES


def next_step(text: str) -> str | None:
    """The step that somebody wants done next ("next: pick up the red block"); "": the policy is to choose again.

    None where the words are about the whole task.
    """
    said = NEXT.fullmatch(text[:_LOOK])
    if said is None:
        return None
    return "" if " ".join(_words(said[1])) in FREELY else said[1]


def check(text: str) -> str:
    """A command as it is handed on: trimmed, with single spaces. Refused where it can't be one."""
    if len(text) > MAX_LENGTH:
        raise Refused(f"a command has at most {MAX_LENGTH} characters; this has {len(text)}")
    cleaned = " ".join(text.split())
    if not cleaned:
        raise Refused(f"the command is empty: {EXAMPLE}")
    strange = next((c for c in cleaned if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") or c == "\ufffd"), None)
    if strange is not None:
        raise Refused(f"the command holds the unprintable character U+{ord(strange):04X}: plain text is understood")
    if not any(c.isalpha() for c in cleaned):
        raise Refused(f"the command '{cleaned[:40]}' holds no word: {EXAMPLE}")
    return cleaned


def plain(command: str) -> str:
    """A command without what people say around it: "hey robot, could you wave please?" -> "wave"."""
    bare = AROUND.fullmatch(command)[1]
    return bare if any(c.isalpha() for c in bare) else command


def shown(text: str) -> str:
    """The beginning of any text, fit to be shown."""
    short = " ".join(text[:80].split())
    return short if short.isprintable() else ascii(short)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text[:_LOOK]).casefold()
    return "".join(c if c.isalnum() else " " for c in folded).split()


def _is_stop_word(word: str) -> bool:
    # "stoooop" is said by people who mean it: runs of one letter count once.
    return word in STOP or re.sub(r"(.)\1+", r"\1", word) in _SINGLE


_SINGLE = {re.sub(r"(.)\1+", r"\1", word) for word in STOP}
