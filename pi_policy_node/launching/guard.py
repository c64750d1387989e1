#!/usr/bin/env python3
"""Goes in front of a command in a launch file, so that the hardware bridge comes to rest before anything else ends.

    guard.py bridge  -- COMMAND    the bridge itself: others wait for it
    guard.py after   -- COMMAND    passes SIGINT and SIGTERM on only when the bridge is gone, or after LIMIT seconds
    guard.py outlive -- COMMAND    the same, and the command lives on when launch or this guard is killed

Ctrl-C in a terminal goes to every process of the foreground group at once, and `launch` signals all of its processes
at once too. So the command of `after` and `outlive` gets a session of its own, which no terminal reaches, and this
process stays in front of it. The bridge holds a lock on a file named after the launch process until it is gone.

When launch is killed, the kernel tells the bridge (SIGINT: it comes to rest) and the guards of `after` (SIGTERM), so
nothing of ours is left behind. Standard library only, and started without site-packages: it costs 15 ms and 8 MB.
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
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def tell_when_parent_dies(number: int, parent: int) -> None:
    """Has the kernel send this process a signal when `parent` dies; kept across exec."""
    set_death_signal(number)
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), number)


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


def be_the_bridge(command: list) -> int:
    launch = os.getppid()
    tell_when_parent_dies(signal.SIGINT, launch)
    lock = open_lock(launch)
    fcntl.flock(lock, fcntl.LOCK_SH)  # shared: one launch may start the bridges of two robots
    os.set_inheritable(lock, True)  # held until the last process of the bridge is gone
    try:
        os.execvp(command[0], command)
    except OSError as error:
        return complain(command[0], error)


def wait_for_the_bridge(command: list, outlive: bool) -> int:
    launch = os.getppid()
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    here = os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if not outlive:
            tell_when_parent_dies(signal.SIGKILL, here)

    if outlive:
        set_death_signal(0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal was closed
    else:
        tell_when_parent_dies(signal.SIGTERM, launch)
    try:
        # Python ignores SIGPIPE, and so does the command then: its log goes nowhere when launch is gone, and that
        # is no reason to die.
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, restore_signals=not outlive)
    except OSError as error:
        return complain(command[0], error)

    asked = None  # the signal to pass on
    deadline = 0.0
    while True:
        received = signal.sigtimedwait(signals, POLL if asked else 3600.0)
        code = child.poll()
        if code is not None:
            return code
        if received is not None and received.si_signo != signal.SIGCHLD:
            deadline = deadline or time.monotonic() + LIMIT
            asked = signal.Signals(received.si_signo)
        if asked and (bridge_is_gone(launch) or time.monotonic() > deadline):
            try:
                os.killpg(child.pid, asked)
            except ProcessLookupError:
                pass
            asked = None


def complain(program: str, error: OSError) -> int:
    print(f"guard: cannot start {program}: {error.strerror}", file=sys.stderr)
    return 127


def main(argv: list) -> int:
    if len(argv) < 3 or argv[0] not in ("bridge", "after", "outlive") or argv[1] != "--":
        print(USAGE, file=sys.stderr)
        return 2
    if argv[0] == "bridge":
        return be_the_bridge(argv[2:])
    code = wait_for_the_bridge(argv[2:], outlive=argv[0] == "outlive")
    if code < 0:  # it died of a signal: so do we, so that launch reports the same
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
