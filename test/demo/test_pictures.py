"""The demo's film and its live view."""

import math
import urllib.request

import cv2
import numpy as np
import pytest

from pi_policy_node.demo.film import LOOKAT, Film, Moment, Plan
from pi_policy_node.demo.screen import Screen, compose
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.film import VIEW
from pi_policy_node.sim.tasks import KEPT_SEEDS

ROBOT = load_robot("pi_mobile")
HOME = dict(zip([j for g in ROBOT.groups for j in g.joints], [float(ROBOT.home[c]) for g in ROBOT.groups
                                                              for c in range(g.columns.start, g.columns.stop) if g.joints]))


@pytest.fixture(scope="module")
def film():
    one = Film(ROBOT, scene="clear", seed=KEPT_SEEDS)
    yield one
    one.close()


def moment(**more):
    return Moment(10.0, HOME, (0.0, 0.0, 0.0), {"front_camera": np.full((120, 160, 3), 90, np.uint8)}, ("wave", "b", "c"),
                  **more)


def test_the_middle_of_the_view_is_what_it_looks_at_and_things_are_where_they_are_drawn(film):
    assert film.project([LOOKAT], LOOKAT) == [(VIEW[1] // 2, VIEW[0] // 2)]
    name = film._simulator.scene.names()[0]
    spot = (0.9, -0.5, 0.75, 1.0, 0.0, 0.0, 0.0)
    before, after = film.frame(moment()), film.frame(moment(things={name: spot}))
    x, y = film.project([spot[:3]], LOOKAT)[0]
    changed = np.abs(after[: VIEW[0], : VIEW[1]].astype(int) - before[: VIEW[0], : VIEW[1]]).sum(axis=2) > 60
    assert changed[max(y - 12, 0): y + 12, max(x - 12, 0): x + 12].mean() > 0.2, "it is drawn elsewhere"


def test_the_planned_path_is_in_the_picture(film):
    rows = np.tile(ROBOT.home, (50, 1))
    column = ROBOT.group("left_arm").columns.start
    rows[:, column] += np.linspace(0, 0.8, 50)
    plain, planned = film.frame(moment()), film.frame(moment(plan=Plan(10.0, 0.02, rows)))
    assert not np.array_equal(plain, planned)
    assert np.array_equal(plain, film.frame(moment(plan=Plan(5.0, 0.02, rows)))), "a plan that is over is shown"


def test_the_base_follows_its_plan(film):
    rows = np.tile(ROBOT.home, (51, 1))
    rows[:, ROBOT.is_base] = (0.2, 0.0, 0.0)
    path = film._paths(moment(plan=Plan(10.0, 0.02, rows)))["base"]
    np.testing.assert_allclose(path[-1, :2], (0.2, 0.0), atol=1e-6)
    rows[:, ROBOT.is_base] = (0.0, 0.0, math.pi / 2)
    tools = film._paths(moment(plan=Plan(10.0, 0.02, rows)))["left_arm"]
    turned = math.atan2(tools[-1, 1], tools[-1, 0]) - math.atan2(tools[0, 1], tools[0, 0])
    assert turned == pytest.approx(math.pi / 2, abs=0.01)


def test_a_video_is_written(film, tmp_path):
    film.write([moment()] * 5, tmp_path / "a.mp4", fps=8.0)
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5


def test_the_live_view():
    images = {"front_camera": np.full((120, 160, 3), (200, 10, 10), np.uint8)}
    screen = Screen(lambda: (images, ("wave", "running")))
    try:
        assert screen.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(screen.url, timeout=5) as page:
            assert b'src="stream"' in page.read()
        with urllib.request.urlopen(screen.url + "stream", timeout=5) as stream:
            head = stream.readline() + stream.readline() + stream.readline() + stream.readline()
            size = int(head.split(b"Content-Length: ")[1].split()[0])
            picture = cv2.imdecode(np.frombuffer(stream.read(size), np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_allclose(picture[100, 100], (10, 10, 200), atol=12)  # bgr
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(screen.url + "etc/passwd", timeout=5)
    finally:
        screen.close()


def test_a_view_without_pictures():
    assert compose({}, ()).dtype == np.uint8
