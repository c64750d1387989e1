"""`./pi bench serve`: the policy server under the load of many robots, killed and started again, and soaked.

The robots are our own clients in this process, the server is a process of its own on the same cores, so the figures are
those of a machine that does both.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pi_policy_node.bench.malformed import Vandal
from pi_policy_node.bench.served import make_served_policy
from pi_policy_node.cli import CommandError
from pi_policy_node.policy.base import Observation, PolicyError, Prefix
from pi_policy_node.robot import Robot, load_robot

HELP = "the policy server: 32 robots at 5 Hz, batching's gain, kill and restart, a soak of 10,000 requests"

FLAT = 16 << 20  # bytes; growth that still counts as flat
ROBOTS_IN_SOAK = 8
START_LIMIT = 120.0  # s
TRIM_TIME = 1.0  # s for the idle server to give back what it does not use
RECOVERY_LIMIT = 20.0  # s from the restart; the links' longest pause is 5 s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", help="default: mini, untrained where no weights are shipped")
    parser.add_argument("--robots", type=int, default=32)
    parser.add_argument("--hz", type=float, default=5.0, help="of each robot (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each part (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=2.0, help="longest a robot waits for an answer, s")
    parser.add_argument("--soak", type=int, nargs="?", const=10_000, default=0, metavar="REQUESTS",
                        help="also: so many requests (10000), a tenth malformed; what memory does")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures as JSON as well")


@dataclass
class Tally:
    """What one part of the bench saw."""

    latencies: list[float] = field(default_factory=list)  # s
    errors: Counter = field(default_factory=Counter)
    wrong: int = 0  # replies that were for somebody else
    overdue: int = 0  # calls that returned neither an answer nor an error within their limit
    recovered: list[float] = field(default_factory=list)  # s from the restart to a robot's first answer
    lock: threading.Lock = field(default_factory=threading.Lock)

    def row(self, seconds: float) -> dict:
        p50, p99 = np.percentile(self.latencies, (50, 99)) * 1e3 if self.latencies else (float("nan"),) * 2
        return {"answers": len(self.latencies), "per_second": round(len(self.latencies) / seconds, 1),
                "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1), "errors": sum(self.errors.values()),
                "kinds": dict(self.errors), "wrong": self.wrong, "overdue": self.overdue}


class ServerProcess:
    """The server in a process of its own: started, killed, started again on the same port."""

    def __init__(self, policy: str | None, robot: str, *, batch: int) -> None:
        self._arguments = (policy, robot, batch)
        self.port = 0

    def start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_serve, args=(*self._arguments, self.port, theirs), daemon=True)
        self.process.start()
        theirs.close()
        try:
            answer = ours.recv() if ours.poll(START_LIMIT) else "it did not start in time"
        except EOFError:
            answer = "it ended at once"
        if isinstance(answer, str):
            raise CommandError(f"the server: {answer}")
        self.port, self.name = answer

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def memory(self) -> int:
        """Resident bytes, without what the allocator keeps for later: how much of that there is depends on who was
        quicker when, and is no leak."""
        os.kill(self.process.pid, signal.SIGUSR1)
        time.sleep(TRIM_TIME)
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _serve(policy: str | None, robot_name: str, batch: int, port: int, out: Connection) -> None:
    import asyncio
    import logging

    from pi_policy_node.policy.remote.batcher import warm_batches
    from pi_policy_node.policy.remote.server import Server

    signal.signal(signal.SIGUSR1, lambda *_: (gc.collect(), ctypes.CDLL(None).malloc_trim(0)))
    logging.getLogger("pi.serve").setLevel(logging.ERROR)  # a soak sends a thousand bad requests on purpose
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    try:
        robot = load_robot(robot_name)
        served = make_served_policy(policy, robot)
        served.warm_up()
        warm_batches(served, robot, largest=batch)
        server = Server(served, robot, port=port, largest_batch=batch, max_connections=256)
    except Exception as error:
        out.send(str(error))
        return
    asyncio.run(server.run(ready=lambda number: out.send((number, served.name))))


class Fleet:
    """Many robots, each with a client and a thread, whose requests nobody else's answer can fit."""

    def __init__(self, robot: Robot, port: int, count: int, *, limit: float) -> None:
        from pi_policy_node.policy.remote.client import RemotePolicy

        self.robot, self.limit = robot, limit
        self.policies = [RemotePolicy(robot, url=f"ws://127.0.0.1:{port}", timeout=limit, connect_limit=30.0)
                         for _ in range(count)]
        for policy in self.policies:
            policy.warm_up()

    def run(self, tally: Tally, *, hz: float | None, stop: threading.Event, after: threading.Event | None = None,
            requests: int | None = None) -> None:
        """Every robot asks at `hz` (None: as fast as it is answered) until `stop`, or for so many requests.
        `after`: set when the server was started again."""
        threads = [threading.Thread(target=self._ask, args=(n, policy, tally, hz, stop, after, requests))
                   for n, policy in enumerate(self.policies)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run_for(self, tally: Tally, seconds: float, *, hz: float | None) -> None:
        """The same for some time."""
        stop = threading.Event()
        timer = threading.Timer(seconds, stop.set)
        timer.start()
        self.run(tally, hz=hz, stop=stop)

    def _ask(self, number: int, policy, tally: Tally, hz: float | None, stop: threading.Event,
             after: threading.Event | None, requests: int | None) -> None:
        rng = np.random.default_rng(number)
        height, width = self.robot.image_size
        images = {camera.name: rng.integers(0, 256, (height, width, 3), np.uint8) for camera in self.robot.cameras}
        due = time.monotonic() + (rng.uniform(0, 1 / hz) if hz else 0.0)  # robots are not in step
        count, back = 0, False
        while not stop.is_set() and (requests is None or count < requests):
            if hz:
                stop.wait(max(0.0, due - time.monotonic()))
            count += 1
            rows = self.robot.home + rng.normal(0, 1e-3, (2, len(self.robot.home)))  # its signature
            begin = time.monotonic()
            due += 1 / hz if hz else 0.0
            try:
                result = policy.infer(Observation(images, self.robot.home, "put the red block in the bin", begin),
                                      prefix=Prefix(rows))
            except PolicyError as error:
                with tally.lock:
                    tally.errors[type(error).__name__] += 1
                    tally.overdue += time.monotonic() - begin > self.limit + 0.25
                if not hz:
                    time.sleep(0.02)
                due = max(due, time.monotonic()) if hz else due
                continue
            now = time.monotonic()
            with tally.lock:
                tally.latencies.append(now - begin)
                tally.wrong += not np.allclose(result.actions[:2], rows, atol=1e-9)
                tally.overdue += now - begin > self.limit + 0.25
                if after is not None and after.is_set() and not back:
                    back = True
                    tally.recovered.append(now)

    def close(self) -> None:
        for policy in self.policies:
            policy.close()


def run(args: argparse.Namespace) -> int:
    if args.robots < 1 or not args.hz > 0 or not args.seconds > 0:
        raise CommandError("--robots, --hz and --seconds must be positive")
    robot = load_robot("pi_mobile")
    report: dict = {"robots": args.robots, "hz": args.hz, "cores": len(os.sched_getaffinity(0))}
    server = ServerProcess(args.policy, "pi_mobile", batch=16)
    server.start()
    report["policy"] = server.name
    print(f"{args.robots} robots, {len(robot.cameras)} cameras of {robot.image_size[1]}x{robot.image_size[0]} each, "
          f"policy {server.name}, server and robots on {report['cores']} cores")
    try:
        report["paced"] = _paced(server, robot, args)
        report["restart"] = _restart(server, robot, args)
        report["flat_out_batched"] = _flat_out(server, robot, args)
        if args.soak:
            report["soak"] = _soak(server, robot, args)
        server.kill()
        server = ServerProcess(args.policy, "pi_mobile", batch=1)
        server.start()
        report["flat_out_one_by_one"] = _flat_out(server, robot, args)
    finally:
        server.kill()
    gain = report["flat_out_batched"]["per_second"] / max(report["flat_out_one_by_one"]["per_second"], 1e-9)
    report["batching_gain"] = round(gain, 2)
    print(f"batching's gain: {gain:.2f} times the answers per second of one by one")
    if args.json is not None:
        temporary = args.json.with_name(args.json.name + ".part")
        temporary.write_text(json.dumps(report, indent=1))
        temporary.replace(args.json)
    return 0 if _passed(report) else 1


def _passed(report: dict) -> bool:
    """Whether every promise was kept; says which was not."""
    wrong = sum(part.get("wrong", 0) + part.get("overdue", 0) for part in report.values() if isinstance(part, dict))
    failures = [sentence for bad, sentence in (
        (report["paced"]["errors"], "robots got errors under the paced load"),
        (wrong, "a reply was for another robot, or a call outlasted its limit"),
        (report["restart"]["robots_back"] < report["robots"], "not every robot came back after the restart"),
        (report.get("soak", {}).get("growth_bytes", 0) > FLAT, "the server's memory grew"),
        (report.get("soak", {}).get("unanswered", 0), "malformed requests were not answered as the protocol has it"),
        (report.get("soak", {}).get("errors", 0), "robots got errors while others sent malformed requests"),
    ) if bad]
    for sentence in failures:
        print(f"FAILED: {sentence}")
    return not failures


def _paced(server: ServerProcess, robot: Robot, args: argparse.Namespace) -> dict:
    fleet, tally = Fleet(robot, server.port, args.robots, limit=args.limit), Tally()
    fleet.run_for(tally, args.seconds, hz=args.hz)
    fleet.close()
    row = tally.row(args.seconds)
    _print(f"{args.robots} robots at {args.hz:g} Hz", row)
    return row


def _flat_out(server: ServerProcess, robot: Robot, args: argparse.Namespace) -> dict:
    fleet, tally = Fleet(robot, server.port, args.robots, limit=30.0), Tally()
    fleet.run_for(tally, args.seconds, hz=None)
    fleet.close()
    row = tally.row(args.seconds)
    _print("as fast as they are answered", row)
    return row


def _restart(server: ServerProcess, robot: Robot, args: argparse.Namespace) -> dict:
    fleet, tally, back = Fleet(robot, server.port, args.robots, limit=args.limit), Tally(), threading.Event()
    stop, begin = threading.Event(), time.monotonic()
    load = threading.Thread(target=fleet.run, args=(tally,), kwargs={"hz": args.hz, "stop": stop, "after": back})
    load.start()
    time.sleep(args.seconds / 3)
    server.kill()
    time.sleep(1.0)
    server.start()
    restarted = time.monotonic()
    back.set()
    while len(tally.recovered) < args.robots and time.monotonic() < restarted + RECOVERY_LIMIT:
        time.sleep(0.05)
    stop.set()
    load.join()
    fleet.close()
    waits = [at - restarted for at in tally.recovered]
    row = tally.row(time.monotonic() - begin)
    row |= {"robots_back": len(waits), "slowest_back_s": round(max(waits, default=float("nan")), 2)}
    _print("killed and started again in mid-flight", row)
    print(f"    {len(waits)} of {args.robots} robots were answered again, the last one {row['slowest_back_s']} s after "
          "the server listened")
    return row


def _soak(server: ServerProcess, robot: Robot, args: argparse.Namespace) -> dict:
    """A tenth of the requests are malformed, and come at the same time as the good ones."""
    fleet, never = Fleet(robot, server.port, ROBOTS_IN_SOAK, limit=30.0), threading.Event()
    begin, tally, bad = time.monotonic(), Tally(), Vandal(robot, server.port)

    def go(share: float) -> None:
        malformed = threading.Thread(target=bad.run, args=(round(share * args.soak / 10), never))
        malformed.start()
        fleet.run(tally, hz=None, stop=never, requests=max(1, round(share * 0.9 * args.soak / ROBOTS_IN_SOAK)))
        malformed.join()

    sizes = []
    for share in (0.1, 0.3, 0.3, 0.3):  # the first tenth fills every cache
        go(share)
        sizes.append(server.memory())
    fleet.close()
    row = tally.row(time.monotonic() - begin)
    row |= {"malformed": dict(bad.outcomes), "unanswered": bad.unanswered, "bytes": sizes,
            "growth_bytes": sizes[-1] - sizes[0]}
    _print(f"soak of {args.soak} requests", row)
    print(f"    {sum(bad.outcomes.values())} of them malformed: "
          + ", ".join(f"{count} {what}" for what, count in bad.outcomes.items()))
    print("    the server's memory after 10, 40, 70 and 100 %: "
          + ", ".join(f"{size / 2**20:.1f}" for size in sizes) + " MiB")
    return row


def _print(what: str, row: dict) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["kinds"].items())
    print(f"  {what:<40} {row['answers']:>6} answers, {row['per_second']:>6.1f}/s, p50 {row['p50_ms']:.1f} ms, "
          f"p99 {row['p99_ms']:.1f} ms, {row['errors']} errors{f' ({kinds})' if kinds else ''}, {row['wrong']} wrong, "
          f"{row['overdue']} overdue", flush=True)
