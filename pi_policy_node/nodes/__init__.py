"""One thin file per ROS node: the only place that imports rclpy."""
