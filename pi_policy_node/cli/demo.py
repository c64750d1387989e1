"""`./pi demo`: the whole stack on a simulated robot, told what to do in plain words, judged by the simulator."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
import webbrowser
from pathlib import Path

from pi_policy_node.cli import CommandError
from pi_policy_node.environment import claim_domain, ros_environment

HELP = "a simulated robot does what it is told: launches everything, sends commands, leaves a video"

READY_LIMIT = 90.0  # s; a first start on a slow machine compiles and caches
CELLS = 9  # of the summary picture

EPILOG = """\
exit status: 0 when every command was carried out, as the simulator judges it (or the measured joints, where it does not
know what the words want), else 1. With --interactive: 0.
Runs on this host and on a ROS domain of its own, so that it cannot meet another robot.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--prompt", action="append", metavar="WORDS", help="say this instead of the programme; repeatable")
    parser.add_argument("--interactive", action="store_true", help="say what you type, instead of the programme")
    parser.add_argument("--policy", choices=("mini", "scripted"), help="mini obeys; scripted knows motions only "
                        "(default: mini where its weights are)")
    parser.add_argument("--seed", type=int, default=0, help="of the scene: which things lie where")
    parser.add_argument("--view", action="store_true", help="show the cameras live in a browser")
    parser.add_argument("--headless", action="store_true", help="open nothing, even where there is a desktop")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for video, picture and log (%(default)s)")


def run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise CommandError(f"--seed {args.seed} must be 0 or more")
    if args.interactive and args.prompt:
        raise CommandError("--interactive and --prompt: one of them")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {args.out}: {error.strerror}") from None
    begin = time.monotonic()
    with claim_domain() as domain:
        os.environ.update(ros_environment(domain=domain.id))
        return perform(args, begin, domain.id)


def perform(args: argparse.Namespace, begin: float, domain: int) -> int:
    """Launches, shows, films."""
    from pi_policy_node.demo.launch import launched
    from pi_policy_node.demo.programme import SCENE, Step, choose
    from pi_policy_node.demo.show import Show
    from pi_policy_node.nodes.client import NoRobot
    from pi_policy_node.nodes.witness import Witness
    from pi_policy_node.robot import load_robot
    from pi_policy_node.sim.tasks import KEPT_SEEDS

    robot, seed = load_robot(), KEPT_SEEDS + args.seed  # a scene that was never trained on
    programme = choose(seed, args.policy)
    if programme.why:
        print(programme.why, flush=True)
    with launched(args.out, policy=programme.policy, scene=SCENE, seed=seed) as launch:
        print(f"starting the robot (ROS domain {domain}; what its nodes say: {launch.log})", flush=True)
        launch.wait_ready(READY_LIMIT)
        print(f"ready after {time.monotonic() - begin:.1f} s", flush=True)
        with Witness(robot) as witness:
            try:
                witness.status()
            except NoRobot as error:
                raise CommandError(str(error)) from None
            show = Show(witness, launch, robot)
            screen = live_view(witness, open_it=not args.headless) if args.view else None
            try:
                if args.interactive:
                    show.interactive()
                elif args.prompt:
                    for words in args.prompt:
                        show.attempt(Step(words))
                else:
                    show.programme(programme)
            except KeyboardInterrupt:
                print("\ninterrupted", flush=True)
                show.results.append(False)
            finally:
                if screen is not None:
                    screen.close()
    if witness.first_motion is not None:
        print(f"\nfirst motion {witness.first_motion - begin:.1f} s after the start; {show.facts()}", flush=True)
    leave(args, robot, SCENE, seed, show)
    if args.interactive:
        return 0
    good = bool(show.results) and all(show.results)
    print("the robot did what it was told" if good else "the robot did NOT do what it was told "
          f"({sum(show.results)} of {len(show.results)})", flush=True)
    return 0 if good else 1


def live_view(witness, *, open_it: bool):
    """The cameras in a browser."""
    from pi_policy_node.demo.screen import Screen

    screen = Screen(witness.picture)
    print(f"live view: {screen.url}", flush=True)
    if open_it and has_desktop():
        webbrowser.open(screen.url)
    return screen


def leave(args: argparse.Namespace, robot, scene: str, seed: int, show) -> None:
    """A video and a picture of what happened; opened where there is a desktop."""
    from pi_policy_node.demo.film import Film
    from pi_policy_node.nodes.witness import FPS
    from pi_policy_node.sim.film import save, sheet

    moments = show.witness.moments
    if not moments:
        return
    video, picture = args.out / "demo.mp4", args.out / "demo.png"
    print(f"writing {video} and {picture}", flush=True)
    film = Film(robot, scene=scene, seed=seed)
    try:
        film.write(moments, video, fps=FPS)
        places = [0, *show.key_moments, len(moments) - 1]
        places = sorted({min(place, len(moments) - 1) for place in places})[-CELLS:]
        save(sheet([film.frame(moments[k]) for k in places], columns=3), picture)
    finally:
        film.close()
    opener = shutil.which("xdg-open")
    if opener and not args.headless and has_desktop():
        subprocess.Popen([opener, str(video)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def has_desktop() -> bool:
    """Whether something can be opened here."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
