"""RViz: the robot, its cameras, its plan and what it is doing."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from pi_policy_node.launching import AFTER_BRIDGE
from pi_policy_node.launching.parts import OWN_CLOCK_AND_TF, SIGTERM_TIMEOUT, arguments, boolean, share, transport


def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("rviz_config", default_value=share("rviz", "pi_mobile.rviz"),
                              description="RViz's configuration."),
        *arguments("hardware", "use_sim_time", "namespace", "log_level"),
        *transport(),
        Node(
            package="rviz2",
            executable="rviz2",
            exec_name="rviz2",
            name="rviz2",
            namespace=LaunchConfiguration("namespace"),
            arguments=["-d", LaunchConfiguration("rviz_config")],
            parameters=[{"use_sim_time": boolean("use_sim_time")}],
            remappings=OWN_CLOCK_AND_TF,
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            prefix=AFTER_BRIDGE,
            output="both",
            sigterm_timeout=SIGTERM_TIMEOUT,
        ),
    ])
