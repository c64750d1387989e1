"""The environment that processes run in, the files that come with the package, and domains of one's own."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pi_policy_node.environment import DOMAINS, checkout, claim_domain, ros_environment, share


def test_transports_and_discovery_are_set_whatever_the_shell_says() -> None:
    base = {
        "PATH": "/bin", "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA", "ROS_LOCALHOST_ONLY": "0", "ROS_DOMAIN_ID": "7",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
    }
    env = ros_environment(base=base)
    assert env["FASTDDS_DEFAULT_PROFILES_FILE"] == str(share("config", "fastdds.xml"))
    assert "FASTDDS_BUILTIN_TRANSPORTS" not in env
    assert env["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_LOCALHOST_ONLY" not in env
    assert env["ROS_DOMAIN_ID"] == "7"
    assert ros_environment(base=base, domain=64)["ROS_DOMAIN_ID"] == "64"
    assert ros_environment(base=base, local=False)["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"


def test_the_wheels_libraries_are_named_in_the_same_order_each_time(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    for name in ("ros_rcl.libs", "ros_fastdds.libs", "ros_rclpy.libs"):
        (packages / name).mkdir(parents=True)
    (tmp_path / "colcon").mkdir()
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    (tmp_path / "share" / "rclpy" / "package.xml").touch()
    env = ros_environment(venv=tmp_path, base={"LD_LIBRARY_PATH": "/mine", "RMW_IMPLEMENTATION": "rmw_other_cpp"})
    assert env["LD_LIBRARY_PATH"].split(":") == [
        *(str(packages / name) for name in ("ros_fastdds.libs", "ros_rcl.libs", "ros_rclpy.libs")),
        str(tmp_path / "lib"), str(tmp_path / "colcon" / "install" / "lib"), "/mine",
    ]
    assert env["AMENT_PREFIX_PATH"].split(":") == [str(tmp_path / "colcon" / "install"), str(tmp_path)]
    assert env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] == "1"
    assert env["RMW_IMPLEMENTATION"] == "rmw_fastrtps_cpp"  # the only one there is
    assert ros_environment(venv=tmp_path, base=env) == env  # nothing grows when processes start processes


def test_a_sourced_ros_keeps_its_own_paths(tmp_path: Path) -> None:
    (tmp_path / "lib" / "python3.12" / "site-packages").mkdir(parents=True)
    (tmp_path / "colcon").mkdir()
    base = {"AMENT_PREFIX_PATH": "/opt/ros/jazzy", "PYTHONPATH": "/ros", "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    env = ros_environment(venv=tmp_path, base=base)
    assert env["AMENT_PREFIX_PATH"] == f"{tmp_path}/colcon/install:/opt/ros/jazzy"
    assert env["PYTHONPATH"].split(":")[0] == str(checkout())
    assert env["PYTHONPATH"].endswith(":/ros")
    assert env["RMW_IMPLEMENTATION"] == "rmw_cyclonedds_cpp"
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in env


def test_share_finds_the_installed_files(tmp_path: Path) -> None:
    """Copied as colcon installs it: the package in site-packages, the files under share."""
    packages = tmp_path / "lib" / "site-packages"
    shutil.copytree(checkout() / "pi_policy_node", packages / "pi_policy_node")
    installed = tmp_path / "share" / "pi_policy_node"
    installed.mkdir(parents=True)
    (installed / "package.xml").touch()
    code = "from pi_policy_node.environment import share; print(share('config', 'fastdds.xml'))"
    env = {"PYTHONPATH": str(packages), "AMENT_PREFIX_PATH": f"/nowhere:{tmp_path}"}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(installed / "config" / "fastdds.xml"), done.stderr
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(packages)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "source the workspace's install/setup.bash" in done.stderr


def test_two_claims_are_two_domains_and_end_with_their_holder() -> None:
    code = "from pi_policy_node.environment import *; d = claim_domain(); print(d.__enter__().id, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=checkout(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    theirs = int(other.stdout.readline())
    try:
        with claim_domain() as ours:
            assert ours.id != theirs
            assert {ours.id, theirs} <= set(DOMAINS)
    finally:
        other.kill()
        other.communicate()
    # Killed without a word, and the lock can be had again; a claim of another test run may come between.
    end = time.monotonic() + 30
    with open(Path(tempfile.gettempdir()) / f"pi-domain-{theirs}.lock") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                assert time.monotonic() < end, "the lock outlived its holder"
                time.sleep(0.1)


def test_a_domain_on_which_others_talk_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with claim_domain() as free:
        pass
    monkeypatch.setattr("pi_policy_node.environment.DOMAINS", range(free.id, free.id + 40))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as robot:
        robot.bind(("", 7400 + 250 * free.id + 10))
        with claim_domain() as ours:
            assert ours.id != free.id


def test_the_domain_fixture_tells_child_processes(domain: int) -> None:
    assert os.environ["ROS_DOMAIN_ID"] == str(domain)
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
