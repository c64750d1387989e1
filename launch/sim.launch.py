"""The simulated robot: physics, controllers, cameras, clock and tf."""

from launch import LaunchDescription

from pi_policy_node.launching.parts import arguments, node, required, state_publisher, transport, with_robot


def generate_launch_description():
    sim = node("sim")
    return LaunchDescription([
        *arguments("robot", "use_sim_time", "namespace", "params_file", "log_level"),
        *transport(),
        with_robot(state_publisher),
        sim,
        *required(sim),
    ])
