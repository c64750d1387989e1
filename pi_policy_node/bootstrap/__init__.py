"""What `./pi` does before anything is installed: find a Python and a ROS, set up a virtual environment, hand over.

Standard library only, any Python from 3.10 on. Everything made lies in one ignored folder (`.venv`, or
`.venv-<distro>` beside a sourced ROS); each finished step is stamped with a hash of what it was made from, so that a
run can be interrupted and the next one does only what is missing.
"""


class SetupError(Exception):
    """Set-up can't go on; the message is one line that says what would mend it."""
