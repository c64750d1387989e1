"""The robot's eyes: camera_ingest, from images, joint states and odometry to synchronised observations."""

from launch import LaunchDescription
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration

from pi_policy_node.launching.parts import arguments, node, required, transport, with_robot


def generate_launch_description():
    camera_ingest = node("camera_ingest", remappings=[("odom", LaunchConfiguration("odom_topic"))])
    bringup = node("bringup", parameters={"nodes": ["camera_ingest"]},
                   condition=IfCondition(LaunchConfiguration("autostart")))
    return LaunchDescription([
        *arguments("robot", "hardware", "use_sim_time", "namespace", "params_file", "log_level", "odom_topic",
                   "autostart"),
        *transport(),
        with_robot(lambda context, robot: []),
        camera_ingest,
        bringup,
        *required(camera_ingest, bringup),
    ])
