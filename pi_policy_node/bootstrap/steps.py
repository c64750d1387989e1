"""Steps that are done once: stamps, a lock, commands with their output in a log, a line of progress each."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi_policy_node.bootstrap import SetupError
from pi_policy_node.bootstrap.explain import explain


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    inputs: str  # a digest: the step is done again when it changes
    work: Callable[[Runner], None]
    disk: float = 0.0  # GB that it needs


def digest(*words: object, files: Iterable[Path] = ()) -> str:
    """A hash of words and of the contents of files."""
    total = hashlib.sha256()
    for data in (*(str(word).encode() for word in words), *(path.read_bytes() for path in files)):
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:20]


class Stamps:
    """Which steps are done, with the digest of their inputs; lies in the folder that it speaks of."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "pi-stamps.json"
        self._finished: dict[str, str] = {}  # by this run; the step that makes the folder may clear it first

    def missing(self, steps: Iterable[Step]) -> list[Step]:
        done = self._read()
        return [step for step in steps if done.get(step.name) != step.inputs]

    def finish(self, step: Step) -> None:
        self._finished[step.name] = step.inputs
        text = json.dumps({**self._read(), **self._finished}, indent=1)
        self._file.parent.mkdir(exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self._file)

    def _read(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._file.read_text()))
        except (OSError, ValueError):
            return {}


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; another run here waits until it is released, however that one ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("pi: another ./pi is setting up here; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


class Runner:
    """Runs the commands of one step, their output in its log."""

    def __init__(self, log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        self.env = dict(env)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def run(self, *command: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        words = [str(word) for word in command]
        with self.log.open("a") as out:
            out.write("$ " + " ".join(words) + "\n")
            out.flush()
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=cwd,
                    env=self.env if env is None else dict(env), start_new_session=True,
                )
            except OSError as error:
                raise SetupError(f"can't run {words[0]}: {error.strerror}") from error
            try:
                status = process.wait()
            except BaseException:
                _end(process)
                raise
        if status:
            raise StepFailed(explain(self.log.read_text(errors="replace"), status), self.log)

    def note(self, line: str) -> None:
        print(f"\npi:     {line}", flush=True)


class StepFailed(SetupError):
    """A command failed; `reason` is explain()'s line about it."""

    def __init__(self, reason: str, log: Path) -> None:
        super().__init__(f"{reason} (all of it: {log})")
        self.reason = reason


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command with all that it started: a compiler left behind would write into the next run's build."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone; or apt, which sudo made root's
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def do(steps: Sequence[Step], stamps: Stamps, logs: Path, env: Mapping[str, str]) -> None:
    """Do what is missing, in order, saying what and how long it took."""
    missing = stamps.missing(steps)
    for number, step in enumerate(missing, 1):
        print(f"pi: {number}/{len(missing)} {step.title} ...", end="", flush=True)
        start = time.monotonic()
        try:
            step.work(Runner(logs / f"{step.name}.log", env))
        except BaseException:
            print(flush=True)
            raise
        stamps.finish(step)
        print(f" {time.monotonic() - start:.0f} s", flush=True)
    sys.stdout.flush()
