"""Work spread over processes, one piece after another in each, its results as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


def spread(make: Callable[..., Callable[[T], R]], told: tuple, pieces: Iterable[T], workers: int) -> Iterator[R]:
    """What `make(*told)`, called once in every process, makes of each piece.

    With one worker, or one piece, in this process. BrokenProcessPool where a process dies.
    """
    pieces = list(pieces)
    if min(workers, len(pieces)) <= 1:
        if pieces:
            yield from map(make(*told), pieces)
        return
    for variable in ("LP_NUM_THREADS", "OMP_NUM_THREADS"):  # more threads would only be in the other workers' way
        os.environ.setdefault(variable, "1")
    with ProcessPoolExecutor(min(workers, len(pieces)), mp_context=multiprocessing.get_context("spawn"),
                             initializer=_begin, initargs=(make, told)) as pool:
        waiting = {pool.submit(_one, piece) for piece in pieces}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_told: tuple | None = None
_work: Callable | None = None  # of a worker process


def _begin(make: Callable, told: tuple) -> None:
    global _told
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes: this one ends at once, without a word
    _told = make, told


def _one(piece: T) -> R:
    global _work
    if _work is None:  # here and not in _begin: its errors reach the caller
        make, told = _told
        _work = make(*told)
    return _work(piece)
