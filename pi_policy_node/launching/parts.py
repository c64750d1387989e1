"""What the launch files have in common: their arguments, the transport, and how a node of ours is started.

Uses `launch` and `launch_ros`, whichever ones there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from launch import LaunchContext
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
    UnsetEnvironmentVariable,
)
from launch.conditions import UnlessCondition
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EqualsSubstitution, IfElseSubstitution, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from pi_policy_node.launching import AFTER_BRIDGE, package_prefix
from pi_policy_node.robot import Robot, load_robot

PACKAGE = "pi_policy_node"
BOOLEAN = ["true", "false"]
HARDWARE = LaunchConfiguration("hardware", default="sim")
IS_REAL = EqualsSubstitution(HARDWARE, "real")
IS_SIM = EqualsSubstitution(HARDWARE, "sim")

# The graph has relative names only, so that a namespace moves a whole robot. These three are absolute in ROS itself:
# with them, two simulated robots have a clock each, and each robot its own tf tree.
OWN_CLOCK_AND_TF = [("/clock", "clock"), ("/tf", "tf"), ("/tf_static", "tf_static")]

# s from SIGINT to SIGTERM: the time that guard.py may wait for the bridge, and five seconds on top as usual.
SIGTERM_TIMEOUT = "9"


def share(*parts: str) -> PathJoinSubstitution:
    """The path of a file that comes with the package."""
    return PathJoinSubstitution([FindPackageShare(PACKAGE), *parts])


def arguments(*names: str) -> list[DeclareLaunchArgument]:
    """Declares these launch arguments."""
    return [DeclareLaunchArgument(name, **_ARGUMENTS[name]) for name in names]


_ARGUMENTS: dict[str, dict[str, Any]] = {
    "robot": {
        "default_value": "pi_mobile",
        "description": "Robot file: a name under config/robots, or a path.",
    },
    "hardware": {
        "default_value": "sim",
        "choices": ["sim", "mock", "real"],
        "description": "What moves: the simulator, ros2_control with mock hardware, or a real robot.",
    },
    "policy": {
        "default_value": "scripted",
        "description": "What plans the motion: the policy node's parameter of that name.",
    },
    "ros2_control_plugin": {
        "default_value": "",
        "description": "Hardware plugin for the robot's URDF. Empty: mock hardware's own with hardware:=mock; with "
                       "hardware:=real, ros2_control is running already, and the launch neither starts nor ends it.",
    },
    "controllers_file": {
        "default_value": "",
        "description": "YAML file for the controller_manager and its controllers. Empty: the one that the robot file "
                       "names.",
    },
    "odom_topic": {
        "default_value": IfElseSubstitution(IS_SIM, "odom", "base_controller/odom"),
        "description": "Where the base's odometry is published.",
    },
    "use_sim_time": {
        "default_value": IS_SIM,
        "choices": BOOLEAN,
        "description": "Follow the simulator's clock; by default exactly when hardware is sim.",
    },
    "namespace": {
        "default_value": "",
        "description": "Namespace for the whole robot, its tf and its clock.",
    },
    "params_file": {
        "default_value": share("config", "params.yaml"),
        "description": "YAML file with the nodes' parameters; arguments given here win over it.",
    },
    "log_level": {
        "default_value": "info",
        "choices": ["debug", "info", "warn", "error", "fatal"],
        "description": "Least severe messages that nodes log.",
    },
    "autostart": {
        "default_value": "true",
        "choices": BOOLEAN,
        "description": "Configure and activate the lifecycle nodes started here.",
    },
    "use_rviz": {
        "default_value": "false",
        "choices": BOOLEAN,
        "description": "Show the robot in RViz.",
    },
    "dry_run": {
        "default_value": "false",
        "choices": BOOLEAN,
        "description": "The bridge shows what it would do and sends the controllers nothing.",
    },
}


def transport() -> list[Any]:
    """The environment that lets every process find the others, and images arrive. Needs the argument `hardware`."""
    return [
        SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", share("config", "fastdds.xml")),
        # It would replace that profile, and cut the robot off from every ordinary shell.
        UnsetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS"),
        # A simulation in an office must never move somebody's real robot.
        SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST", condition=UnlessCondition(IS_REAL)),
        # The older variable wins over that one where both are set.
        UnsetEnvironmentVariable("ROS_LOCALHOST_ONLY", condition=UnlessCondition(IS_REAL)),
    ]


def node(executable: str, *, parameters: Mapping[str, Any] | None = None, remappings: Iterable[Any] = (),
         prefix: str = AFTER_BRIDGE, **options: Any) -> Node:
    """A node of this package. On a real robot it is started again when it dies; `required` is for the others."""
    return Node(
        package=PACKAGE,
        executable=executable,
        exec_name=executable,
        name=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {"robot": text("robot"), "use_sim_time": boolean("use_sim_time"), **(parameters or {})},
        ],
        remappings=[*OWN_CLOCK_AND_TF, *remappings],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        prefix=prefix,
        output="both",
        respawn=IS_REAL,
        respawn_delay=2.0,
        sigterm_timeout=SIGTERM_TIMEOUT,
        **options,
    )


def state_publisher(context: LaunchContext, robot: Robot, **xacro_arguments: str) -> list[Node]:
    """robot_state_publisher, from the robot's file; none where it is not installed."""
    if package_prefix("robot_state_publisher") is None:
        return []
    return [Node(
        package="robot_state_publisher",
        executable="robot_state_publisher",
        exec_name="robot_state_publisher",
        name="robot_state_publisher",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{
            "robot_description": ParameterValue(robot.urdf(**xacro_arguments), value_type=str),
            "use_sim_time": boolean("use_sim_time"),
        }],
        remappings=OWN_CLOCK_AND_TF,
        prefix=AFTER_BRIDGE,
        output="both",
        sigterm_timeout=SIGTERM_TIMEOUT,
    )]


def text(argument: str) -> ParameterValue:
    """The value of a launch argument as a string, even where it looks like a number."""
    return ParameterValue(LaunchConfiguration(argument), value_type=str)


def boolean(argument: str) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(argument), value_type=bool)


def required(*nodes: Node) -> list[RegisterEventHandler]:
    """Ends the launch when one of these dies, unless the hardware is real: no death of ours lets a real arm down."""

    def end(event: Any, context: LaunchContext) -> list[Shutdown]:
        return [] if context.is_shutdown else [Shutdown(reason=f"{event.process_name} has ended")]

    return [
        RegisterEventHandler(OnProcessExit(target_action=each, on_exit=end), condition=UnlessCondition(IS_REAL))
        for each in nodes
    ]


def include(file: str, *names: str, **options: Any) -> IncludeLaunchDescription:
    """Another launch file of ours, given these arguments of this one; options: further arguments, and a condition."""
    condition = options.pop("condition", None)
    passed = {name: LaunchConfiguration(name) for name in names} | options
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(share("launch", file)), launch_arguments=passed.items(), condition=condition
    )


def with_robot(function: Callable[[LaunchContext, Robot], list[Any]]) -> OpaqueFunction:
    """Actions that depend on the robot's file. Raises one clear line when that or the parameter file is wrong."""

    def read(context: LaunchContext) -> list[Any]:
        params_file = LaunchConfiguration("params_file").perform(context)
        if not Path(params_file).is_file():
            raise FileNotFoundError(f"params_file {params_file} does not exist")
        return function(context, load_robot(LaunchConfiguration("robot").perform(context)))

    return OpaqueFunction(function=read)
