"""The machine under the robot's programs: Python, memory, disk, OpenGL, GPU, packages."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator

from pi_policy_node.doctor import Check, Finding
from pi_policy_node.doctor._ask import ask
from pi_policy_node.environment import checkout

PACKAGES = ("numpy", "cv2", "torch", "mujoco", "safetensors", "xacro", "yaml")


def python() -> Iterator[Finding]:
    version = platform.python_version()
    right = (3, 10) <= sys.version_info[:2] <= (3, 14)
    yield Finding(
        "Python", f"{version}, {sys.executable}", "" if right else "install Python 3.10 to 3.14", wrong=not right
    )


def hardware() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    few = cores < 2
    yield Finding(
        "machine", f"{platform.machine()}, {cores} cores, {memory:.1f} GB of memory",
        "simulation, policy and bridge together want two cores" if few else "",
    )
    free = shutil.disk_usage(checkout()).free / 1e9
    yield Finding("free disk", f"{free:.1f} GB in {checkout()}", "set-up and recordings need a few GB" if free < 4 else "")


def packages() -> Iterator[Finding]:
    answer, error = ask(
        f"import importlib\nfor name in {PACKAGES!r}:\n"
        " try:\n  module = importlib.import_module(name)\n  answer[name] = getattr(module, '__version__', '')\n"
        " except Exception as failure:\n  answer[name] = None\n  answer['error'] = f'{name}: {failure}'"
    )
    missing = [name for name in PACKAGES if answer.get(name) is None]
    found = ", ".join(f"{name} {answer[name]}".strip() for name in PACKAGES if name not in missing)
    if missing:
        yield Finding(
            "packages", f"{' '.join(missing)} can't be imported ({error or answer['error']})",
            f"delete {sys.prefix} and run ./pi again" if sys.prefix.startswith(str(checkout())) else "run ./pi",
            wrong=True,
        )
    if found:
        yield Finding("packages", found)


RENDER = """
import time, mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><visual><global offwidth="640" offheight="480"/></visual>'
    '<worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 480, 640) as renderer:
    for _ in range(5):
        start = time.perf_counter()
        renderer.update_scene(data)
        image = renderer.render()
        answer["ms"] = 1e3 * (time.perf_counter() - start)
    answer["drawn"] = bool(image.max() > 0)
    try:
        from OpenGL import EGL
        answer["vendor"] = EGL.eglQueryString(EGL.eglGetCurrentDisplay(), EGL.EGL_VENDOR).decode()
    except Exception:
        pass
"""


def opengl() -> Iterator[Finding]:
    answer, error = ask(RENDER)
    how = os.environ.get("MUJOCO_GL", "egl")
    if answer.get("drawn"):
        vendor = answer.get("vendor", "unknown vendor")
        yield Finding("OpenGL", f"off screen through {how} ({vendor}): 640x480 in {answer['ms']:.1f} ms")
    else:
        yield Finding(
            "OpenGL", f"no picture off screen through {how}: {error or 'the image stayed black'}",
            "apt-get install libegl1 libopengl0 libgl1-mesa-dri, or MUJOCO_GL=osmesa with libosmesa6", wrong=True,
        )


def gpu() -> Iterator[Finding]:
    answer, error = ask(
        "import torch\nanswer['build'] = torch.__version__\nanswer['cuda'] = torch.cuda.is_available()\n"
        "answer['name'] = torch.cuda.get_device_name() if answer['cuda'] else ''"
    )
    driver = os.path.exists("/proc/driver/nvidia/version")
    if error:
        return  # packages() has said so
    if answer["cuda"]:
        yield Finding("GPU", f"{answer['name']}, torch {answer['build']}")
    elif driver:
        yield Finding(
            "GPU", f"an NVIDIA driver is loaded, but torch {answer['build']} finds no GPU",
            "the pi0 and pi05 policies want it: look at nvidia-smi, and at whether torch is a CPU build",
        )
    else:
        yield Finding("GPU", "none; the policies run on the CPU")


CHECKS: tuple[Check, ...] = (python, hardware, packages, opengl, gpu)
