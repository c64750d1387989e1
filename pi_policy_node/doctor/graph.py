"""ROS as the robot's programs see it: where it comes from, how messages travel, whether images arrive."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pi_policy_node.doctor import Check, Finding
from pi_policy_node.doctor._ask import ask
from pi_policy_node.environment import claim_domain, has_wheels, ros_environment, share

AGAIN = "run ./pi doctor again; if that doesn't help, delete the .venv folder first"


def ros() -> Iterator[Finding]:
    answer, error = ask(
        "import time\nstart = time.perf_counter()\nimport rclpy\nanswer['seconds'] = time.perf_counter() - start\n"
        "answer['file'] = rclpy.__file__"
    )
    if error:
        yield Finding("ROS 2", f"rclpy can't be imported: {error}", AGAIN, wrong=True)
        return
    if has_wheels(Path(sys.prefix)):
        origin = f"Kilted, from wheels in {sys.prefix}"
    else:
        origin = f"{os.environ.get('ROS_DISTRO', 'unknown distribution').capitalize()}, sourced: {answer['file']}"
    yield Finding("ROS 2", f"{origin}; rclpy imports in {answer['seconds']:.1f} s")
    answer, error = ask(
        "from pi_msgs.msg import Observation\nfrom pi_msgs.action import ExecuteTask\nimport rclpy.type_support as t\n"
        "t.check_for_type_support(Observation)\nimport pi_msgs\nanswer['file'] = pi_msgs.__file__"
    )
    yield Finding("pi_msgs", error or os.path.dirname(answer["file"]), AGAIN if error else "", wrong=bool(error))
    answer, _ = ask(
        "try:\n from launch import LaunchDescription\n answer['real'] = True\nexcept ImportError:\n"
        " answer['real'] = False\n"
        "try:\n from cv_bridge import CvBridge\n import numpy\n"
        " CvBridge().cv2_to_imgmsg(numpy.zeros((2, 2, 3), numpy.uint8), 'bgr8')\n answer['bridge'] = 'works'\n"
        "except ImportError as error:\n answer['bridge'] = 'missing'"
    )
    yield Finding("launch", "ROS's own" if answer.get("real") else "not installed; ./pi launch uses its stand-in")
    if answer.get("bridge") == "works":
        yield Finding("cv_bridge", "works with this NumPy")
    elif answer.get("bridge") == "missing":
        yield Finding("cv_bridge", "not installed; camera_ingest decodes by itself")
    else:
        yield Finding("cv_bridge", "crashes with this NumPy", "harmless: camera_ingest decodes by itself")


def transports() -> Iterator[Finding]:
    rmw = ros_environment().get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    fast = rmw.startswith("rmw_fastrtps")
    yield Finding(
        "RMW", rmw,
        "" if fast else "config/fastdds.xml does not apply to it: give it room for 2 MiB messages in its own way",
    )
    profile = share("config", "fastdds.xml")
    if not profile.is_file():
        yield Finding("transports", f"{profile} is not there", "git checkout config/fastdds.xml", wrong=True)
    else:
        yield Finding("transports", f"shared memory (32 MiB) and UDP, from {profile}")
    builtin = os.environ.get("FASTDDS_BUILTIN_TRANSPORTS")
    if builtin:
        yield Finding(
            "transports", f"FASTDDS_BUILTIN_TRANSPORTS={builtin} in this shell",
            "unset it: LARGE_DATA cuts this shell off from the robot (what ./pi starts ignores it)",
        )
    outside = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE")
    if outside:
        yield Finding(
            "transports", f"FASTRTPS_DEFAULT_PROFILES_FILE={outside} in this shell",
            "an older name of the same variable: unset it, or images may get lost",
        )
    domain, reach = os.environ.get("ROS_DOMAIN_ID", "0"), os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    yield Finding("domain", f"{domain}, discovery range {reach} (demo, test and bench claim their own, on this host)")


def shared_memory() -> Iterator[Finding]:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        yield Finding("shared memory", f"/dev/shm: {error.strerror}", "mount a tmpfs there", wrong=True)
        return
    total, free = usage.total / 1e6, usage.free / 1e6
    segments = len(glob.glob("/dev/shm/fastrtps_*"))
    text = f"/dev/shm has {free:.0f} of {total:.0f} MB free; {segments} files of Fast DDS in it"
    # A process has one segment of 32 MiB, and the simulated robot is eight processes.
    if not os.access("/dev/shm", os.W_OK):
        yield Finding("shared memory", "/dev/shm can't be written", "chmod 1777 /dev/shm", wrong=True)
    elif free < 400:
        yield Finding(
            "shared memory", text, "a robot needs about 400 MB: in a container --shm-size=1g; else end stray "
            "processes and delete /dev/shm/fastrtps_* when no ROS program runs", wrong=free < 100,
        )
    else:
        yield Finding("shared memory", text)


def images() -> Iterator[Finding]:
    """A second of raw images to another process and back, on a domain of its own."""
    module = [sys.executable, "-m", "pi_policy_node.nodes.round_trip"]
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with claim_domain() as domain:
        env = ros_environment(domain=domain.id)
        mirror = subprocess.Popen([*module, "mirror"], env=env, stdout=subprocess.DEVNULL, **quiet)
        try:
            camera = subprocess.run([*module, "camera"], env=env, stdout=subprocess.PIPE, timeout=30, **quiet)
            line = camera.stdout if camera.returncode == 0 else ""
            error = camera.stderr.strip().splitlines()[-1:] or [f"status {camera.returncode}"]
        except subprocess.TimeoutExpired:
            line, error = "", ["no answer within 30 s"]
        finally:
            mirror.terminate()
            try:
                mirror.communicate(timeout=3)
            except subprocess.TimeoutExpired:
                mirror.kill()  # Fast DDS can spin for ever at exit
                mirror.communicate()
    if not line:
        yield Finding("images", f"the round trip failed: {error[0]}", AGAIN, wrong=True)
        return
    result = json.loads(line.splitlines()[-1])
    sent, delivered = result["sent"], result["delivered"]
    text = (
        f"640x480 rgb8 at 30 Hz to another process and back for 1 s: {delivered} delivered, {sent - delivered} lost, "
        f"slowest {result['slowest_ms']:.0f} ms"
    )
    if not result["met"]:
        yield Finding(
            "images", "two processes on this host did not find each other within 10 s",
            "a firewall on the loopback interface, or no multicast there: ip link set lo multicast on", wrong=True,
        )
    elif delivered < 0.9 * sent:
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
        busy = load > 2 * cores  # then it says little about transports
        mend = f"the load here is {load:.0f} on {cores} cores: look again when less runs" if busy else (
            "look at shared memory and transports above"
        )
        yield Finding("images", text, mend, wrong=not busy)
    else:
        yield Finding("images", text)


CHECKS: tuple[Check, ...] = (ros, transports, shared_memory, images)
