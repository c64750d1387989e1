"""The ament_python package pi_policy_node; ./pi builds it, and so does a plain `colcon build`."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "pi_policy_node"
NODES = ("sim", "camera_ingest", "policy", "commander", "hardware_bridge", "bringup")


def shared(*folders: str) -> list[tuple[str, list[str]]]:
    """Every file below these folders, to lie under share/pi_policy_node as it does here."""
    files: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files.setdefault(f"share/{NAME}/{path.parent.as_posix()}", []).append(path.as_posix())
    return list(files.items())


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["**/*.xml", "**/*.json", "**/*.yaml", "**/*.safetensors"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("launch", "config", "urdf", "rviz"),
    ],
    python_requires=">=3.10",
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="The pi developers",
    maintainer_email="pi@example.com",
    description="A vision-language-action policy in charge of a mobile manipulator, in ROS 2.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"{node} = {NAME}.nodes.{node}:main" for node in NODES]},
)
