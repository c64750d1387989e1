"""rviz/pi_mobile.rviz, which cannot be opened here: it is well-formed, and what it shows is published by the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pi_policy_node.environment import checkout, share
from pi_policy_node.robot import load_robot

CONFIG = yaml.safe_load(share("rviz", "pi_mobile.rviz").read_text())
DISPLAYS = CONFIG["Visualization Manager"]["Displays"]
TOPICS = {display["Name"]: topic["Value"] for display in DISPLAYS for key, topic in display.items()
          if key in ("Topic", "Description Topic")}


def of_class(name: str) -> list[dict]:
    return [display for display in DISPLAYS if display["Class"] == f"rviz_default_plugins/{name}"]


def test_every_camera_of_the_robot_is_shown():
    shown = {display["Topic"]["Value"] for display in of_class("Image")}
    assert shown == {camera.topic for camera in load_robot("pi_mobile").cameras}


def test_the_model_the_plan_and_the_odometry_are_shown():
    assert [TOPICS[display["Name"]] for kind in ("RobotModel", "MarkerArray", "Odometry")
            for display in of_class(kind)] == ["robot_description", "plan", "odom"]
    assert of_class("TF")


def test_names_are_relative_so_that_a_namespace_moves_them():
    assert TOPICS and not any(topic.startswith("/") for topic in TOPICS.values())


def test_every_topic_is_one_that_a_node_publishes():
    source = "\n".join(path.read_text() for path in Path(checkout(), "pi_policy_node", "nodes").glob("*.py"))
    cameras = {camera.topic for camera in load_robot("pi_mobile").cameras}
    for topic in set(TOPICS.values()) - cameras - {"robot_description"}:  # that one is robot_state_publisher's
        assert f'"{topic}"' in source, topic


def test_frames_are_those_of_the_robot():
    robot = load_robot("pi_mobile")
    assert CONFIG["Visualization Manager"]["Global Options"]["Fixed Frame"] == "odom"
    assert CONFIG["Visualization Manager"]["Views"]["Current"]["Target Frame"] == robot.base_frame


@pytest.mark.parametrize("kind, reliability, durability", [
    ("Image", "Best Effort", "Volatile"), ("MarkerArray", "Reliable", "Volatile"),
    ("Odometry", "Best Effort", "Volatile"), ("RobotModel", "Reliable", "Transient Local"),
])
def test_quality_of_service_matches_the_publishers(kind, reliability, durability):
    for display in of_class(kind):
        topic = display.get("Topic", display.get("Description Topic"))
        assert (topic["Reliability Policy"], topic["Durability Policy"]) == (reliability, durability)


def test_names_are_unique_and_docked_panels_are_known():
    names = [display["Name"] for display in DISPLAYS]
    assert len(names) == len(set(names))
    panels = {panel["Name"] for panel in CONFIG["Panels"]} | {display["Name"] for display in of_class("Image")}
    docked = {name for name, value in CONFIG["Window Geometry"].items() if isinstance(value, dict)}
    assert docked == panels
