from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_policy_node.vision import fit, letterbox

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resize_with_pad.npz")


def picture(height, width):
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([96 * (1 + np.sin(0.013 * x * (c + 1) + 0.017 * y)) for c in range(3)], -1)
    return np.clip(image + 60 * ((x // 7 + y // 11) % 2)[..., None], 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", list(GOLDEN))
def test_equal_to_openpi(size):
    height, width = map(int, size.split("x"))
    np.testing.assert_array_equal(letterbox(picture(height, width), (224, 224))[::4, ::4], GOLDEN[size])


@given(height=st.integers(1, 90), width=st.integers(1, 90), box=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(deadline=None)
def test_centred_undistorted_and_black_around(height, width, box):
    image = np.full((height, width, 3), (250, 128, 7), np.uint8)
    boxed = letterbox(image, box)
    assert boxed.shape == (*box, 3) and boxed.dtype == np.uint8
    inside = boxed.any(-1)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, left, inner_height, inner_width = fit(height, width, box)
    assert (rows[0], len(rows), columns[0], len(columns)) == (top, inner_height, left, inner_width)
    assert (boxed[inside] == (250, 128, 7)).all()  # one colour stays that colour, up to the very edge
    assert inner_height in (box[0], box[0] - 1) or inner_width in (box[1], box[1] - 1)
    assert abs((box[0] - inner_height) - 2 * top) <= 1 and abs((box[1] - inner_width) - 2 * left) <= 1


def test_antialiased():
    stripes = np.zeros((200, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = letterbox(stripes, (50, 50))[13:37, 1:-1]
    assert np.abs(inner.astype(int) - 127).max() <= 3  # nearest or plain bilinear would give 0 or 255


def test_a_picture_of_the_right_size_is_left_alone():
    image = picture(32, 32)
    assert letterbox(image, (32, 32)) is image


def test_two_steps_of_letterboxing_keep_the_geometry():
    """The policy makes the smaller pictures of its ladder out of the published one."""
    image = picture(240, 320)
    twice, once = letterbox(letterbox(image, (224, 224)), (64, 64)), letterbox(image, (64, 64))
    assert np.abs(twice.astype(int) - once)[10:-10].mean() < 4
