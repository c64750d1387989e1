"""The parts of ROS 2's `launch` and `launch_ros` that our launch files use, for machines where those are not installed.

Same names, same arguments, same processes; test/launch/process_tables.json holds what the real ones make of our files.
Only what is listed in the modules' `__all__` is there; the rest needs a ROS installation, and says so.
"""
