"""The simulated robots without ROS: pictures, motion, grasps, scenes."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.sim import Item, Scene, SceneError, Simulator
from pi_policy_node.sim.meshes import coarsen
from pi_policy_node.sim.physics import PhysicsError
from pi_policy_node.sim.reach import ReachError, reach, top_down
from pi_policy_node.sim.world import COLOURS, DRAWER, DRAWER_TRAVEL, HANDLE, KINDS, PLACES, TABLE, slots

TOP = float(TABLE[1, 2])
ROBOT = load_robot("pi_mobile")
KINEMATICS = Kinematics(ROBOT)


@pytest.fixture(scope="module")
def sim():
    simulator = Simulator(ROBOT, "empty", cameras=())
    yield simulator
    simulator.close()


def move(sim: Simulator, target: np.ndarray, seconds: float, start: np.ndarray) -> np.ndarray:
    """From row to row along a smooth step."""
    n = round(seconds / ROBOT.dt)
    for u in (np.arange(n) + 1) / n:
        sim.step(start + (target - start) * u * u * (3 - 2 * u))
    return target


def grasp(sim: Simulator, kind: str, *, offset=(0.0, 0.0, 0.0), close: float = 0.0, friction: float = 1.0,
          hold: float = 5.0) -> tuple[float, float]:
    """A top-down grasp with the right hand; how high the thing is above the table after lifting, and after holding."""
    sim.reset(0, Scene(items=(Item(kind, "red", (0.50, -0.12, TOP), friction=friction),)))
    name, = sim.objects()
    at = sim.objects()[name].position.copy()
    arm, gripper = ROBOT.group("right_arm"), ROBOT.group("right_gripper").columns.start
    down = reach(ROBOT, KINEMATICS, arm, top_down(at + offset, np.pi / 2), ROBOT.home)
    over = reach(ROBOT, KINEMATICS, arm, top_down(at + offset + [0, 0, 0.12], np.pi / 2), down)
    row = move(sim, over, 1.0, ROBOT.home)
    row = move(sim, down, 0.8, row)
    row = move(sim, np.where(np.arange(len(row)) == gripper, close, row), 0.4, row)
    for _ in range(15):
        sim.step(row)
    over[gripper] = close
    move(sim, over, 1.0, row)
    lifted = sim.objects()[name].position[2] - at[2]
    for _ in range(round(hold / ROBOT.dt)):
        sim.step(over)
    return lifted, sim.objects()[name].position[2] - at[2]


@pytest.mark.parametrize("kind", [kind for kind, k in KINDS.items() if not k.container])
def test_a_good_grasp_lifts_and_holds(sim, kind):
    lifted, held = grasp(sim, kind)
    assert lifted > 0.115
    assert abs(held - lifted) < 0.002  # in five seconds


@pytest.mark.parametrize("what, options", [
    ("beside it", dict(offset=(0.035, 0.0, 0.0))),
    ("not closed enough", dict(close=0.55)),
    ("squeezed too little", dict(close=0.507, friction=0.4)),
    ("above it", dict(offset=(0.0, 0.0, 0.032))),
])
def test_a_bad_grasp_slips(sim, what, options):
    _, held = grasp(sim, "block", hold=1.0, **options)
    assert held < 0.06, what


def test_the_arms_follow_their_commands(sim):
    sim.reset(0, "empty")
    worst = np.zeros(len(ROBOT.action_names))
    move(sim, ROBOT.home + 0.1 * (np.arange(len(worst)) == 14), 1.0, ROBOT.home)
    for k in range(150):
        row = ROBOT.home.copy()
        row[:6] += 0.3 * np.sin(2 * np.pi * 0.5 * k * ROBOT.dt) * np.array([1, -0.5, -0.5, 1, 1, 1])
        row[14] += 0.1 + 0.05 * np.sin(2 * np.pi * 0.5 * k * ROBOT.dt)
        sim.step(row)
        worst = np.maximum(worst, np.abs(sim.state() - row))
    assert (worst[:6] < 0.03).all() and worst[14] < 0.005
    assert (worst < ROBOT.tracking_tolerance).all()


def test_the_base_drives_in_its_own_frame_and_stands_when_nobody_says_otherwise(sim):
    sim.reset(0, Scene(base=(-1.0, 0.0, np.pi / 2)))
    row = ROBOT.home.copy()
    row[ROBOT.is_base] = 0.2, 0.1, 0.0
    for _ in range(100):
        sim.step(row)
    base = sim.physics.base()
    assert (base.vx, base.vy, base.wz) == pytest.approx((0.2, 0.1, 0.0), abs=0.01)
    assert (base.x, base.y) == pytest.approx((-1.0 - 0.2, 0.4), abs=0.02)  # forward is +y, left is -x
    names, position, velocity, _ = sim.physics.joint_state()
    assert position[names.index("front_left_wheel_joint")] > 1.0
    sim.advance(200)  # silence: the twist times out
    assert abs(sim.physics.base().vx) < 1e-3


def test_joint_state_has_every_moving_joint_of_the_urdf(sim):
    names, position, velocity, effort = sim.physics.joint_state()
    moving = {joint.name for joint in KINEMATICS._urdf.joints.values() if joint.kind != "fixed"}
    assert set(names) == moving and len(names) == len(moving)
    assert len(position) == len(velocity) == len(effort) == len(names)


def test_mimic_fingers_move_together(sim):
    sim.reset(0, "empty")
    row = ROBOT.home.copy()
    row[ROBOT.is_gripper] = 0.3
    move(sim, row, 0.5, ROBOT.home)
    names, position, _, _ = sim.physics.joint_state()
    q = dict(zip(names, position))
    assert q["left_finger_joint"] == pytest.approx(0.3 * 0.04, abs=3e-4)
    assert q["left_finger_joint_mirror"] == pytest.approx(q["left_finger_joint"], abs=2e-4)


def test_what_is_not_finite_stops_that_joint(sim):
    sim.reset(0, "empty")
    row = ROBOT.home.copy()
    row[0] = np.nan
    for _ in range(50):
        sim.step(row)
    assert np.isfinite(sim.state()).all() and abs(sim.state()[0] - ROBOT.home[0]) < 0.01


def test_no_command_however_wild_breaks_the_physics(sim):
    rng = np.random.default_rng(0)
    sim.reset(1, "clutter")
    for _ in range(150):
        sim.step(rng.uniform(-50, 50, len(ROBOT.action_names)))
    assert np.isfinite(sim.state()).all()
    sim.reset(0, "empty")
    sim.step(ROBOT.home)
    assert sim.state()[:15] == pytest.approx(ROBOT.home[:15], abs=1e-3)  # and a reset is a reset


def test_every_member_of_the_pool_rests_where_it_is_put(sim):
    """Each kind alone on the table, as many as the pool has: standing still, asleep, at the height the scene says."""
    for kind, k in KINDS.items():
        items = tuple(Item(kind, colour, (0.50 + 0.0 * i, -0.5 + 0.16 * i if k.container else -0.4 + 0.1 * i, TOP))
                      for i, colour in enumerate(list(COLOURS)[:k.count]))
        sim.reset(0, Scene(items=items))
        before = {name: thing.position for name, thing in sim.objects().items()}
        sim.advance(250)
        for (name, thing), item in zip(sim.objects().items(), items):
            assert thing.position == pytest.approx(before[name], abs=5e-4)
            assert thing.position[2] == pytest.approx(TOP + k.height, abs=1e-3)
            assert np.abs(thing.velocity).max() < 1e-3
    assert len(slots()) == sum(k.count for k in KINDS.values())


def test_things_fall_into_containers_and_stay(sim):
    pairs = [("bin", "block"), ("bowl", "ball"), ("tray", "cylinder"), ("plate", "prism")]
    items = [item for i, (container, thing) in enumerate(pairs) for item in (
        Item(container, "blue", (0.50, -0.5 + 0.24 * i, TOP)), Item(thing, "red", (0.51, -0.5 + 0.24 * i, TOP + 0.06)))]
    sim.reset(0, Scene(items=tuple(items)))
    sim.advance(500)
    things = sim.objects()
    for container, thing in pairs:
        at, inside = things[f"blue_{container}"].position, things[f"red_{thing}"].position
        assert np.linalg.norm(at[:2] - inside[:2]) < KINDS[container].inside
        assert f"{container}_0" in sim.physics.in_contact(f"red_{thing}")


def test_things_can_be_pushed_and_put_elsewhere_even_asleep(sim):
    sim.reset(0, Scene(items=(Item("block", "red", (0.5, 0.0, TOP)), Item("ball", "blue", (0.5, -0.3, TOP)))))
    sim.advance(500)  # they sleep
    sim.physics.push("red_block", (0.0, 0.5, 0.0))
    sim.advance(250)
    assert sim.objects()["red_block"].position[1] > 0.01
    sim.advance(500)
    sim.physics.place("red_block", (0.45, 0.2, TOP + 0.05), 0.5)
    sim.advance(250)
    assert sim.objects()["red_block"].position == pytest.approx([0.45, 0.2, TOP + 0.021], abs=1e-3)
    with pytest.raises(SceneError, match="red_block, blue_ball"):
        sim.physics.push("green_block", (0, 0, 0))


def test_the_drawer_opens_and_closes_by_its_handle(sim):
    sim.reset(0, "empty")
    arm, gripper = ROBOT.group("left_arm"), ROBOT.group("left_gripper").columns.start
    handle = np.array([DRAWER[0] + HANDLE[0], DRAWER[1], TOP + HANDLE[2]])

    def at(pull: float, up: float, opening: float, start: np.ndarray) -> np.ndarray:
        row = reach(ROBOT, KINEMATICS, arm, top_down(handle + [-pull, 0, up], 0.0), start)
        row[gripper] = opening
        return row

    row = move(sim, at(0, 0.1, 1.0, ROBOT.home), 1.0, ROBOT.home)
    row = move(sim, at(0, 0.0, 1.0, row), 0.8, row)
    row = move(sim, at(0, 0.0, 0.0, row), 0.4, row)
    for pull in (0.03, 0.06, 0.09, 0.12):
        row = move(sim, at(pull, 0.0, 0.0, row), 0.3, row)
    assert sim.physics.drawer() > 0.1 / DRAWER_TRAVEL
    for pull in (0.09, 0.06, 0.03, 0.0):
        row = move(sim, at(pull, 0.0, 0.0, row), 0.3, row)
    assert abs(sim.physics.drawer()) < 0.05


def test_every_place_can_be_stood_at(sim):
    for pose in PLACES.values():
        sim.reset(0, Scene(base=pose))
        sim.advance(50)
        base = sim.physics.base()
        assert (base.x, base.y, base.yaw) == pytest.approx(pose, abs=1e-3)  # nothing pushes it away
        assert sim.physics.base_pose()[:2, 3] == pytest.approx(pose[:2], abs=1e-3)


def test_the_same_seed_gives_the_same_world_to_the_last_bit():
    runs = []
    for _ in range(2):
        simulator = Simulator(ROBOT, "table", 5, cameras=("front_camera",), size=(60, 80))
        row = ROBOT.home.copy()
        for k in range(30):
            row[8] += 0.01
            simulator.step(row)
        runs.append((simulator.observe(), simulator.objects()))
        simulator.close()
    (a, things_a), (b, things_b) = runs
    assert (a.state == b.state).all() and (a.images["front_camera"] == b.images["front_camera"]).all()
    assert all((things_a[n].position == things_b[n].position).all() for n in things_a)


def test_cameras_see_the_scene_and_a_reset_changes_it():
    with_camera = Simulator(ROBOT, Scene(items=(Item("block", "red", (0.55, 0.0, TOP)),)), cameras=None)
    images = with_camera.images()
    assert {name: image.shape for name, image in images.items()} == {
        c.name: (c.height, c.width, 3) for c in ROBOT.cameras}
    assert all(image.dtype == np.uint8 and image.std() > 5 for image in images.values())

    def reds(image) -> int:
        r, g, b = (image[..., k].astype(int) for k in range(3))
        return int(((r > 110) & (g < 70) & (b < 70)).sum())

    seen = reds(images["front_camera"])
    with_camera.reset(0, Scene(items=(Item("block", "green", (0.55, 0.0, TOP)),)))
    assert seen > 60 and reds(with_camera.images()["front_camera"]) < seen / 4
    picture = with_camera.render_free(320, 200)
    assert picture.shape == (200, 320, 3) and picture.std() > 10
    assert all((with_camera.images()[n].shape == images[n].shape) for n in images)  # after the other renderer
    with_camera.close()


def test_where_a_camera_says_a_point_is_there_it_is_seen():
    """The optical frame and the field of view of the robot file are the ones that pictures are made with."""
    point = np.array([0.55, 0.0, TOP + 0.021])
    simulator = Simulator(ROBOT, Scene(items=(Item("block", "red", (0.55, 0.0, TOP)),)), cameras=("front_camera",))
    camera = next(c for c in ROBOT.cameras if c.name == "front_camera")
    pose = KINEMATICS.link_pose(ROBOT.home, camera.frame)
    x, y, z = pose[:3, :3].T @ (point - pose[:3, 3])
    focal = camera.height / 2 / np.tan(camera.fov / 2)
    expected = focal * x / z + camera.width / 2, focal * y / z + camera.height / 2
    image = simulator.images()["front_camera"].astype(int)
    rows, columns = np.nonzero((image[..., 0] > 110) & (image[..., 1] < 70) & (image[..., 2] < 70))
    simulator.close()
    assert (columns.mean(), rows.mean()) == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("items, words", [
    ((Item("teapot", "red", (0, 0, TOP)),), "no 'teapot'; there are block"),
    ((Item("block", "beige", (0, 0, TOP)),), "'beige'; colours are red"),
    ((Item("bowl", "red", (0, 0, TOP)),) * 3, "2 of bowl, not more"),
])
def test_impossible_scenes_are_refused_and_the_old_one_stays(sim, items, words):
    sim.reset(0, "block")
    with pytest.raises(SceneError, match=words):
        sim.reset(0, Scene(items=items))
    assert set(sim.objects()) == {"red_block", "blue_bin"}


def test_physics_that_came_apart_say_so(sim):
    sim.reset(0, "block")
    sim.physics.push("red_block", (np.nan, 0, 0))
    with pytest.raises(PhysicsError, match="scene 'block', seed 0"):
        sim.advance(5)
    sim.reset(0, "block")
    sim.advance(5)


def test_another_robot_is_only_a_file():
    simulator = Simulator(load_robot("single_arm"), "table", 1, cameras=())
    robot = simulator.robot
    row = robot.home.copy()
    row[0], row[robot.is_gripper] = 0.3, 0.2
    for _ in range(100):
        simulator.step(row)
    assert simulator.state() == pytest.approx(row, abs=0.02)
    assert simulator.physics.base_pose()[2, 3] == TOP
    simulator.close()


def test_lockstep_is_faster_than_real_time(sim):
    sim.reset(0, "table")
    start = time.process_time()
    for _ in range(200):
        sim.step(ROBOT.home)
    assert 200 * ROBOT.dt / (time.process_time() - start) > 2  # 12 on an idle core; `./pi sim bench`


def test_reach_says_how_far_off_it_is():
    arm = ROBOT.group("left_arm")
    pose = top_down((0.5, 0.1, 0.8), 0.7)
    row = reach(ROBOT, KINEMATICS, arm, pose, ROBOT.home)
    assert KINEMATICS.link_pose(row, arm.tool) == pytest.approx(pose, abs=2e-3)
    with pytest.raises(ReachError, match="left_arm does not reach .2.0, 0.0, 0.8.: off by 1...\\.. mm"):
        reach(ROBOT, KINEMATICS, arm, top_down((2.0, 0.0, 0.8), 0.0), ROBOT.home)


def test_coarse_meshes_keep_their_extent_and_lose_triangles():
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 80, endpoint=False), np.linspace(-1, 1, 60))
    vertices = np.stack([0.1 * np.cos(u), 0.1 * np.sin(u), 0.2 * v], axis=-1).reshape(-1, 3)
    k = np.arange(80 * 59)
    right = k - k % 80 + (k + 1) % 80
    faces = np.concatenate([np.c_[k, right, k + 80], np.c_[right, right + 80, k + 80]])
    fewer, kept = coarsen(vertices, faces)
    assert len(kept) < len(faces) / 6
    assert np.ptp(fewer, axis=0) == pytest.approx(np.ptp(vertices, axis=0), rel=0.15)
    assert kept.max() < len(fewer)
