"""Stop words, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_policy_node.task import MAX_LENGTH, Refused, check, is_cancel, is_stop, next_step
from pi_policy_node.task.words import STOP, plain


@pytest.mark.parametrize("text", [
    "stop", "STOP!", " Stop. ", "stop!!!", "s.t.o.p", "S T O P", "stoooop", "ｓｔｏｐ", "please stop", "stop the robot",
    "robot, stop now", "Stop what you are doing and put the block down", "halt", "HALT!", "freeze", "Freeze, robot",
    "e-stop", "E-STOP", "emergency stop", "whoa", "abort", "don't move", "do not move", "hold it", "hold still!",
    "no, stop", "oh no stop", "arm stop", "¡stop!", "stop\n", "\tstop", "stop\x00", "«Stop»", "stop" + " a" * 100_000,
])  # fmt: skip
def test_stop_words(text):
    assert is_stop(text)


@pytest.mark.parametrize("text", [
    "", " ", "put the red block in the bin", "wave", "go to the bus stop near the table", "top", "shop", "step back",
    "move the stopper to the left of the cup", "hold the block", "drive to the halting point on the floor", "123",
])  # fmt: skip
def test_other_words_do_not_stop(text):
    assert not is_stop(text)


@given(word=st.sampled_from(sorted(STOP)), before=st.text("!?.,;: \t\n-*\"'", max_size=5),
       after=st.text("!?.,;: \t\n-*\"'", max_size=5), upper=st.booleans())
def test_stop_words_in_any_case_and_punctuation(word, before, after, upper):
    assert is_stop(before + (word.upper() if upper else word.title()) + after)


@given(st.text(max_size=300))
def test_no_text_breaks_anything(text):
    is_stop(text), is_cancel(text), next_step(text)
    try:
        assert 0 < len(plain(check(text))) <= MAX_LENGTH
    except Refused as refusal:
        assert str(refusal) and "\n" not in str(refusal) and str(refusal).isprintable()


def test_commands_are_cleaned():
    assert check("  put  the\nred block\tin the bin ") == "put the red block in the bin"


@pytest.mark.parametrize("text, why", [
    ("", "empty"), (" \n\t ", "empty"), ("a" * (MAX_LENGTH + 1), "at most 500"), ("wave\x07", "U+0007"),
    ("wave \ufffd\ufffd", "U+FFFD"), ("wa\u202eve", "U+202E"), ("12 34 !", "no word"),
])  # fmt: skip
def test_refusals_say_why(text, why):
    with pytest.raises(Refused, match=why.replace("+", r"\+")):
        check(text)


@pytest.mark.parametrize("text, bare", [
    ("hey robot, could you put the red block in the bin please?", "put the red block in the bin"),
    ("Please open the drawer now!", "open the drawer"), ("wave", "wave"), ("Robot please", "Robot please"),
    ("put the block on the pillar", "put the block on the pillar"), ("okay pi, will you wave, thank you.", "wave"),
])  # fmt: skip
def test_what_people_say_around_a_command(text, bare):
    assert plain(text) == bare


def test_cancel_words():
    assert is_cancel("Cancel!") and is_cancel("never mind, robot") and is_cancel("please cancel that")
    assert not is_cancel("cancel the red block") and not is_cancel("")


@pytest.mark.parametrize("text, step", [
    ("next: pick up the red block", "pick up the red block"), ("Next, open the drawer", "open the drawer"),
    ("step: wave", "wave"), (" SUBTASK :place it in the bin", "place it in the bin"), ("next step: wave", "wave"),
    ("next:", ""), ("next: go on!", ""), ("next: as you like", ""),
    ("put it next to the cup", None), ("next to the cup, put the block", None), ("wave", None), ("", None),
])  # fmt: skip
def test_the_next_step(text, step):
    assert next_step(text) == step


def test_a_stop_is_heard_in_a_step():
    assert is_stop("next: stop") and is_stop("stop: next step")
