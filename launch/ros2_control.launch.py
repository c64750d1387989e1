"""ros2_control for the robot: its state publisher, the controller manager, and the controllers that its file names.

With hardware:=real and no ros2_control_plugin nothing is started: the robot's own bring-up does that, in a launch or
service of its own, and Ctrl-C here leaves it running. That is the way for a robot whose lift falls without its
controller. Where it is started here all the same, it ends last on Ctrl-C, and nothing else of ours ends it.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from pi_policy_node.launching import AFTER_BRIDGE, OUTLIVE
from pi_policy_node.launching.parts import (
    IS_REAL,
    OWN_CLOCK_AND_TF,
    SIGTERM_TIMEOUT,
    arguments,
    boolean,
    required,
    state_publisher,
    transport,
    with_robot,
)


def controllers(context, robot):
    plugin = LaunchConfiguration("ros2_control_plugin").perform(context)
    real = IS_REAL.perform(context) == "true"
    if real and not plugin:
        return [LogInfo(msg="ros2_control is the robot's own here: it must be running, and is left running")]
    file = LaunchConfiguration("controllers_file").perform(context) or robot.controllers_file
    if not file:
        raise ValueError(f"controllers_file is needed: {robot.file} has no `controllers`")
    names = dict.fromkeys(group.controller.name for group in robot.groups)
    manager = Node(
        package="controller_manager",
        executable="ros2_control_node",
        exec_name="ros2_control_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[str(file), {"use_sim_time": boolean("use_sim_time")}],
        remappings=[*OWN_CLOCK_AND_TF, ("~/robot_description", "robot_description")],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        prefix=OUTLIVE if real else AFTER_BRIDGE,
        output="both",
        sigterm_timeout=SIGTERM_TIMEOUT,
    )
    spawner = Node(
        package="controller_manager",
        executable="spawner",
        exec_name="spawner",
        namespace=LaunchConfiguration("namespace"),
        arguments=["joint_state_broadcaster", *names, "--controller-manager", "controller_manager"],
        prefix=AFTER_BRIDGE,
        output="both",
        sigterm_timeout=SIGTERM_TIMEOUT,
    )
    xacro_arguments = {"ros2_control_plugin": plugin} if plugin else {}
    return [*state_publisher(context, robot, **xacro_arguments), manager, spawner, *required(manager)]


def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("hardware", default_value="mock", choices=["mock", "real"],
                              description="What moves: ros2_control with mock hardware, or a real robot."),
        *arguments("ros2_control_plugin", "controllers_file", "robot", "use_sim_time", "namespace", "params_file",
                   "log_level"),
        *transport(),
        with_robot(controllers),
    ])
