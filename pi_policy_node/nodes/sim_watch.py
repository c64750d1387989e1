"""Listens to the diagnostics of a simulated robot for some seconds and prints what it found as JSON: for the bench."""

from __future__ import annotations

import json
import sys
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray

PATIENCE = 30.0  # s to hear of it for the first time


def main() -> int:
    """Prints the mean real-time factor, images per second and share of a core, after one second of warming up."""
    rclpy.init()
    node = rclpy.create_node("sim_watch")
    reports: list[dict[str, str]] = []

    def receive(message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name.endswith(": physics") and (not reports or values["seconds"] != reports[-1]["seconds"]):
                reports.append(values)

    node.create_subscription(DiagnosticArray, "diagnostics", receive, 10)
    seconds, started = float(sys.argv[1]), time.monotonic()
    end = started + PATIENCE
    while time.monotonic() < end:
        heard = bool(reports)
        rclpy.spin_once(node, timeout_sec=0.1)
        if reports and not heard:
            end = time.monotonic() + seconds
    rclpy.try_shutdown()
    if len(reports) < 3:
        print("no diagnostics of a simulated robot", file=sys.stderr)
        return 1
    first, last = reports[1], reports[-1]
    wall = float(last["steady"]) - float(first["steady"])
    print(json.dumps({key: (float(last[name]) - float(first[name])) / wall
                      for key, name in (("factor", "seconds"), ("images_per_s", "images"), ("cpu", "cpu"))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
