"""The `pi` script and the dispatch of verbs, as a person at a shell meets them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pi_policy_node import __main__ as dispatch
from pi_policy_node.environment import checkout

PI = checkout() / "pi"


def pi(*arguments: str, path: Path | None = None, script: Path = PI) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(path) if path else os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([str(script), *arguments], env=env, capture_output=True, text=True, timeout=60)


def test_help_lists_every_verb_that_exists_with_a_line_each() -> None:
    done = pi("--help")
    assert done.returncode == 0
    modules = {path.stem for path in (checkout() / "pi_policy_node" / "cli").glob("[a-z]*.py")}
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert modules and modules <= listed
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_help_needs_no_set_up(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(PI, fresh)
    shutil.copytree(checkout() / "pi_policy_node", fresh / "pi_policy_node", ignore=shutil.ignore_patterns("*.pyc"))
    done = pi("--help", script=fresh / "pi")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in fresh.iterdir()) == ["pi", "pi_policy_node"]


def test_a_mistyped_verb_gets_the_nearest_one() -> None:
    done = pi("docter")
    assert done.returncode == 2
    assert done.stderr == "pi: no verb 'docter': did you mean 'doctor'?\n"


def test_no_verb_shows_the_help_and_fails() -> None:
    done = pi()
    assert done.returncode == 2
    assert "usage: ./pi VERB" in done.stdout


@pytest.mark.parametrize(("answer", "says"), [("echo Python 3.8.10", "Python 3.8.10"), ("exit 1", "no python3")])
def test_a_wrong_python_is_one_line(tmp_path: Path, answer: str, says: str) -> None:
    for tool in ("sh", "dirname", "readlink"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "python3").write_text(f'#!/bin/sh\n[ "$1" = --version ] || exit 1\n{answer}\n')
    (tmp_path / "python3").chmod(0o755)
    done = pi("doctor", path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("pi: needs Python 3.10 to 3.14")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_pi_works_through_a_link_and_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "robot").symlink_to(PI)
    done = subprocess.run(["./robot", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_of_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in dispatch.verbs():
        with pytest.raises(SystemExit) as end:
            dispatch.main([verb, "--help"])
        assert end.value.code == 0
        assert f"usage: ./pi {verb}" in capsys.readouterr().out


def test_test_passes_everything_on_to_pytest() -> None:
    from pi_policy_node.cli.test import command

    assert command([])[-1] == "test"
    assert command(["-k", "limits", "-x"])[-4:] == ["-k", "limits", "-x", "test"]
    assert command(["test/cli/test_pins.py::test_x", "-v"])[-2:] == ["test/cli/test_pins.py::test_x", "-v"]
