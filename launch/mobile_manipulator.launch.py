"""The whole robot: what moves, what sees, what plans, what checks, and RViz to watch it.

On Ctrl-C the hardware bridge comes to rest before anything else is told to end. On simulated and mock hardware the
launch ends when a node dies; on a real robot the node is started and brought up again, and ros2_control goes on.
"""

from launch import LaunchDescription
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import LaunchConfiguration

from pi_policy_node.launching.parts import IS_SIM, arguments, include, node, required, transport, with_robot

COMMON = ("robot", "use_sim_time", "namespace", "params_file", "log_level")


def generate_launch_description():
    bringup = node("bringup", parameters={"nodes": ["camera_ingest", "hardware_bridge", "policy", "commander"]},
                   condition=IfCondition(LaunchConfiguration("autostart")))
    return LaunchDescription([
        *arguments("robot", "hardware", "policy", "dry_run", "use_rviz", "use_sim_time", "namespace", "params_file",
                   "log_level", "ros2_control_plugin", "controllers_file", "odom_topic", "autostart"),
        *transport(),
        with_robot(lambda context, robot: []),
        bringup,  # before the files below are told not to start theirs
        *required(bringup),
        include("sim.launch.py", *COMMON, condition=IfCondition(IS_SIM)),
        include("ros2_control.launch.py", *COMMON, "hardware", "ros2_control_plugin", "controllers_file",
                condition=UnlessCondition(IS_SIM)),
        include("perception.launch.py", *COMMON, "hardware", "odom_topic", autostart="false"),
        include("control.launch.py", *COMMON, "hardware", "odom_topic", "policy", "dry_run", autostart="false"),
        include("rviz.launch.py", "hardware", "use_sim_time", "namespace", "log_level",
                condition=IfCondition(LaunchConfiguration("use_rviz"))),
    ])
