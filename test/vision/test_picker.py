import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_policy_node.vision import Frame, Samples, SetPicker

MS = 1_000_000


class Scene:
    """Cameras on one clock: data time and steady time run together from 1000 s."""

    def __init__(self, cameras=("front", "left", "right"), rate=20.0, hz=20.0, tolerance=0.05):
        self.picker = SetPicker(dict.fromkeys(cameras, rate), hz=hz, tolerance=tolerance)
        self.cameras = cameras
        self.sets = []

    def pump(self, ms):
        picked = self.picker.pick(now=int((10**6 + ms) * MS), steady=1000 + ms / 1000)
        if picked is not None:
            self.sets.append((ms, picked))
        return picked

    def image(self, camera, stamp_ms, arrives_ms=None):
        arrives = stamp_ms if arrives_ms is None else arrives_ms
        self.picker.add(camera, Frame(int((10**6 + stamp_ms) * MS), 1000 + arrives / 1000, (camera, stamp_ms)))
        return self.pump(arrives)

    def refuse(self, camera, reason, ms):
        self.picker.refuse(camera, reason, 1000 + ms / 1000)
        return self.pump(ms)


def valid(picked):
    return {name for name, frame in picked.frames.items() if frame is not None}


def test_the_set_goes_out_with_its_last_image():
    scene = Scene()
    for t in range(0, 500, 50):
        assert scene.image("front", t, t + 4) is None
        assert scene.image("left", t + 1, t + 6) is None
        picked = scene.image("right", t, t + 9)
        assert valid(picked) == {"front", "left", "right"} and set(picked.reasons.values()) == {""}
        assert picked.stamp == (10**6 + t + 1) * MS


@pytest.mark.parametrize("rate, hz, expected", [(30, 20, 20), (60, 20, 20), (20, 20, 20), (30, 30, 30), (10, 20, 10),
                                                (90, 20, 20), (25, 20, 20)])
def test_sets_per_second(rate, hz, expected):
    scene = Scene(rate=rate, hz=hz)
    for i in range(10 * rate):
        for lag, camera in enumerate(scene.cameras):
            scene.image(camera, 1000 * i / rate, 1000 * i / rate + lag)
    assert len(scene.sets) == pytest.approx(10 * expected, rel=0.03)
    assert all(valid(picked) == set(scene.cameras) for _, picked in scene.sets)
    stamps = [{frame.stamp for frame in picked.frames.values()} for _, picked in scene.sets]
    assert all(len(same) == 1 for same in stamps)  # captured at once, so given out together


def test_images_that_will_not_be_used_are_not_wanted():
    scene = Scene(cameras=("front",), rate=60, hz=20)
    wanted = used = 0
    for i in range(600):
        stamp = 1000 * i / 60
        wanted += scene.picker.wanted("front", int((10**6 + stamp) * MS))
        used += scene.image("front", stamp) is not None
    assert used == pytest.approx(200, abs=3)
    assert used <= wanted <= used * 1.1


def test_a_dead_camera_delays_one_set_and_is_named_from_then_on():
    scene = Scene()
    for t in range(0, 1000, 5):
        if t % 50 == 0:
            for camera in scene.cameras:
                if camera != "left" or t < 200:
                    scene.image(camera, t)
        scene.pump(t)
    times = [at for at, _ in scene.sets]
    assert max(b - a for a, b in zip(times, times[1:])) <= 180  # one pause, for one set
    after = [picked for at, picked in scene.sets if at >= 400]
    assert len(after) == 12
    for picked in after:
        assert valid(picked) == {"front", "right"}
        assert picked.reasons["left"].startswith("late: no image for 0.")


def test_a_camera_that_comes_back_is_waited_for_again_even_if_it_is_always_last():
    scene = Scene(tolerance=0.03)
    for t in range(0, 2000, 50):
        scene.image("front", t, t)
        scene.image("right", t, t + 1)
        if not 300 <= t < 1000:
            scene.image("left", t, t + 20)
        for wait in range(21, 50, 5):
            scene.pump(t + wait)
    assert all("left" in valid(picked) for at, picked in scene.sets if at > 1100)
    assert sum("left" not in valid(picked) for at, picked in scene.sets) >= 10


def test_all_cameras_dead_is_news_once():
    scene = Scene()
    for t in range(0, 2000, 5):
        if t % 50 == 0 and (t < 300 or t > 1500):
            for camera in scene.cameras:
                scene.image(camera, t)
        scene.pump(t)
    blind = [(at, picked) for at, picked in scene.sets if not valid(picked)]
    assert len(blind) == 1 and 300 < blind[0][0] < 450
    assert all(reason.startswith("late") for reason in blind[0][1].reasons.values())
    assert valid(scene.sets[-1][1]) == set(scene.cameras)


def test_a_skewed_camera_is_named_and_not_waited_for():
    scene = Scene()
    for t in range(0, 1000, 5):
        if t % 50 == 0:
            scene.image("front", t)
            scene.image("right", t)
            scene.image("left", t - 200, t)
        scene.pump(t)
    # One that only lags is matched from the others' history ...
    assert all(valid(picked) == set(scene.cameras) for _, picked in scene.sets[5:])
    # ... one that lags more than the history is not.
    scene = Scene()
    for t in range(0, 1500, 5):
        if t % 50 == 0:
            scene.image("front", t)
            scene.image("right", t)
            scene.image("left", t - 700, t)
        scene.pump(t)
    late = [picked for at, picked in scene.sets if at > 500]
    assert len(late) >= 19
    reasons = {picked.reasons["left"] for picked in late}
    assert reasons <= {f"captured 0.{n}0 s before the rest of the set; tolerance 0.05 s" for n in (70, 75)}


def test_a_refused_image_is_the_reason():
    scene = Scene()
    for t in range(0, 1000, 50):
        scene.image("front", t)
        scene.refuse("left", "encoding '16UC1' is not accepted", t + 1)
        scene.image("right", t, t + 2)
    assert len(scene.sets) >= 19
    assert {picked.reasons["left"] for _, picked in scene.sets} == {"encoding '16UC1' is not accepted"}


def test_all_refused_is_news_too():
    scene = Scene()
    for t in range(0, 600, 50):
        for camera in scene.cameras:
            scene.refuse(camera, "frozen", t)
    assert len(scene.sets) == 1 and not valid(scene.sets[0][1])
    assert set(scene.sets[0][1].reasons.values()) == {"frozen"}


def test_two_slow_cameras_out_of_phase_meet_within_the_tolerance():
    scene = Scene(cameras=("a", "b"), rate=10, hz=10, tolerance=0.05)
    for t in range(0, 2000, 5):
        if t % 100 == 0:
            scene.image("a", t)
        if t % 100 == 60:
            scene.image("b", t)
        scene.pump(t)
    assert len(scene.sets) >= 18 and all(valid(picked) == {"a", "b"} for _, picked in scene.sets[1:])


EVENTS = st.lists(st.tuples(st.sampled_from(["front", "left", "right"]), st.integers(0, 120), st.integers(-80, 300),
                            st.booleans()), max_size=120)


@given(events=EVENTS)
@settings(deadline=None)
def test_whatever_comes(events):
    """Never a set with disagreeing images, a reused stamp, a missing reason, or faster than wanted."""
    scene = Scene()
    newest = dict.fromkeys(scene.cameras, -10**9)
    now = 0
    for camera, passed, age, good in events:
        now += passed
        stamp = max(now - age, newest[camera] + 1)
        if good:
            newest[camera] = stamp
            scene.image(camera, stamp, now)
        else:
            scene.refuse(camera, "broken", now)
    stamps = []
    for _, picked in scene.sets:
        for name, frame in picked.frames.items():
            assert (frame is None) == bool(picked.reasons[name])
            assert frame is None or 0 <= picked.stamp - frame.stamp <= 50 * MS
            assert frame is None or frame.payload[0] == name
        if valid(picked):
            assert picked.stamp in {frame.stamp for frame in picked.frames.values() if frame is not None}
            stamps.append(picked.stamp)
    assert all(a < b for a, b in zip(stamps, stamps[1:]))
    if len(stamps) > 2:
        assert (len(stamps) - 2) * 50 * MS <= stamps[-1] - stamps[0] + 50 * MS


def test_samples_gives_the_newest_within_the_tolerance():
    samples = Samples()
    assert samples.near(0, 10) is None and samples.newest is None
    assert [samples.add(stamp, str(stamp)) for stamp in (100, 110, 110, 105, 130)] == [True, True, False, False, True]
    assert samples.near(112, 5) == "110"
    assert samples.near(112, 20) == "130"
    assert samples.near(120, 5) is None
    assert samples.near(200, 70) == "130" and samples.near(200, 69) is None
    assert samples.newest == 130
