"""Learning: demonstrations, training, evaluation. No ROS."""
