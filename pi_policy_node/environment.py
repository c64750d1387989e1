"""Where the project's files are, and the environment its processes run in. Standard library only, no ROS.

`./pi` runs this with the system's Python before anything is installed, and every process that starts another one
(launch, demo, tests, benches) uses it afterwards, so that all of them talk over the same transports.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "pi_policy_node"

# Domains that claim_domain() gives out. Above 101 the discovery ports run into Linux's ephemeral ports; the low ones
# are where people put their robots.
DOMAINS = range(62, 102)
PARTICIPANTS = 20  # of a domain whose ports are looked at before it is taken


def checkout() -> Path:
    """The folder that holds config/, urdf/, launch/ and rviz/: the checkout, or the installed share/pi_policy_node."""
    root = Path(__file__).resolve().parent.parent
    if (root / "package.xml").is_file():
        return root
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        installed = Path(prefix) / "share" / PACKAGE
        if prefix and (installed / "package.xml").is_file():
            return installed
    raise FileNotFoundError(
        f"share/{PACKAGE} is in no prefix of AMENT_PREFIX_PATH: source the workspace's install/setup.bash"
    )


def share(*parts: str) -> Path:
    """A file that comes with the package, e.g. share("config", "robots", "pi_mobile.yaml")."""
    return checkout().joinpath(*parts)


def ros_environment(
    *,
    domain: int | None = None,
    local: bool = True,
    base: Mapping[str, str] | None = None,
    venv: Path | None = None,
) -> dict[str, str]:
    """The environment for a child process: `base` (this process's own when None) and everything ROS needs on top.

    domain: ROS_DOMAIN_ID, or what `base` says when None. local: discovery stays on this host. venv: the environment
    that `./pi` made, this interpreter's own when None; a virtual environment it did not make is left as it is.
    """
    env = dict(os.environ if base is None else base)
    venv = Path(sys.prefix) if venv is None else venv
    if (venv / "colcon").is_dir():
        _add_prefixes(env, venv)
    env["FASTDDS_DEFAULT_PROFILES_FILE"] = str(share("config", "fastdds.xml"))
    # LARGE_DATA and friends override the profile, and cut the robot off from every ordinary shell.
    env.pop("FASTDDS_BUILTIN_TRANSPORTS", None)
    if local:
        env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        # The older variable wins over the newer one where both are set.
        env.pop("ROS_LOCALHOST_ONLY", None)
    if domain is not None:
        env["ROS_DOMAIN_ID"] = str(domain)
    env.setdefault("MUJOCO_GL", "egl")
    env.setdefault("PYTHONUNBUFFERED", "1")
    return env


def has_wheels(venv: Path) -> bool:
    """Whether ROS in this virtual environment comes from wheels, which makes it an ament prefix itself."""
    return (venv / "share" / "rclpy" / "package.xml").is_file()


def _add_prefixes(env: dict[str, str], venv: Path) -> None:
    """Put what `./pi` installed in `venv` in front of every search path."""
    install = venv / "colcon" / "install"
    python = _site_packages(venv).parent.name
    prefixes, libraries = [install], [install / "lib"]
    if has_wheels(venv):
        prefixes.append(venv)
        # Sorted, because the wheels' own start-up hook sets them in random order; the variable below keeps it from
        # executing every Python a second time.
        libraries = [*sorted(_site_packages(venv).glob("ros_*.libs")), venv / "lib", *libraries]
        env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
        env["RMW_IMPLEMENTATION"] = "rmw_fastrtps_cpp"  # the only one among the wheels
    # The second holds the entry points that a package built with --symlink-install is found by, as colcon's setup.sh has it.
    packages = [install / "lib" / python / "site-packages", venv / "colcon" / "build" / PACKAGE]
    if (checkout() / PACKAGE).is_dir():
        packages.insert(0, checkout())  # an edit in the checkout needs no rebuild
    _prepend(env, "AMENT_PREFIX_PATH", prefixes)
    _prepend(env, "CMAKE_PREFIX_PATH", prefixes)
    _prepend(env, "LD_LIBRARY_PATH", libraries)
    _prepend(env, "PYTHONPATH", packages)
    _prepend(env, "PATH", [venv / "bin"])
    env["VIRTUAL_ENV"] = str(venv)


def _site_packages(venv: Path) -> Path:
    found = sorted(venv.glob("lib/python3.*/site-packages"))
    if not found:
        raise FileNotFoundError(f"{venv} is not a Python virtual environment: delete it and run ./pi again")
    return found[0]


def _prepend(env: dict[str, str], name: str, paths: list[Path]) -> None:
    first = [str(path) for path in paths]
    rest = [path for path in env.get(name, "").split(os.pathsep) if path and path not in first]
    env[name] = os.pathsep.join(first + rest)


@dataclass(frozen=True)
class Domain:
    """A ROS domain that is ours as long as the claim is held."""

    id: int


@contextlib.contextmanager
def claim_domain() -> Iterator[Domain]:
    """A ROS domain id that nobody else on this host uses: for demos, tests and benches.

    Held by a lock on a file, so that it ends with the process however that dies; domains on which some other program
    already listens are passed over.
    """
    folder = Path(tempfile.gettempdir())
    for number in DOMAINS:
        lock = _try_lock(folder / f"pi-domain-{number}.lock")
        if lock is None:
            continue
        try:
            if _is_quiet(number):
                yield Domain(number)
                return
        finally:
            os.close(lock)
    raise RuntimeError(
        f"every ROS domain from {DOMAINS[0]} to {DOMAINS[-1]} is in use on this host: end what holds "
        f"{folder}/pi-domain-*.lock"
    )


def _try_lock(path: Path) -> int | None:
    try:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            file = os.open(path, os.O_RDONLY)
    except OSError:
        return None  # another user's, and not for us to read
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _is_quiet(domain: int) -> bool:
    """Whether the unicast discovery ports of this domain's first participants are free (RTPS 9.6.1.1).

    Not only the very first one's: whoever is left of a graph that died has the port that it got then.
    """
    for participant in range(PARTICIPANTS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7400 + 250 * domain + 10 + 2 * participant))
            except OSError:
                return False
    return True
