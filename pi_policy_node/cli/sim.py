"""`./pi sim`: how fast the simulated robot is on this machine, pictures of its world, and demonstrations in it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pi_policy_node.cli import CommandError
from pi_policy_node.environment import claim_domain, ros_environment

HELP = "the simulated robot: `bench` its speed, `render` its world, `record` demonstrations, `look` at many scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", required=True, metavar="bench|render|record|look")
    bench = verbs.add_parser("bench", help="times faster than real time, in lockstep and as a ROS node")
    bench.add_argument("--seconds", type=float, default=5.0, help="how long each row is measured (default 5)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the table there")
    bench.add_argument("--no-ros", action="store_true", help="lockstep only")
    render = verbs.add_parser("render", help="write a picture (PNG or JPEG) of a scene")
    render.add_argument("file", type=Path)
    render.add_argument("--camera", default="free", help="a camera of the robot, 'all', or 'free' (default)")
    render.add_argument("--width", type=int, default=1280, help="of the free camera")
    render.add_argument("--height", type=int, default=720, help="of the free camera")
    render.add_argument("--azimuth", type=float, default=150.0, help="degrees, of the free camera")
    render.add_argument("--elevation", type=float, default=-22.0, help="degrees, of the free camera")
    render.add_argument("--distance", type=float, default=2.6, help="m, of the free camera")
    _record_arguments(verbs.add_parser("record", help="make demonstrations of tasks with the scripted expert"))
    _look_arguments(verbs.add_parser("look", help="make pictures of scenes, each with where everything in it is"))
    for verb in (bench, render):
        verb.add_argument("--robot", default="pi_mobile", help="a name under config/robots, or a file")
        verb.add_argument("--scene", default="", help="a scene's name; a wrong one lists them")
        verb.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    from pi_policy_node.robot import RobotError, load_robot
    from pi_policy_node.sim import SceneError

    if args.what in ("record", "look"):
        return _record(args) if args.what == "record" else _look(args)
    try:
        robot = load_robot(args.robot)
        return (_bench if args.what == "bench" else _render)(robot, args)
    except (RobotError, SceneError) as error:
        raise CommandError(str(error)) from None


# ------------------------------------------------------------------------------------------------------------ bench

def _bench(robot, args: argparse.Namespace) -> int:
    if args.seconds <= 0:
        raise CommandError(f"--seconds must be more than 0, not {args.seconds:g}")
    rows = _lockstep_rows(robot, args)
    if not args.no_ros:
        rows += [_node_row(args, pace) for pace in (1.0, 0.0)]
    print(f"\n{robot.name}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}): simulated seconds per second\n")
    for row in rows:
        print(f"  {row['what']:<58} {row['factor']:7.2f}{'  ' + row['note'] if row['note'] else ''}")
    if args.json:
        _write(args.json, json.dumps({"robot": robot.name, "cores": os.cpu_count(), "load": os.getloadavg(),
                                      "rows": rows}, indent=1).encode() + b"\n")
        print(f"\nwritten to {args.json}")
    return 0


def _lockstep_rows(robot, args: argparse.Namespace) -> list[dict]:
    from pi_policy_node.sim import Simulator

    def measure(what: str, every: int, size: tuple[int, int] | None) -> dict:
        """Lockstep with a moving robot; images of every camera at every `every`th row, none when 0."""
        simulator = Simulator(robot, args.scene, args.seed, cameras=None if every else (), size=size)
        if every:
            simulator.observe()  # makes the renderer
        moving = robot.home.copy()
        rows, start = 0, time.perf_counter()
        while time.perf_counter() - start < args.seconds:
            moving[0] = robot.home[0] + 0.2 * abs((rows % 100) / 50 - 1)
            simulator.step(moving)
            rows += 1
            if every and rows % every == 0:
                simulator.observe()
        wall = time.perf_counter() - start
        simulator.close()
        print(".", end="", flush=True)
        return {"what": what, "factor": rows * robot.dt / wall, "note": f"{wall / rows * 1000:.2f} ms a row"}

    hz = max(camera.hz for camera in robot.cameras)
    every = max(1, round(1 / (hz * robot.dt)))
    count = len(robot.cameras)
    return [
        measure("lockstep, no cameras", 0, None),
        measure(f"lockstep, {count} cameras as on the robot, every {every * robot.dt * 1000:.0f} ms", every, None),
        measure(f"lockstep, {count} cameras at 96x96, every {5 * robot.dt * 1000:.0f} ms", 5, (96, 96)),
    ]


def _node_row(args: argparse.Namespace, pace: float) -> dict:
    """The ROS node with all its threads, publishing everything, in a process of its own."""
    with claim_domain() as domain:
        environment = ros_environment(domain=domain.id)
        node = subprocess.Popen(
            [sys.executable, "-m", "pi_policy_node.nodes.sim", "--ros-args", "-p", "use_sim_time:=true",
             "-p", f"pace:={pace}", "-p", f"robot:={args.robot}", "-p", f"scene:={args.scene or 'table'}",
             "-p", f"seed:={args.seed}", "--log-level", "warn"], env=environment, stdin=subprocess.DEVNULL)
        try:
            watch = subprocess.run(
                [sys.executable, "-m", "pi_policy_node.nodes.sim_watch", str(args.seconds + 2.0)], env=environment,
                capture_output=True, text=True, timeout=args.seconds + 60)
        finally:
            node.terminate()
            try:
                node.wait(6.0)
            except subprocess.TimeoutExpired:
                node.kill()
    if watch.returncode:
        raise CommandError(f"the node was not heard of: {watch.stderr.strip()}")
    seen = json.loads(watch.stdout)
    print(".", end="", flush=True)
    return {"what": f"ROS node, all cameras, {'paced' if pace else 'unpaced'}", "factor": seen["factor"],
            "note": f"{seen['images_per_s']:.0f} images/s, {seen['cpu']:.0%} of a core", **seen}


# ----------------------------------------------------------------------------------------------------------- render

def _render(robot, args: argparse.Namespace) -> int:
    import cv2
    import numpy as np

    from pi_policy_node.sim import Simulator

    names = [camera.name for camera in robot.cameras]
    if args.camera not in ("free", "all", *names):
        raise CommandError(f"no camera {args.camera!r}; there is free, all, {', '.join(names)}")
    if not (16 <= args.width <= 4096 and 16 <= args.height <= 4096):
        raise CommandError(f"the size must be between 16 and 4096, not {args.width}x{args.height}")
    if args.file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise CommandError(f"{args.file} must end in .png or .jpg")
    simulator = Simulator(robot, args.scene, args.seed,
                          cameras={"free": (), "all": names}.get(args.camera, [args.camera]))
    if args.camera == "free":
        image = simulator.render_free(args.width, args.height, azimuth=args.azimuth, elevation=args.elevation,
                                      distance=args.distance)
    else:
        images = list(simulator.images().values())
        height = max(image.shape[0] for image in images)
        image = np.hstack([cv2.copyMakeBorder(i, 0, height - i.shape[0], 0, 0, cv2.BORDER_CONSTANT) for i in images])
    _write(args.file, cv2.imencode(args.file.suffix.lower(), image[..., ::-1])[1].tobytes())
    print(f"{args.file}: {image.shape[1]}x{image.shape[0]}, scene '{simulator.scene.name}', seed {args.seed}, with "
          f"{', '.join(item.words for item in simulator.scene.items) or 'nothing in it'}")
    return 0


# ----------------------------------------------------------------------------------------------------------- record

def _record_arguments(record: argparse.ArgumentParser) -> None:
    record.add_argument("--tasks", default="all", help="families, with commas between; a wrong one lists them")
    record.add_argument("--episodes", type=int, default=100, help="of each family (default 100)")
    record.add_argument("--seed", type=int, default=0, help="of the first episode; the others follow")
    record.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="what is there already is kept")
    record.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    record.add_argument("--split", default="train", help="train, holdout_pairs or holdout_words")
    record.add_argument("--cameras", default="front_camera,left_wrist_camera,right_wrist_camera", help="or none")
    record.add_argument("--size", default="64", help="width of the images, pixels, or of each camera's, with commas "
                        "between (default 64)")
    record.add_argument("--every", type=int, default=5, help="steps from one image to the next (default 5: 10 Hz)")
    record.add_argument("--raw", action="store_true", help="images as they are instead of JPEG")
    record.add_argument("--disturb", type=float, default=0.5, help="part of the episodes in which something goes wrong")
    record.add_argument("--correct", type=Path, metavar="FILE", help="weights of mini, which does the tasks: at every "
                        "image it is kept what the expert would do from there")


def _record(args: argparse.Namespace) -> int:
    from pi_policy_node.learn.episodes import EpisodesError
    from pi_policy_node.learn.record import record
    from pi_policy_node.sim.tasks import TaskError

    made, begun = [], time.monotonic()

    def report(one, left: int) -> None:
        made.append(one)
        spent = time.monotonic() - begun
        kept, failed = sum(m.episodes for m in made), sum(m.failed for m in made)
        pace = sum(m.simulated for m in made) / spent
        print(f"{one.shard.family:<8} {kept} episodes, {kept / spent:.2f} per s, {pace:.1f} x real time, expert "
              f"{kept / (kept + failed):.1%}, {left} files left, {_minutes(spent / len(made) * left)}", flush=True)

    try:
        there = record(_recipe(args), args.out, workers=args.workers, report=report)
    except (EpisodesError, TaskError) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"cannot write to {args.out}: {error.strerror}") from None
    except KeyboardInterrupt:
        print(f"interrupted; {len(made)} files are whole, the same command goes on from there")
        return 130
    if there:
        print(f"{there} files were there before")
    if made:
        kept, cpu = max(1, sum(m.episodes for m in made)), sum(m.cpu for m in made)
        print(f"{kept} episodes in {args.out}, {sum(m.disturbed for m in made)} of them disturbed; the expert failed "
              f"{sum(m.failed for m in made)} times\n{kept / cpu:.2f} per s and core, "
              f"{sum(m.simulated for m in made) / cpu:.1f} x real time per core, "
              f"{sum(m.size for m in made) / kept / 1000:.0f} kB each")
    return 0


def _families(text: str, seed: int, split: str) -> tuple[str, ...]:
    from pi_policy_node.sim.tasks import FAMILIES, draw

    names = tuple(FAMILIES) if text == "all" else tuple(text.split(","))
    for name in names:
        draw(name, seed, split)  # says what is wrong with the name or the split
    return names


def _recipe(args: argparse.Namespace):
    from pi_policy_node.learn.record import Recipe
    from pi_policy_node.robot import load_robot
    from pi_policy_node.sim.tasks import KEPT_SEEDS

    names = _families(args.tasks, args.seed, args.split)
    known = [camera.name for camera in load_robot("pi_mobile").cameras]
    cameras = () if args.cameras == "none" else tuple(args.cameras.split(","))
    if not set(cameras) <= set(known):
        raise CommandError(f"--cameras {args.cameras}: there are {', '.join(known)}, or none")
    if args.correct and not args.correct.is_file():
        raise CommandError(f"--correct {args.correct}: there is no such file")
    for option, low, high in (("episodes", 1, 10**6), ("workers", 1, 512), ("every", 1, 100),
                              ("seed", 0, KEPT_SEEDS - args.episodes), ("disturb", 0, 1)):
        if not low <= getattr(args, option) <= high:
            raise CommandError(f"--{option} must be between {low} and {high}, not {getattr(args, option)}")
    try:
        size = tuple(int(width) for width in args.size.split(","))
    except ValueError:
        size = ()
    if len(size) not in (1, len(cameras)) or not all(16 <= width <= 640 for width in size):
        raise CommandError(f"--size must be one number or one for each camera, each between 16 and 640, not {args.size}")
    return Recipe("pi_mobile", names, args.episodes, args.seed, args.split, cameras, size, args.every,
                  not args.raw, args.disturb, str(args.correct.resolve()) if args.correct else "")


# ------------------------------------------------------------------------------------------------------------- look

def _look_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", default="all", help="families, with commas between; a wrong one lists them")
    parser.add_argument("--scenes", type=int, default=10000, help="pictures of each camera (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene; the others follow")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="what is there already is kept")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")


def _look(args: argparse.Namespace) -> int:
    from pi_policy_node.learn.dataset import RECORDED
    from pi_policy_node.learn.episodes import EpisodesError
    from pi_policy_node.learn.glances import GlanceRecipe, record
    from pi_policy_node.sim.tasks import KEPT_SEEDS, TaskError

    for option, low, high in (("scenes", 1, 10**7), ("workers", 1, 512), ("seed", 0, KEPT_SEEDS - args.scenes)):
        if not low <= getattr(args, option) <= high:
            raise CommandError(f"--{option} must be between {low} and {high}, not {getattr(args, option)}")
    made, begun = 0, time.monotonic()

    def report(count: int, left: int) -> None:
        nonlocal made
        made += count
        pace = made / (time.monotonic() - begun)
        print(f"{made} scenes, {pace:.0f} per s, {left} left, {_minutes(left / pace)}", flush=True)

    try:
        tasks = _families(args.tasks, args.seed, "train")
        record(GlanceRecipe("pi_mobile", args.scenes, args.seed, tuple(RECORDED), tuple(RECORDED.values()), tasks),
               args.out, workers=args.workers, report=report)
    except (EpisodesError, TaskError) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"cannot write to {args.out}: {error.strerror}") from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from there")
        return 130
    return 0


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s to go" if seconds < 90 else f"{seconds / 60:.0f} min to go"


def _write(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, file)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from None
