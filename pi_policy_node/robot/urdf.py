"""A robot's URDF: expanding its xacro and reading the parts that this project checks and computes with."""

from __future__ import annotations

import functools
import math
import re
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_policy_node.environment import PACKAGE, checkout
from pi_policy_node.robot.document import any_of, suggest
from pi_policy_node.robot.error import RobotError

MOVING = ("revolute", "continuous", "prismatic")
_LOCK = threading.Lock()  # xacro keeps its state in its module


@dataclass(frozen=True)
class Mimic:
    """position = multiplier * position of `joint` + offset"""

    joint: str
    multiplier: float
    offset: float


@dataclass(frozen=True, eq=False)
class Joint:
    name: str
    kind: str  # of MOVING, or "fixed"
    parent: str
    child: str
    origin: np.ndarray  # [4, 4], the joint's frame in the parent link's
    axis: np.ndarray  # [3], of length 1
    lower: float  # rad or m; -inf where the joint has no end
    upper: float
    velocity: float  # rad/s or m/s
    mimic: Mimic | None


@dataclass(frozen=True, eq=False)
class Urdf:
    """The tree of links, as far as this project needs it."""

    links: frozenset[str]
    joints: dict[str, Joint]  # by name, in the file's order

    def chain(self, base: str, link: str) -> list[Joint]:
        """The joints from `base` to `link`, in that order; KeyError where `link` does not hang on `base`."""
        above = {joint.child: joint for joint in self.joints.values()}
        joints: list[Joint] = []
        at = link
        while at != base:
            joints.append(above[at])
            at = joints[-1].parent
        return joints[::-1]


def expand(file: Path, *, meshes: str = "package", arguments: tuple[tuple[str, str], ...] = ()) -> str:
    """The URDF in `file`, its xacro expanded. meshes: "package" keeps package:// addresses, "file" makes them paths."""
    text = _expand(file, file.stat().st_mtime_ns if file.is_file() else 0, arguments)
    if meshes == "package":
        return text
    if meshes != "file":
        raise ValueError(f"meshes is 'package' or 'file', not '{meshes}'")
    try:
        return re.sub(r"package://([^/\"']+)/", lambda found: f"{package_folder(found[1])}/", text)
    except LookupError as error:
        raise RobotError(file, "", str(error)) from None


def package_folder(package: str) -> Path:
    """Where the files of a ROS package are, ours or one of the workspace's; LookupError says that it is nowhere."""
    if package == PACKAGE:
        return checkout()
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(package))
    except (ImportError, LookupError, ValueError):
        raise LookupError(f"package://{package} is in no sourced workspace: source its install/setup.bash") from None


@functools.lru_cache(maxsize=16)
def _expand(file: Path, modified: int, arguments: tuple[tuple[str, str], ...]) -> str:
    try:
        import xacro
    except ImportError:
        raise RobotError(file, "", "needs xacro: apt install ros-$ROS_DISTRO-xacro, or pip install xacro") from None
    if not file.is_file():
        raise RobotError(file, "", "no such file")
    try:
        with _LOCK:
            declared = re.findall(r"<xacro:arg\s[^>]*?name\s*=\s*[\"']([^\"']+)", file.read_text(encoding="utf-8"))
            for name, _ in arguments:
                if name not in declared:
                    known = f"; it has {any_of(declared)}" if declared else "; it has none"
                    raise RobotError(file, name, f"no such xacro argument{suggest(name, declared) or known}")
            return xacro.process_file(str(file), mappings=dict(arguments)).toprettyxml(indent="  ")
    except RobotError:
        raise
    except Exception as error:  # xacro lets every kind of exception out: expat's, Python's own, its own
        raise RobotError(file, "", f"xacro refuses it: {' '.join(str(error).split())}") from None


def parse(file: Path, text: str) -> Urdf:
    """The links and joints of a URDF; `file` is for the messages."""
    try:
        root = ElementTree.fromstring(text)
        if root.tag != "robot":
            raise RobotError(file, "", f"its root is <{root.tag}>; a URDF's is <robot>")
        links = frozenset(link.attrib["name"] for link in root.findall("link"))
        joints = [_joint(file, joint) for joint in root.findall("joint")]
    except ElementTree.ParseError as error:
        raise RobotError(file, "", f"not XML: {error}") from None
    except KeyError as error:
        raise RobotError(file, "", f"a <link>, <joint> or <mimic> lacks its {error.args[0]}") from None
    tree = Urdf(links, {joint.name: joint for joint in joints})
    _check_tree(file, tree, joints)
    return tree


def _check_tree(file: Path, tree: Urdf, joints: list[Joint]) -> None:
    """Names are known and used once, and every link hangs on one root."""
    above: dict[str, str] = {}
    for joint in joints:
        if tree.joints[joint.name] is not joint:
            raise RobotError(file, joint.name, "two joints have this name")
        for link in (joint.parent, joint.child):
            if link not in tree.links:
                raise RobotError(file, joint.name, f"no <link> is called '{link}'{suggest(link, tree.links)}")
        if above.setdefault(joint.child, joint.name) != joint.name:
            raise RobotError(file, joint.name, f"its child '{joint.child}' is that of '{above[joint.child]}' already")
        if joint.mimic and joint.mimic.joint not in tree.joints:
            raise RobotError(file, joint.name, f"mimics '{joint.mimic.joint}', which is no joint")
    for joint in joints:
        at, steps = joint.child, 0
        while at in above:
            at, steps = tree.joints[above[at]].parent, steps + 1
            if steps > len(joints):
                raise RobotError(file, joint.name, "its links form a loop; a URDF is a tree")
    roots = sorted(tree.links - above.keys())
    if len(roots) != 1:
        raise RobotError(file, "", f"must have one root link, not {len(roots)}: {', '.join(roots) or 'it is empty'}")


def _joint(file: Path, element: ElementTree.Element) -> Joint:
    name, kind = element.attrib["name"], element.attrib["type"]
    if kind not in (*MOVING, "fixed"):
        raise RobotError(file, name, f"joint type '{kind}' is not supported; use {any_of([*MOVING, 'fixed'])}")

    def numbers(tag: str, attribute: str, *default: float) -> list[float]:
        child = element.find(tag)
        text = None if child is None else child.get(attribute)
        if text is None:
            return list(default)
        try:
            values = [float(word) for word in text.split()]
        except ValueError:
            values = []
        if len(values) != len(default) or not np.isfinite(values).all():
            count = "a number" if len(default) == 1 else f"{len(default)} numbers"
            raise RobotError(file, f"{name}.{tag}", f'{attribute}="{text}" must be {count}')
        return values

    def link(tag: str) -> str:
        child = element.find(tag)
        if child is None:
            raise RobotError(file, name, f"lacks its <{tag}>")
        return child.attrib["link"]

    axis = np.array(numbers("axis", "xyz", 1.0, 0.0, 0.0))
    if not np.linalg.norm(axis) > 1e-9:
        raise RobotError(file, f"{name}.axis", "must not be all zero")
    if kind in ("revolute", "prismatic") and element.find("limit") is None:
        raise RobotError(file, name, f"a {kind} joint needs a <limit>")
    endless = kind in ("continuous", "fixed")
    mimic = element.find("mimic")
    return Joint(
        name=name,
        kind=kind,
        parent=link("parent"),
        child=link("child"),
        origin=transform(numbers("origin", "xyz", 0.0, 0.0, 0.0), numbers("origin", "rpy", 0.0, 0.0, 0.0)),
        axis=axis / np.linalg.norm(axis),
        lower=-math.inf if endless else numbers("limit", "lower", 0.0)[0],
        upper=math.inf if endless else numbers("limit", "upper", 0.0)[0],
        velocity=numbers("limit", "velocity", math.inf)[0],
        mimic=None
        if mimic is None
        else Mimic(mimic.attrib["joint"], *numbers("mimic", "multiplier", 1.0), *numbers("mimic", "offset", 0.0)),
    )


def transform(xyz: list[float], rpy: list[float]) -> np.ndarray:
    """[4, 4] from a translation and roll, pitch, yaw about fixed axes."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    result = np.eye(4)
    result[:3, :3] = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    result[:3, 3] = xyz
    return result
