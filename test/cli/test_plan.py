"""Which Python and which ROS `./pi` takes, and its one line when none will do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pi_policy_node.bootstrap import SetupError, install, plan
from pi_policy_node.bootstrap.plan import Plan, make_plan


def fake_ros(folder: Path, distro: str = "jazzy", python: str = "3.12") -> dict[str, str]:
    """A prefix as apt installs one, and the variables of a shell that has sourced it."""
    prefix = folder / distro
    (prefix / "share" / "rclpy").mkdir(parents=True)
    (prefix / "share" / "rclpy" / "package.xml").write_text("<package/>")
    (prefix / "lib" / f"python{python}" / "site-packages" / "rclpy").mkdir(parents=True)
    interpreter = prefix / "bin" / f"python{python}"
    interpreter.parent.mkdir()
    interpreter.write_text("#!/bin/sh\necho 1.26.4\n")
    interpreter.chmod(0o755)
    return {"AMENT_PREFIX_PATH": f"{folder / 'workspace'}{os.pathsep}{prefix}", "ROS_DISTRO": distro}


def test_without_ros_wheels_go_into_dot_venv(tmp_path: Path) -> None:
    found = make_plan(tmp_path, {})
    assert found.sourced is None
    assert found.venv == tmp_path / ".venv"
    assert "ros" in [step.name for step in install.steps(whole(found))]


def test_sourced_ros_is_used_with_its_own_python_and_without_wheels(tmp_path: Path) -> None:
    found = make_plan(tmp_path, fake_ros(tmp_path))
    assert found.sourced == tmp_path / "jazzy"
    assert found.version == (3, 12)
    assert found.python == str(tmp_path / "jazzy" / "bin" / "python3.12")
    assert found.venv == tmp_path / ".venv-jazzy"
    assert "ros" not in [step.name for step in install.steps(whole(found))]


def whole(found: Plan) -> Plan:
    """The same plan for the checkout, whose files the steps hash."""
    from dataclasses import replace

    from pi_policy_node.environment import checkout

    return replace(found, root=checkout())


def test_numpy_1_beside_a_ros_that_has_it(tmp_path: Path) -> None:
    found = make_plan(tmp_path, fake_ros(tmp_path))  # its interpreter answers 1.26.4
    assert install._pins(found).name == "numpy1.txt"
    assert install._pins(make_plan(tmp_path, {})).name == "base.txt"


def test_the_environment_that_pi_made_is_no_sourced_ros(tmp_path: Path) -> None:
    env = fake_ros(tmp_path)
    (tmp_path / "jazzy" / "pyvenv.cfg").write_text("version = 3.12.3\n")
    assert make_plan(tmp_path, {"AMENT_PREFIX_PATH": env["AMENT_PREFIX_PATH"]}).sourced is None


@pytest.mark.parametrize(
    ("distro", "python", "says"),
    [("humble", "3.10", "Humble is too old"), ("jazzy", "3.8", "3.10 to 3.14 will do")],
)
def test_too_old_is_refused(tmp_path: Path, distro: str, python: str, says: str) -> None:
    with pytest.raises(SetupError, match=says):
        make_plan(tmp_path, fake_ros(tmp_path, distro, python))


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    env = fake_ros(tmp_path, python="3.14")
    (tmp_path / "jazzy" / "bin" / "python3.14").unlink()
    if Path("/usr/bin/python3.14").exists():
        assert make_plan(tmp_path, env).python == "/usr/bin/python3.14"
    else:
        with pytest.raises(SetupError, match="apt-get install python3.14"):
            make_plan(tmp_path, env | {"PATH": ""})


def test_installed_but_not_sourced_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "INSTALLS", tmp_path)
    (tmp_path / "jazzy").mkdir()
    (tmp_path / "jazzy" / "setup.sh").touch()
    with pytest.raises(SetupError, match=r"jazzy/setup\.sh"):
        make_plan(tmp_path, {"ROS_DISTRO": "jazzy"})


def test_other_machines_need_a_sourced_ros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(SetupError, match="aarch64.*source a ROS 2"):
        make_plan(tmp_path, {})
    assert make_plan(tmp_path, fake_ros(tmp_path)).sourced is not None


def test_the_python_of_an_environment_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.3\n")
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert make_plan(tmp_path, {}).version == (3, 12)
