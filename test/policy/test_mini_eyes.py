"""What the eyes of mini see where, and whom it believes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pi_policy_node.policy.mini_eyes import directions, harmonics, heading, turned
from pi_policy_node.policy.mini_model import BENT, FAR, REACH, Mini
from pi_policy_node.policy.mini_rows import hands
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.sim.expert import Expert


@pytest.fixture(scope="module")
def robot():
    return load_robot("pi_mobile")


def test_an_eye_knows_how_deep_the_table_is_in_each_of_its_cells(robot):
    kinematics, model = Kinematics(robot), Mini(MiniShape(), 10)
    for name, eye in (("front_camera", model.front), ("left_wrist_camera", model.wrist)):
        camera = next(camera for camera in robot.cameras if camera.name == name)
        pose = kinematics.link_pose(robot.home, camera.frame)[:3]
        deep = eye.deep(torch.from_numpy(pose).float()[None], eye.rays[None, None])[0, 0].numpy()
        places = np.c_[eye.rays.numpy() * deep[:, None], deep] @ pose[:, :3].T + pose[:, 3]
        down = (deep > 0.031) & (deep < 4 * eye.shape.depth - 0.01) & (np.abs(deep - eye.shape.depth) > 1e-6)
        assert np.abs(places[down, 2] - eye.shape.table).max() < 1e-4 and down.mean() > 0.4, name
    up = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1]]])  # it looks straight ahead
    above = model.front.deep(up, model.front.rays[None, None])[0, 0, model.front.rays[:, 1] < 0]
    assert (above == model.front.shape.depth).all(), "no table in the sky"


def test_words_shift_the_place_along_the_bases_axes_wherever_a_camera_looks(robot):
    """The same cell, the same way from it, seen through two cameras that are turned otherwise."""
    eye = Mini(MiniShape(), 10).front
    seen, wanted = torch.randn(1, MiniShape().channels, *eye.shape.cells), torch.randn(1, 1, 128)
    camera = next(camera for camera in robot.cameras if camera.name == "front_camera")
    pose = torch.from_numpy(Kinematics(robot).link_pose(robot.home, camera.frame)[:3]).float()
    turned_pose = pose.clone()
    turned_pose[:, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ pose[:, :3]
    for at in (pose, turned_pose):
        places = []
        for shift in (0.0, 1.2):
            with torch.no_grad():
                eye.shift.bias.copy_(torch.tensor([0.0, shift, 0.5 * shift]))
                places.append(at[:, :3] @ eye.point(seen, wanted, at[None]).spot[0, 0] + at[:, 3])
        assert torch.allclose(places[1] - places[0], torch.tensor([0, 0.12, 0.06]), atol=1e-5)


def test_directions_of_fingers_are_the_same_for_what_looks_the_same():
    brick, block, prism, ball = (harmonics([0.3 + k * math.tau / 2 / n for k in range(n)]) for n in (1, 2, 3, 8))
    assert np.allclose(brick, [f(k * 0.3) for k in (2, 4, 6) for f in (math.cos, math.sin)])
    assert np.allclose(block[:2] + block[4:], 0) and np.allclose(block[2:4], brick[2:4])
    assert np.allclose(prism[:4], 0) and np.allclose(prism[4:], brick[4:]) and np.allclose(ball, 0)
    assert np.allclose(turned(torch.tensor(brick), torch.tensor(0.4)), harmonics([0.7]), atol=1e-6)
    for n, those in enumerate((brick, block, prism), 1):
        known = sorted(directions(np.array(those) + 0.05))
        assert np.allclose(known, [0.3 + k * math.pi / n for k in range(n)], atol=0.06), "and back"
    assert not len(directions(np.array(ball) + 0.05))
    right = torch.eye(3, 4)
    right[:2, :2] = torch.tensor([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    assert math.isclose(heading(right[None])[0], 0.4, abs_tol=1e-6)


def test_an_eye_notices_what_stands_out_from_left_to_right():
    eye = Mini(MiniShape(), 10).front
    seen = torch.zeros(1, MiniShape().channels, *eye.shape.cells)
    seen[0, 0, 3, 30], seen[0, 0, 10, 4], seen[0, 0, 10, 5] = 5.0, 4.0, 3.0  # the last is a part of the second
    with torch.no_grad():
        eye.thing.weight.zero_()[0, 0] = 1.0
        looks, places = eye.notice(seen, torch.eye(3, 4)[None])
    assert looks.shape == (1, eye.shape.things, MiniShape().channels + 1) and torch.isfinite(places).all()
    assert looks[0, looks[0, :, -1] > 0.9, 0].tolist() == [4.0, 5.0]
    assert (places[0, :, 0] / places[0, :, 2]).diff().min() > -2 * eye.cell[0], "from left to right, to within a cell"


def test_what_is_noticed_is_called_by_its_name():
    """As the eyes would find it, asked for by that name; and told by that name's own last two words."""
    torch.manual_seed(0)
    model = Mini(MiniShape(), 12, [[4, 5, 6], [4, 7, 8], [4, 9, 10, 11]])
    asked = model.asked_names()
    with torch.no_grad():
        query = model.front.query(asked)[:, : MiniShape().channels]
        looks = 100 * query / query.norm(dim=1, keepdim=True)
        assert model.front.fits(looks, asked).argmax(1).tolist() == [0, 1, 2]
        told = model._called(looks[None])[0]
        ends = model.embed(torch.tensor([[5, 6], [7, 8], [10, 11]])).flatten(1)
        assert torch.allclose(told, model.called(ends), atol=1e-3)


def test_names_are_read_once_until_something_is_learnt():
    model = Mini(MiniShape(), 12, [[4, 5, 6], [4, 7, 8]]).eval()
    with torch.inference_mode():
        assert model.asked_names() is model.asked_names()
    before = model.asked_names().clone()
    with torch.no_grad():
        model.embed.weight += torch.randn_like(model.embed.weight)
    assert not torch.allclose(model.train().asked_names(), before)


@pytest.mark.parametrize("sure, seen, believed", [
    ((0.99, 0.0, 0.0), (1, 1, 1), 0), ((0.99, 0.0, 0.99), (1, 1, 1), 2),
    ((0.99, 0.0, 0.99), (1, 1, 0), 0), ((0.2, 0.9, 0.0), (1, 1, 1), 1),
])
def test_it_believes_the_eye_that_is_surest_and_nearest(sure, seen, believed):
    """Every eye sees the thing elsewhere."""
    model, heard = Mini(MiniShape(), 10), []
    model.agreed = torch.nn.Sequential(torch.nn.Identity())
    model.agreed.register_forward_hook(lambda _, args, out: heard.append(args[0]))
    spots = torch.tensor([[[0.5, 0.1, 0.8], [0.4, 0.3, 0.9], [0.6, -0.2, 0.7]]])
    looks = torch.zeros(1, 3, 49)
    looks[0, :, -1] = torch.tensor(sure)
    look = SimpleNamespace(cameras=torch.eye(3, 4).expand(1, 3, 3, 4), tools=torch.zeros(1, 2, 3),
                           seen=torch.tensor([[*seen, 1, 1]]) > 0, ways=torch.zeros(1, 2, 6, 3), hands=torch.zeros(1, 2))
    with torch.no_grad():
        model._agreed(look, SimpleNamespace(spots=spots, looks=looks, turns=torch.zeros(1, 3, 6)))
    place = REACH * heard[0][0, :3]
    assert (spots[0] - place).norm(dim=1).argmin() == believed
    if believed != 2:
        assert torch.allclose(place, spots[0, believed], atol=0.01)


def test_acting_is_told_how_joints_would_have_to_move():
    """To be above or below the thing, and up or down; as far as arms go in a straight line."""
    model, heard = Mini(MiniShape(), 10), []
    model.agreed = torch.nn.Sequential(torch.nn.Identity())
    model.agreed.register_forward_hook(lambda _, args, out: heard.append(args[0]))
    looks, ways = torch.zeros(2, 3, 49), torch.randn(2, 2, 6, 3, generator=torch.Generator().manual_seed(0))
    looks[..., -1] = 0.9
    apart = torch.tensor([[0.03, -0.02, 0.04], [3.0, -2.0, 4.0]])  # of near and far things, from either hand
    look = SimpleNamespace(cameras=torch.eye(3, 4).expand(2, 3, 3, 4), tools=torch.zeros(2, 2, 3),
                           seen=torch.ones(2, 5) > 0, ways=ways, hands=torch.zeros(2, 2))
    with torch.no_grad():
        model._agreed(look, SimpleNamespace(spots=apart[:, None].repeat(1, 3, 1), looks=looks, turns=torch.zeros(2, 3, 6)))
    told = BENT * heard[0][:, 22:46].unflatten(1, (2, 2, 6))  # hand; level, upright; joint
    for row, way in enumerate((apart[0], apart[1] * FAR / apart[1].norm())):
        level, upright = way * torch.tensor([1.0, 1.0, 0.0]), way * torch.tensor([0.0, 0.0, 1.0])
        for hand in range(2):
            for part, wanted in zip(told[row, hand], (level, upright)):
                assert torch.allclose(part, ways[row, hand] @ wanted, atol=1e-5)


@pytest.mark.parametrize("tilt", [0.0, 0.01, -0.01])
@pytest.mark.parametrize("yaw", [-0.8, 0.0, 0.4])
def test_acting_is_told_how_hands_are_turned_that_point_down(robot, yaw, tilt):
    """Along which way their fingers open, as the expert has it and as `turn` says of things."""
    state = robot.home.copy()
    for arm in Expert(robot).arms.values():
        state[arm.columns] = arm.joints(arm.home, yaw, state[arm.lift])
        state[arm.columns.start + 4] += tilt  # the arm sags a little
    _, told = hands(robot, Kinematics(robot), state[None])
    assert np.sin(told.numpy() - yaw) == pytest.approx(0.0, abs=0.01)
