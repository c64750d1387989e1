import numpy as np

from pi_policy_node.vision import CameraWatch

NOW = 1_000_000_000_000
MS = 1_000_000


def watch(**options):
    return CameraWatch(**{"max_age": 0.25, "future": 0.05, "frozen_frames": 4, **options})


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, 300, dtype=np.uint8)


def test_fresh_images_pass():
    door = watch()
    assert [door.check(NOW + i * MS, NOW + i * MS + 5, picture(i)) for i in range(20)] == [""] * 20


def test_stamps_of_the_future_the_past_and_nothing():
    door = watch()
    assert door.check(NOW + 49 * MS, NOW, picture(0)) == ""
    assert "1.500 s in the future" in door.check(NOW + 1500 * MS, NOW, picture(1))
    assert "captured 0.300 s ago, accepted are 0.25 s" in door.check(NOW - 300 * MS, NOW, picture(2))
    assert "stamp is zero" in door.check(0, NOW, picture(3))
    assert door.check(NOW + 60 * MS, NOW + 60 * MS, picture(4)) == ""


def test_a_stamp_that_stands_still_is_frozen():
    door = watch()
    assert door.check(NOW, NOW, picture(0)) == ""
    assert door.check(NOW, NOW + MS, picture(1)) == "frozen: its stamp has not advanced for 1 image"
    assert door.check(NOW - MS, NOW + 2 * MS, picture(2)) == "frozen: its stamp has not advanced for 2 images"
    assert door.check(NOW + MS, NOW + 3 * MS, picture(3)) == ""


def test_pixels_that_stand_still_are_frozen_until_they_move():
    door = watch()
    answers = [door.check(NOW + i * MS, NOW + i * MS, picture(0)) for i in range(6)]
    assert answers[:3] == [""] * 3
    assert answers[3:] == [f"frozen: the same pixels {n} images in a row" for n in (4, 5, 6)]
    assert door.check(NOW + 7 * MS, NOW + 7 * MS, picture(1)) == ""


def test_pixels_are_not_compared_when_asked_not_to():
    door = watch(frozen_frames=0)
    assert {door.check(NOW + i * MS, NOW + i * MS, picture(0)) for i in range(20)} == {""}
