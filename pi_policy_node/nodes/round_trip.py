"""A camera and a mirror: how many images make the way to another process and back. `./pi doctor` runs the pair.

    python -m pi_policy_node.nodes.round_trip mirror
    python -m pi_policy_node.nodes.round_trip camera     prints a line of JSON and ends
"""

from __future__ import annotations

import array
import json
import sys
import time

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

HEIGHT, WIDTH, HZ = 480, 640, 30.0
SECONDS = 1.0
PATIENCE = 10.0  # s for the two to find each other


class Mirror(Node):
    """Sends every image back."""

    def __init__(self) -> None:
        super().__init__("round_trip_mirror")
        self._back = self.create_publisher(Image, "round_trip/back", qos_profile_sensor_data)
        self.create_subscription(Image, "round_trip/out", self._back.publish, qos_profile_sensor_data)


class Camera(Node):
    """Sends raw images for a second and counts those that come back."""

    def __init__(self) -> None:
        super().__init__("round_trip_camera")
        self._out = self.create_publisher(Image, "round_trip/out", qos_profile_sensor_data)
        self._in = self.create_subscription(Image, "round_trip/back", self._returned, qos_profile_sensor_data)
        self._sent: dict[int, float] = {}
        self._ages: dict[int, float] = {}
        self._image = Image(
            height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=array.array("B", bytes(3 * WIDTH * HEIGHT))
        )

    def measure(self) -> dict[str, float | int | bool]:
        limit = time.monotonic() + PATIENCE
        while not (self._out.get_subscription_count() and self.count_publishers("round_trip/back")):
            if time.monotonic() > limit:
                return {"met": False, "sent": 0, "delivered": 0, "slowest_ms": 0.0}
            rclpy.spin_once(self, timeout_sec=0.05)
        # The graph knows of each other a little before the way back is open: images until one is back don't count.
        while not self._ages and time.monotonic() < limit:
            self._send(-1)
            rclpy.spin_once(self, timeout_sec=0.1)
        self._sent.clear()
        self._ages.clear()
        start = time.monotonic()
        for number in range(int(SECONDS * HZ)):
            self._send(number)
            self._spin_until(start + (number + 1) / HZ)
        self._spin_until(time.monotonic() + 0.3)
        ages = [age for number, age in self._ages.items() if number >= 0]
        return {
            "met": True, "sent": len(self._sent), "delivered": len(ages), "slowest_ms": 1e3 * max(ages, default=0.0)
        }

    def _send(self, number: int) -> None:
        self._image.header.frame_id = str(number)
        self._sent[number] = time.monotonic()
        self._out.publish(self._image)

    def _returned(self, image: Image) -> None:
        number = int(image.header.frame_id)
        self._ages[number] = time.monotonic() - self._sent.get(number, time.monotonic())

    def _spin_until(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            rclpy.spin_once(self, timeout_sec=left)


def main() -> int:
    if sys.argv[1:] not in (["camera"], ["mirror"]):
        print(__doc__, file=sys.stderr)
        return 2
    rclpy.init(args=[])
    try:
        if sys.argv[1] == "mirror":
            rclpy.spin(Mirror())
        else:
            print(json.dumps(Camera().measure()), flush=True)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
