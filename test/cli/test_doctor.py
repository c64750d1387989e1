"""The doctor's checks, on this machine as it is and on ones where something is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi_policy_node import doctor
from pi_policy_node.doctor import Finding, graph, machine
from pi_policy_node.doctor._ask import ask
from pi_policy_node.environment import checkout, ros_environment


def only(findings: Iterator[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_images_go_to_another_process_and_back() -> None:
    for _ in range(3):  # a second on a machine that others use too
        finding = only(graph.images(), "images")
        if not finding.mend:
            break
    assert not finding.wrong, finding
    assert "delivered" in finding.text and "lost" in finding.text


@pytest.mark.parametrize(("load", "wrong"), [(0.5, True), (500.0, False)])
def test_lost_images_are_wrong_unless_the_machine_is_swamped(
    monkeypatch: pytest.MonkeyPatch, load: float, wrong: bool
) -> None:
    line = '{"met": true, "sent": 30, "delivered": 10, "slowest_ms": 5.0}'
    monkeypatch.setattr("subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 0, line, ""))
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    finding = only(graph.images(), "images")
    assert "10 delivered, 20 lost" in finding.text
    assert finding.wrong is wrong
    assert finding.mend


def test_ros_and_the_messages_are_found() -> None:
    findings = list(graph.ros())
    assert not any(finding.wrong for finding in findings), findings
    assert "rclpy imports in" in only(iter(findings), "ROS 2").text


def test_a_missing_package_is_named_with_what_would_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("json", "nosuchpackage"))
    finding = only(machine.packages(), "packages")
    assert finding.wrong
    assert "nosuchpackage can't be imported" in finding.text
    assert "./pi" in finding.mend


def test_no_picture_without_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    finding = only(machine.opengl(), "OpenGL")
    assert finding.wrong
    assert "libegl1" in finding.mend


def test_transports_that_cut_a_shell_off_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    assert any("LARGE_DATA" in finding.text and finding.mend for finding in graph.transports())
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS")
    assert not any(finding.mend for finding in graph.transports())


@pytest.mark.parametrize(("free", "mark"), [(64e6, "WRONG"), (300e6, "note"), (4e9, "ok")])
def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch, free: float, mark: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free, "total": free}))
    assert str(only(graph.shared_memory(), "shared memory")).startswith(mark)


def test_the_exit_status_tells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def bad() -> Iterator[Finding]:
        yield Finding("thing", "is broken", "mend it", wrong=True)

    def good() -> Iterator[Finding]:
        yield Finding("other", "works")

    monkeypatch.setattr(machine, "CHECKS", (good,))
    monkeypatch.setattr(graph, "CHECKS", (good,))
    assert doctor.report() == 0
    monkeypatch.setattr(graph, "CHECKS", (bad, good))
    assert doctor.report() == 1
    out = capsys.readouterr().out
    assert "WRONG  thing" in out and "-> mend it" in out and "1 thing to mend" in out


def test_a_question_that_crashes_is_an_answer() -> None:
    assert ask("answer['x'] = 1") == ({"x": 1}, "")
    assert "ZeroDivisionError" in ask("1 / 0")[1]
    assert "died with status -11" in ask("import os; os.kill(os.getpid(), 11)")[1]
    assert "no answer within" in ask("import time; time.sleep(30)", seconds=0.5)[1]


def test_it_looks_around_where_nothing_is_installed(tmp_path: Path) -> None:
    """As after a failed set-up: the system's bare interpreter, and a report that says so instead of a traceback."""
    env = {"PYTHONPATH": str(checkout()), "PATH": "/usr/bin:/bin"}
    code = "import sys; sys.path.append(''); from pi_policy_node.doctor import report; sys.exit(report())"
    base = Path(getattr(sys, "_base_executable", sys.executable))
    done = subprocess.run([base, "-I", "-c", f"import sys; sys.path.insert(0, {str(checkout())!r}); {code}"],
                          env=env, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert "ok     Python" in done.stdout
    assert ros_environment()["FASTDDS_DEFAULT_PROFILES_FILE"] in done.stdout
