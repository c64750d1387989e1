"""Robot files that are the shipped ones with something changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi_policy_node.environment import share


@pytest.fixture
def edited(tmp_path: Path):
    """edited("pi_mobile", (old, new), ...) -> a robot file with these texts replaced; each must be there."""

    def edit(name: str, *changes: tuple[str, str]) -> Path:
        return rewrite(share("config", "robots", f"{name}.yaml"), tmp_path / "robot.yaml", *changes)

    return edit


@pytest.fixture
def edited_urdf(tmp_path: Path):
    """The same for pi_mobile's expanded URDF: a robot file that uses the changed one."""

    def edit(*changes: tuple[str, str]) -> Path:
        from pi_policy_node.robot import load_robot

        urdf = tmp_path / "robot.urdf"
        text = load_robot("pi_mobile").urdf()
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        urdf.write_text(text)
        original = share("config", "robots", "pi_mobile.yaml")
        return rewrite(original, tmp_path / "robot.yaml", ("pi_mobile.urdf.xacro  ", "robot.urdf  "))

    return edit


@pytest.fixture
def edited_controllers(tmp_path: Path):
    """The same for the controllers of a robot."""

    def edit(name: str, controllers: str, *changes: tuple[str, str]) -> Path:
        rewrite(share("config", controllers), tmp_path / "mine.yaml", *changes)
        original = share("config", "robots", f"{name}.yaml")
        return rewrite(original, tmp_path / "robot.yaml", (f"controllers: {controllers}", "controllers: mine.yaml"))

    return edit


def rewrite(source: Path, target: Path, *changes: tuple[str, str]) -> Path:
    text = source.read_text()
    for old, new in changes:
        assert old in text, f"{source.name} no longer has: {old}"
        text = text.replace(old, new, 1)
    target.write_text(text)
    return target
