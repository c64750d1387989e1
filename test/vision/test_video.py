import time

import cv2
import numpy as np
import pytest

from pi_policy_node.vision import VideoSource, video

FRAMES, HZ = 12, 60.0


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), HZ, (32, 24))
    if not writer.isOpened():
        pytest.fail("this OpenCV cannot write MJPG")
    for i in range(FRAMES):
        writer.write(np.full((24, 32, 3), (0, 0, 20 * i), np.uint8))  # bgr: red grows
    writer.release()
    return path


def collect(source, until, limit=10.0):
    images, troubles = [], []
    player = VideoSource(str(source), on_image=images.append, on_trouble=troubles.append)
    end = time.monotonic() + limit
    while not until(images, troubles) and time.monotonic() < end:
        time.sleep(0.005)
    player.close()
    assert until(images, troubles), (len(images), troubles)
    return images, troubles


def test_a_file_plays_at_its_rate_and_starts_again(film):
    start = time.monotonic()
    images, troubles = collect(film, lambda images, _: len(images) >= 2 * FRAMES)
    assert time.monotonic() - start > (2 * FRAMES - 2) / HZ
    assert not troubles
    reds = [int(image[..., 0].mean()) for image in images[:2 * FRAMES]]
    np.testing.assert_allclose(reds, [20 * i for i in range(FRAMES)] * 2, atol=8)
    assert all(image.shape == (24, 32, 3) and image[..., 2].mean() < 12 for image in images)  # rgb


def test_a_missing_file_is_named_and_found_when_it_appears(film, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "FIRST_PAUSE", 0.01)
    late = tmp_path / "late.avi"

    def until(images, troubles):
        if len(troubles) >= 2 and not late.exists():
            film.rename(late)
        return len(images) >= 3

    _, troubles = collect(late, until)
    assert troubles[0] == f"there is no file {late}; trying again"


def test_what_is_no_video_is_named(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("no video")
    _, troubles = collect(path, lambda _, troubles: troubles)
    assert str(path) in troubles[0]


def test_a_missing_device_is_named():
    _, troubles = collect("/dev/video97", lambda _, troubles: troubles)
    assert "device /dev/video97" in troubles[0]
