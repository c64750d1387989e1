"""What the launch files share, and what stands in for `launch` and `launch_ros` where they are not installed.

The three prefixes go to `Node(prefix=...)`; guard.py says what they do.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from pathlib import Path

STAND_IN = Path(__file__).parent / "stand_in"

_GUARD = f"{shlex.quote(sys.executable)} -IS {shlex.quote(str(Path(__file__).with_name('guard.py')))}"
BRIDGE = f"{_GUARD} bridge --"
AFTER_BRIDGE = f"{_GUARD} after --"
OUTLIVE = f"{_GUARD} outlive --"


def package_prefix(package: str) -> Path | None:
    """The ament prefix in which a ROS package is installed; None where it is not."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix and (Path(prefix) / "share/ament_index/resource_index/packages" / package).is_file():
            return Path(prefix)
    return None


def provide() -> bool:
    """Makes `import launch` and `import launch_ros` work. True: they are the installed ones; False: the stand-in."""
    # A bare `import launch` proves nothing: a folder called launch/ passes for a namespace package.
    if _imports():
        return True
    for name in [name for name in sys.modules if name.partition(".")[0] in ("launch", "launch_ros")]:
        del sys.modules[name]
    sys.path.insert(0, str(STAND_IN))
    importlib.invalidate_caches()
    return False


def _imports() -> bool:
    try:
        from launch import LaunchDescription  # noqa: F401
        from launch_ros.actions import Node
    except ImportError:
        return False
    return not Path(sys.modules[Node.__module__].__file__).is_relative_to(STAND_IN)
