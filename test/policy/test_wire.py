import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_policy_node.policy.base import InputError, PolicyError
from pi_policy_node.policy.remote import WireError, pack, unpack
from pi_policy_node.policy.remote.wire import read_actions, read_observation, read_prefix
from pi_policy_node.robot import load_robot

ROBOT = load_robot("pi_mobile")
WIDTH = len(ROBOT.action_names)


def observation(**changes):
    images = {"front_camera": np.zeros((4, 4, 3), np.uint8)}
    return {"state": np.zeros(WIDTH), "prompt": "go", "images": images, **changes}


ARRAYS = st.builds(lambda kind, shape: np.ones(shape, kind), st.sampled_from(["u1", "<f4", "<f8", ">i2", "?", "<i8"]),
                   st.lists(st.integers(0, 4), max_size=4))


@given(message=st.dictionaries(st.text(max_size=5), ARRAYS | st.text() | st.integers(-2**63, 2**63) | st.binary()))
def test_round_trip(message):
    read = unpack(pack(message))
    assert read.keys() == message.keys()
    for key, value in message.items():
        np.testing.assert_array_equal(read[key], value)
        if isinstance(value, np.ndarray):
            assert read[key].dtype == value.dtype and read[key].shape == value.shape


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["a"]), np.array([1j]), {1, 2}])
def test_what_cannot_be_sent_says_so(value):
    with pytest.raises(WireError, match="cannot send"):
        pack({"x": value})


def array(changes):
    fields = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f8", b"shape": [1], **changes}
    return msgpack.packb({"state": fields})


@pytest.mark.parametrize("changes", [
    {b"dtype": "O"}, {b"dtype": "|V8"}, {b"dtype": "<c8"}, {b"dtype": "no"}, {b"dtype": None}, {b"dtype": "f8,f8"},
    {b"dtype": "(2,)f4"}, {b"dtype": "x" * 100000}, {b"dtype": "<U2"}, {b"dtype": "<M8[s]"},
    {b"shape": [2]}, {b"shape": [-1]}, {b"shape": [2**62, 2**62]}, {b"shape": ["1"]}, {b"shape": 1},
    {b"shape": [1] * 9}, {b"shape": [True]}, {b"data": "text"}, {b"data": None}, {b"data": b"123"},
])
def test_arrays_that_are_none_are_refused(changes):
    with pytest.raises(WireError):
        unpack(array(changes))


def test_nothing_is_unpickled_or_nested_to_death():
    with pytest.raises(WireError):
        unpack(b"\x91" * 100_000)
    with pytest.raises(WireError):
        unpack(b"\xdd\xff\xff\xff\xff")  # an array of four thousand million entries, of which none follows


@given(data=st.binary(max_size=400))
def test_any_bytes_unpack_or_are_refused(data):
    try:
        unpack(data)
    except WireError:
        pass


@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
       cut=st.integers(0, 300))
def test_damaged_requests_are_read_or_refused(flips, cut):
    data = bytearray(pack(observation(stamp=1.0, pi={"id": 1, "prefix": np.zeros((2, WIDTH))})))
    for place, value in flips:
        data[place % len(data)] = value
    try:
        read = read_observation(unpack(bytes(data[:len(data) - cut % 3])), ROBOT)
        assert read.state.shape == (WIDTH,) and np.isfinite(read.state).all()
        assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in read.images.values())
    except PolicyError as error:
        assert str(error)


def test_every_spelling_of_a_request():
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for message in (observation(images={"front_camera": picture}), observation(images={"base_0_rgb": picture}),
                    observation(images={"base_0_rgb": picture.transpose(2, 0, 1)}),
                    {"observation/state": np.zeros(WIDTH), "observation/base_0_rgb": picture, "prompt": "go"},
                    {"state": [0.0] * WIDTH, "images/front_camera": picture, "prompt": "go"}):
        read = read_observation(message, ROBOT)
        assert list(read.images) == ["front_camera"] and read.prompt == "go"
        np.testing.assert_array_equal(read.images["front_camera"], picture)


@pytest.mark.parametrize("message, words", [
    ([1, 2], "a list where a map"),
    ({"prompt": "go"}, "'state' is missing, but must be 18 numbers: left_joint1"),
    (observation(state=np.zeros(7)), r"of shape \[7\]"),
    (observation(state="hello"), "no numbers"),
    (observation(state=np.full(WIDTH, np.nan)), "'state' is not finite in left_joint1"),
    (observation(prompt=b"go"), "'prompt' is a bytes"),
    (observation(prompt="x" * 20_001), "20001 characters; accepted are 20000"),
    (observation(images=[1]), "'images' is a list"),
    (observation(images={"nose": 1}), "no camera nose; pi_mobile has front_camera"),
    (observation(images={"front_camera": np.zeros((4, 4, 3))}), "float64"),
    (observation(images={"front_camera": np.zeros((4, 4), np.uint8)}), "must be uint8"),
    (observation(images={"front_camera": np.zeros((0, 4, 3), np.uint8)}), "must be"),
    (observation(images={"front_camera": b"\xff\xd8 no"}), "no whole JPEG"),
    (observation(stamp=float("nan")), "'stamp' must be"),
])
def test_bad_requests_say_what_would_be_right(message, words):
    with pytest.raises((InputError, WireError), match=words):
        read_observation(message, ROBOT)


def test_long_and_foreign_prompts_pass():
    prompt = "räum auf 把红色的积木放进去 " * 500
    assert read_observation(observation(prompt=prompt), ROBOT).prompt == prompt


def test_prefix_and_actions():
    assert read_prefix(None, ROBOT) is None and read_prefix(np.zeros((0, WIDTH)), ROBOT) is None
    assert read_prefix(np.ones((3, WIDTH), np.float32), ROBOT).rows.shape == (3, WIDTH)
    for bad in (np.ones((3, 2)), np.full((1, WIDTH), np.inf), [[0.0] * WIDTH], "rows"):
        with pytest.raises(InputError, match="'prefix' must be"):
            read_prefix(bad, ROBOT)
    assert read_actions({"actions": np.ones((5, WIDTH), np.float32)}, WIDTH).dtype == np.float64
    for bad, words in ((None, "missing"), (np.ones(WIDTH), "of shape"), (np.ones((5, 7)), "7 columns"),
                       (np.full((5, WIDTH), np.nan), "not finite"), (np.ones((0, WIDTH)), "of shape")):
        with pytest.raises(WireError, match=words):
            read_actions({"actions": bad}, WIDTH)
