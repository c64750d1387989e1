"""Set-up's steps: done once, again when their inputs change, resumed after an interruption; failures in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pi_policy_node.bootstrap import SetupError, install, system
from pi_policy_node.bootstrap.explain import explain
from pi_policy_node.bootstrap.plan import Plan
from pi_policy_node.bootstrap.steps import Runner, Stamps, Step, StepFailed, digest, do, only_one
from pi_policy_node.environment import checkout


def steps(done: list[str], **inputs: str) -> list[Step]:
    return [Step(name, name, value, lambda _, name=name: done.append(name)) for name, value in inputs.items()]


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    done: list[str] = []
    do(steps(done, one="a", two="a"), Stamps(tmp_path), tmp_path / "log", {})
    do(steps(done, one="a", two="a"), Stamps(tmp_path), tmp_path / "log", {})
    assert done == ["one", "two"]
    do(steps(done, one="a", two="b"), Stamps(tmp_path), tmp_path / "log", {})
    assert done == ["one", "two", "two"]


def test_a_failed_step_is_done_again_and_earlier_ones_are_not(tmp_path: Path) -> None:
    done: list[str] = []
    broken = Step("two", "two", "a", lambda runner: runner.run("false"))
    first = steps(done, one="a")
    with pytest.raises(StepFailed, match="status 1"):
        do([*first, broken], Stamps(tmp_path), tmp_path / "log", {})
    assert Stamps(tmp_path).missing([*first, broken]) == [broken]


def test_a_step_that_clears_the_folder_undoes_earlier_runs_only(tmp_path: Path) -> None:
    done: list[str] = []
    do(steps(done, old="a"), Stamps(tmp_path), tmp_path / "log", {})
    clear = Step("clear", "clear", "a", lambda _: (tmp_path / "pi-stamps.json").unlink())
    do([*steps(done, new="a"), clear], Stamps(tmp_path), tmp_path / "log", {})
    everything = [*steps(done, old="a", new="a"), clear]
    assert [step.name for step in Stamps(tmp_path).missing(everything)] == ["old"]


def test_unreadable_stamps_mean_everything_is_done(tmp_path: Path) -> None:
    (tmp_path / "pi-stamps.json").write_text('{"one": "a"')
    assert Stamps(tmp_path).missing(steps([], one="a"))


def test_digest_sees_contents_and_order(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    before = digest("x", files=[file])
    assert before == digest("x", files=[file])
    file.write_text("b")
    assert digest("x", files=[file]) != before
    assert digest("ab", "c") != digest("a", "bc")


INTERRUPTED = """
import sys
from pathlib import Path
import subprocess
from pi_policy_node.bootstrap.steps import *
wait = subprocess.Popen.wait
def waits(*arguments, **options):
    Path(sys.argv[1], "waits").touch()
    return wait(*arguments, **options)
subprocess.Popen.wait = waits
done = Step("one", "one", "a", lambda runner: None)
slow = Step("two", "two", "a", lambda runner: runner.run("sh", "-c", "echo $$; sleep 60 & echo $!; wait"))
do([done, slow], Stamps(Path(sys.argv[1])), Path(sys.argv[1]), {"PATH": "/usr/bin:/bin"})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_between_steps_it_goes_on_from_there(tmp_path: Path, number: signal.Signals) -> None:
    stop = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys\n" + stop + INTERRUPTED, str(tmp_path)], cwd=checkout(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(read(tmp_path / "two.log").splitlines()) == 3 and (tmp_path / "waits").exists())
    process.send_signal(number)
    assert process.wait(timeout=10) != 0
    assert '"one"' in read(tmp_path / "pi-stamps.json")
    assert '"two"' not in read(tmp_path / "pi-stamps.json")
    for started in read(tmp_path / "two.log").splitlines()[1:]:
        wait_for(lambda: not running(int(started)))


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def wait_for(condition, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_two_runs_do_not_set_up_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def second() -> None:
        with only_one(tmp_path):
            order.append("second")

    with only_one(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        seen = ""
        end = time.monotonic() + 10
        while "waiting" not in seen and time.monotonic() < end:
            seen += capsys.readouterr().out
        order.append("first")
    other.join(timeout=10)
    assert "another ./pi is setting up" in seen
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("WARNING: Retrying ... NewConnectionError: [Errno -3] Temporary failure in name resolution", "no network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "hashes differ"),
        ("CMake Error: No CMAKE_CXX_COMPILER could be found.", "apt-get install g++"),
        ("x.c:1:10: fatal error: Python.h: No such file or directory", "python3-dev"),
        ("E: Could not get lock /var/lib/dpkg/lock-frontend", "another apt is running"),
        ("fine\nERROR: No matching distribution found for x==1\nbye", "No matching distribution found for x==1"),
        ("", "it said nothing"),
    ],
)
def test_one_line_for_each_cause(output: str, says: str) -> None:
    line = explain(output, 1)
    assert says in line
    assert "\n" not in line


def fake_plan(folder: Path, pip: str) -> Plan:
    """A plan whose environment has a Python that answers every command as the shell script `pip` does."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n" + pip)
    python.chmod(0o755)
    return Plan(checkout(), folder / ".venv", sys.executable, (3, 11), "kilted", None)


def run(plan: Plan, work, folder: Path) -> None:
    do([Step("x", "x", "a", lambda runner: work(plan, runner))], Stamps(plan.venv), folder / "log", os.environ)


def test_no_network_is_one_line_that_names_the_log(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path, "echo 'NewConnectionError: Temporary failure in name resolution'\nexit 1\n")
    with pytest.raises(SetupError, match="^no network.*x\\.log\\)$"):
        run(plan, install._torch, tmp_path)


def test_the_cpu_build_is_preferred_and_the_other_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(install, "CUDA_TORCH_GB", 0.001)
    plan = fake_plan(
        tmp_path,
        f'echo "$@" >> {tmp_path}/asked\ncase "$*" in *+cpu*) echo "ERROR: No matching distribution found for torch"; '
        "exit 1;; esac\n",
    )
    run(plan, install._torch, tmp_path)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert ["+cpu" in line for line in asked] == [True, False]
    assert "finds only the CUDA build" in capsys.readouterr().out


def test_a_wheel_half_unpacked_is_installed_again(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path, "exit 0\n")
    whole, half = (plan.site_packages / name for name in ("whole-1.dist-info", "half-1.dist-info"))
    for folder in (whole, half):
        folder.mkdir(parents=True)
    (whole / "INSTALLER").write_text("pip\n")
    run(plan, install._packages, tmp_path)
    assert whole.exists()
    assert not half.exists()


def test_an_environment_made_elsewhere_or_without_pip_is_not_adopted(tmp_path: Path) -> None:
    plan = fake_plan(tmp_path, "exit 0\n")
    activate = plan.venv / "bin" / "activate"
    activate.write_text("VIRTUAL_ENV=/somewhere/else\n")
    assert not install._adoptable(plan)
    activate.write_text(f"VIRTUAL_ENV={plan.venv}\n")
    assert install._adoptable(plan)
    plan.venv_python.write_text("#!/bin/sh\nexit 1\n")
    assert not install._adoptable(plan)


def test_too_little_disk_is_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1.2e9}))
    plan = fake_plan(tmp_path, "exit 0\n")
    with pytest.raises(SetupError, match="not enough disk: .* 1.2 GB are free"):
        install.check_disk(plan, install.steps(plan))
    install.check_disk(plan, [])


def test_no_compiler_and_no_root_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    plan = fake_plan(tmp_path, "exit 1\n")
    with pytest.raises(SetupError, match=r"type `sudo apt-get install -y .*g\+\+ make.*` and run \./pi again"):
        run(plan, system.install, tmp_path)


def test_stale_paths_of_the_wheels_are_repaired(tmp_path: Path) -> None:
    file = tmp_path / "share" / "x" / "cmake" / "export.cmake"
    file.parent.mkdir(parents=True)
    file.write_text(
        "set(a /opt/python/cp312-cp312/include/python3.12)\n"
        "set(b /opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include)\n"
    )
    assert install.repair_cmake(tmp_path / "share", include="/inc", packages="/pkg") == 1
    assert file.read_text() == "set(a /inc)\nset(b /pkg/numpy/_core/include)\n"
    assert install.repair_cmake(tmp_path / "share", include="/inc", packages="/pkg") == 0
