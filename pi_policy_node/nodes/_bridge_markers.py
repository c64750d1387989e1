"""What a person should see in RViz: the tools' paths, coloured by what became of each row, the box that the tools stay
in, and in words what is asked of the robot and what holds it."""

from __future__ import annotations

import itertools

from geometry_msgs.msg import Point
from rclpy.node import Node
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from pi_policy_node.control import Row, Rows, Timeline
from pi_policy_node.nodes.common import RELIABLE1, to_duration, to_stamp
from pi_policy_node.robot import Kinematics, Robot

COLOURS = {
    Row.PENDING: ColorRGBA(r=0.20, g=0.55, b=1.00, a=1.0),
    Row.EXECUTED: ColorRGBA(r=0.30, g=0.80, b=0.35, a=0.9),
    Row.LIMITED: ColorRGBA(r=1.00, g=0.65, b=0.10, a=1.0),
    Row.DISCARDED: ColorRGBA(r=0.85, g=0.20, b=0.25, a=0.4),
}
LIFETIME = 500_000_000  # ns: a dead bridge's plan does not stay on the screen
BOX = ColorRGBA(r=0.60, g=0.60, b=0.65, a=0.5)
WORDS = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
WIDTH = 0.006  # m
LETTERS = 0.07  # m


class PlanMarkers:
    """Publishes on `plan` while somebody looks. Every marker has the same name and id for ever; each arm has two lines."""

    def __init__(self, node: Node, robot: Robot, kinematics: Kinematics) -> None:
        self._kinematics, self._frame = kinematics, robot.base_frame
        self._workspace = robot.workspace
        self._publisher = node.create_publisher(MarkerArray, "plan", RELIABLE1)

    def close(self) -> None:
        self._publisher.destroy()

    def publish(self, timeline: Timeline, now: int, words: str) -> None:
        if not self._publisher.get_subscription_count():
            return
        markers = [
            self._line(f"{arm}/{what}", points, rows, now)
            for what, rows in (("plan", timeline.rows), ("replaced", timeline.discarded)) if len(rows.times) > 1
            for arm, points in self._kinematics.tools(rows.values).items()
        ]
        self._publisher.publish(MarkerArray(markers=[*markers, self._box(now), self._words(words, now)]))

    def _line(self, name: str, points, rows: Rows, now: int) -> Marker:
        marker = self._marker(name, Marker.LINE_STRIP, now)
        marker.scale.x = WIDTH
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in points.tolist()]
        marker.colors = [COLOURS[Row(fate)] for fate in rows.fate.tolist()]
        return marker

    def _box(self, now: int) -> Marker:
        marker = self._marker("workspace", Marker.LINE_LIST, now)
        marker.scale.x, marker.color = WIDTH / 2, BOX
        corners = list(itertools.product(*self._workspace.T.tolist()))
        marker.points = [
            Point(x=x, y=y, z=z)
            for one, other in itertools.combinations(corners, 2) if sum(a != b for a, b in zip(one, other)) == 1
            for x, y, z in (one, other)
        ]
        return marker

    def _words(self, words: str, now: int) -> Marker:
        marker = self._marker("words", Marker.TEXT_VIEW_FACING, now)
        marker.scale.z, marker.color, marker.text = LETTERS, WORDS, words
        marker.pose.position.z = float(self._workspace[1, 2]) + 2 * LETTERS
        return marker

    def _marker(self, name: str, kind: int, now: int) -> Marker:
        marker = Marker(ns=name, id=0, type=kind, action=Marker.ADD, lifetime=to_duration(LIFETIME))
        marker.header.frame_id = self._frame
        marker.header.stamp = to_stamp(now)
        marker.pose.orientation.w = 1.0
        return marker
