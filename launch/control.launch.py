"""What moves the robot: the commander that takes orders, the policy that plans, the bridge that checks and commands."""

from launch import LaunchDescription
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration

from pi_policy_node.launching import BRIDGE
from pi_policy_node.launching.parts import arguments, boolean, node, required, text, transport, with_robot


def generate_launch_description():
    hardware_bridge = node("hardware_bridge", parameters={"dry_run": boolean("dry_run")},
                           remappings=[("odom", LaunchConfiguration("odom_topic"))], prefix=BRIDGE)
    policy = node("policy", parameters={"policy": text("policy")})
    commander = node("commander")
    bringup = node("bringup", parameters={"nodes": ["hardware_bridge", "policy", "commander"]},
                   condition=IfCondition(LaunchConfiguration("autostart")))
    return LaunchDescription([
        *arguments("robot", "hardware", "policy", "dry_run", "use_sim_time", "namespace", "params_file", "log_level",
                   "odom_topic", "autostart"),
        *transport(),
        with_robot(lambda context, robot: []),
        hardware_bridge,
        policy,
        commander,
        bringup,
        *required(hardware_bridge, policy, commander, bringup),
    ])
