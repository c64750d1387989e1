import io
import sys
import types

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pi_policy_node.vision import (ENCODINGS, ImageError, decode_compressed, decode_image, decode_message, encode_jpeg,
                                   find_cv_bridge)
from pi_policy_node.vision import bridge as bridge_module

RED, GREEN, BLUE = (200, 10, 30), (5, 180, 20), (7, 9, 220)


def rgb(height=3, width=5):
    rng = np.random.default_rng(height * 100 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, encoding):
    """The pixels of an rgb image as a driver would send them, by hand."""
    if encoding == "mono8":
        return image[..., :1].copy()
    pixels = image[..., ::-1] if encoding.startswith("bgr") else image
    if encoding.endswith("a8"):
        pixels = np.concatenate([pixels, np.full((*image.shape[:2], 1), 77, np.uint8)], -1)
    return np.ascontiguousarray(pixels)


def padded(pixels, padding):
    height = pixels.shape[0]
    rows = pixels.reshape(height, -1)
    return np.concatenate([rows, np.full((height, padding), 99, np.uint8)], 1)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(height=st.integers(1, 20), width=st.integers(1, 20), padding=st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_every_encoding_with_any_padding(encoding, height, width, padding):
    image = rgb(height, width)
    rows = padded(encode(image, encoding), padding)
    decoded = decode_image(encoding=encoding, height=height, width=width, step=rows.shape[1], data=rows.tobytes())
    expected = np.repeat(image[..., :1], 3, -1) if encoding == "mono8" else image
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "bayer_rggb8", "rgb16", "", "RGB8", "x" * 10000])
def test_other_encodings_are_refused_by_name(encoding):
    with pytest.raises(ImageError, match="accepted are rgb8, bgr8, mono8, rgba8, bgra8") as caught:
        decode_image(encoding=encoding, height=1, width=1, step=2, data=b"ab")
    assert encoding[:40] in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("fields, sentence", [
    (dict(height=0, width=2, step=6, data=b""), "2 x 0 pixels"),
    (dict(height=2, width=2**31, step=6, data=b"a" * 12), "accepted are 1 to 8192"),
    (dict(height=2, width=2, step=5, data=b"a" * 10), "step is 5 bytes, but 2 pixels of rgb8 need 6"),
    (dict(height=2, width=2, step=6, data=b"a" * 11), "11 bytes of data, but 2 rows of 6 bytes are 12"),
    (dict(height=2, width=2, step=6, data=b"a" * 13), "13 bytes of data"),
    (dict(height=2, width=2, step=6, data=b""), "0 bytes of data"),
])
def test_inconsistent_headers_are_refused(fields, sentence):
    with pytest.raises(ImageError, match=sentence):
        decode_image(encoding="rgb8", **fields)


@given(encoding=st.sampled_from([*ENCODINGS, "16UC1", "yuv422"]), height=st.integers(0, 2**32 - 1) | st.integers(0, 9),
       width=st.integers(0, 2**32 - 1) | st.integers(0, 9), step=st.integers(0, 2**32 - 1) | st.integers(0, 40),
       data=st.binary(max_size=300))
def test_any_header_decodes_or_is_refused(encoding, height, width, step, data):
    try:
        image = decode_image(encoding=encoding, height=height, width=width, step=step, data=data)
    except ImageError:
        return
    assert image.shape == (height, width, 3)


def test_compressed_equals_what_opencv_decodes():
    image = cv2.GaussianBlur(rgb(48, 64), (5, 5), 0)
    for format, extension in (("jpeg", ".jpg"), ("rgb8; png compressed bgr8", ".png")):
        data = cv2.imencode(extension, image[..., ::-1])[1].tobytes()
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decode_compressed(format=format, data=data), expected)
    grey = cv2.imencode(".png", image[..., 0])[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(format="png", data=grey), np.repeat(image[..., :1], 3, -1))


def test_encode_jpeg_keeps_the_colours():
    image = np.full((16, 16, 3), RED, np.uint8)
    assert np.abs(decode_compressed(format="jpeg", data=encode_jpeg(image)).astype(int) - image).max() < 6


def png(array, mode=None):
    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("format, data, sentence", [
    ("jpeg", b"", "0 bytes that are neither jpeg nor png"),
    ("jpeg", b"hello" * 50, "neither jpeg nor png"),
    ("16UC1; compressedDepth png", b"whatever", "depth image"),
    ("png", png(np.zeros((4, 4), np.uint16)), "8-bit colour or grey"),
])
def test_what_is_no_colour_picture_is_refused(format, data, sentence):
    with pytest.raises(ImageError, match=sentence):
        decode_compressed(format=format, data=data)


@given(cut=st.floats(0.0, 0.98))
@settings(deadline=None)
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_files_cut_short_are_refused_not_filled_with_grey(extension, cut):
    data = cv2.imencode(extension, rgb(40, 40))[1].tobytes()
    with pytest.raises(ImageError):
        decode_compressed(format="", data=data[:int(len(data) * cut)])


@given(data=st.data())
@settings(deadline=None)
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_flipped_bytes_decode_or_are_refused(extension, data):
    file = bytearray(cv2.imencode(extension, rgb(16, 16))[1].tobytes())
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_compressed(format="", data=bytes(file)).shape[2] == 3
    except ImageError:
        pass


def test_a_decompression_bomb_is_refused_from_its_header():
    with pytest.raises(ImageError, match="accepted are 1 to 8192|exceeds limit|bomb"):
        decode_compressed(format="png", data=png(np.zeros((1, 9000), np.uint8)))


class FakeCvBridge:
    """imgmsg_to_cv2 as cv_bridge documents it, for the encodings used here, written apart from our decoding."""

    def imgmsg_to_cv2(self, message, desired_encoding="passthrough"):
        assert desired_encoding == "rgb8"
        channels = {"rgb8": 3, "bgr8": 3, "mono8": 1, "rgba8": 4, "bgra8": 4, "bayer_rggb8": 1}[message.encoding]
        shape = (message.height, message.width, channels)
        pixels = np.ndarray(shape, np.uint8, bytes(message.data), strides=(message.step, channels, 1))
        if message.encoding == "bayer_rggb8":
            return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BayerBG2RGB)
        order = [0, 0, 0] if channels == 1 else [2, 1, 0] if message.encoding.startswith("b") else [0, 1, 2]
        return pixels[..., order]


def message(image, encoding, padding=3):
    rows = padded(encode(image, encoding) if encoding in ENCODINGS else image[..., :1], padding)
    return types.SimpleNamespace(encoding=encoding, height=image.shape[0], width=image.shape[1], step=rows.shape[1],
                                 is_bigendian=0, data=rows.tobytes())


def real_and_fake():
    real = find_cv_bridge()[0]
    return [FakeCvBridge()] + ([real] if real is not None else [])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cv_bridge_and_own_decoding_agree(encoding):
    for bridge in real_and_fake():
        for padding in (0, 3):
            given_message = message(rgb(12, 10), encoding, padding)
            np.testing.assert_array_equal(decode_message(given_message, bridge), decode_message(given_message))


def test_cv_bridge_adds_bayer_and_refuses_the_same_headers():
    image = rgb(12, 10)
    assert decode_message(message(image, "bayer_rggb8", 0), FakeCvBridge()).shape == image.shape
    with pytest.raises(ImageError, match="bayer_rggb8"):
        decode_message(message(image, "bayer_rggb8"))
    short = message(image, "bayer_rggb8", 0)
    short.data = short.data[:-1]
    with pytest.raises(ImageError, match="don't fit 119 bytes"):
        decode_message(short, FakeCvBridge())
    with pytest.raises(ImageError, match="16UC1"):
        decode_message(types.SimpleNamespace(**{**vars(short), "encoding": "16UC1"}), FakeCvBridge())


def test_cv_bridge_is_found_in_a_process_of_its_own(tmp_path, monkeypatch):
    source = "class CvBridge:\n    def cv2_to_imgmsg(self, image, encoding): return None\n"
    (tmp_path / "cv_bridge.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    found, sentence = find_cv_bridge()
    assert type(found).__name__ == "CvBridge" and str(tmp_path) in sentence
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)


def test_a_cv_bridge_that_crashes_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "cv_bridge.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found, sentence = bridge_module.find_cv_bridge()
    assert found is None and "not usable" in sentence
