#!/usr/bin/env python3
"""Stands in front of a command in a launch file, so that the hardware bridge comes to rest before anything else ends.

    guard.py bridge  -- COMMAND    the bridge itself: others wait for it
    guard.py after   -- COMMAND    is told to end only when the bridge is gone, or after LIMIT seconds
    guard.py outlive -- COMMAND    the same, and lives on when launch or this guard is killed

Ctrl-C in a terminal goes to every process of the foreground group at once, and `launch` signals all of its processes
at once too. So the command gets a session of its own, which no terminal reaches, and this process stays in front of it
and passes the wish to end on when it is time, as SIGTERM (Python would answer an early SIGINT with a traceback). While
a bridge runs, its guard and it hold a lock on a file named after the launch process.

When launch is killed, the kernel tells the guards of `bridge` and `after`, and all goes the same way: nothing of ours
is left behind. Standard library only, and started without site-packages: 15 ms and 8 MB.
"""

import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

LIMIT = 4.0  # s; the bridge gives itself 3 s to come to rest, and takes well below one
POLL = 0.02
PR_SET_PDEATHSIG = 1

USAGE = "usage: guard.py bridge|after|outlive -- COMMAND [ARGUMENT ...]"


def lock_path(launch: int) -> str:
    """The file that the bridges started by this launch process hold a lock on."""
    return os.path.join(tempfile.gettempdir(), f"pi-bridge-{os.getuid()}-{launch}.lock")


def set_death_signal(number: int) -> None:
    """Has the kernel send this process a signal when its parent dies; 0: none."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def open_lock(launch: int) -> int:
    return os.open(lock_path(launch), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def bridge_is_gone(launch: int) -> bool:
    try:
        lock = open_lock(launch)
    except OSError:
        return True  # cannot be asked: do not stand in the way
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(lock_path(launch))
    except FileNotFoundError:
        pass
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def guard(mode: str, command: list) -> int:
    """Runs the command; its exit status, 0 where it was ended by the signal that asked it to."""
    launch = os.getppid()
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}  # what a terminal can send, and launch
    signals = ends | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    set_death_signal(0 if mode == "outlive" else signal.SIGTERM)
    if os.getppid() != launch:
        return 0  # it died before we could ask
    options = {}
    if mode == "bridge":
        lock = open_lock(launch)
        fcntl.flock(lock, fcntl.LOCK_SH)  # shared: one launch may start the bridges of two robots
        options["pass_fds"] = [lock]  # held until the last process of the bridge is gone, this one included
    if mode == "outlive":
        # Python ignores SIGPIPE, and then so does the command: when launch is gone its log goes nowhere, which is no
        # reason to die.
        options["restore_signals"] = False

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if mode != "outlive":
            set_death_signal(signal.SIGKILL)

    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **options)
    except OSError as error:
        print(f"guard: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    deadline = None
    asked = told = False
    while True:
        received = signal.sigtimedwait(signals, POLL if asked else 3600.0)
        code = child.poll()
        if code is not None:
            return 0 if told and code == -signal.SIGTERM else code
        if received is not None and received.si_signo in ends - ({signal.SIGHUP} if mode == "outlive" else set()):
            deadline = deadline or time.monotonic() + LIMIT
            asked = True
        if asked and (mode == "bridge" or bridge_is_gone(launch) or time.monotonic() > deadline):
            try:
                os.killpg(child.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            asked, told = False, True


def main(argv: list) -> int:
    if len(argv) < 3 or argv[0] not in ("bridge", "after", "outlive") or argv[1] != "--":
        print(USAGE, file=sys.stderr)
        return 2
    code = guard(argv[0], argv[2:])
    if code < 0:  # it died of a signal: so do we, so that launch reports the same
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
