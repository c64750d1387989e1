"""Brings requests of many robots to one policy: in batches, off the event loop, the late ones dropped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pi_policy_node.policy.base import DeadlineExceeded, Observation, Policy, PolicyError, Prefix, Result
from pi_policy_node.robot import Robot


@dataclass(eq=False)
class Request:
    """One observation that waits for its answer."""

    observation: Observation
    prefix: Prefix | None = None
    deadline: float | None = None  # s, time.monotonic()
    policy: Policy | None = None  # of its own, for a policy that remembers; None: the shared one
    reset: bool = False
    taken: bool = False  # the policy has it
    cancel: threading.Event = field(default_factory=threading.Event)  # set when nobody waits for the answer any more
    answer: asyncio.Future[Result] = field(init=False)  # made by `submit`


class Batcher:
    """One inference at a time; what arrives meanwhile makes the next batch.

    A policy with `infer_batch(requests: Sequence[Request]) -> Sequence[Result | Exception]` gets them together, and
    one alone as well, because it remembers nothing from one robot to the next; any other one by one. No request waits
    for others to come: a batch is what is there when the policy becomes free.
    """

    def __init__(self, policy: Policy, *, largest: int) -> None:
        self._policy = policy
        self._largest = largest
        self._waiting: deque[Request] = deque()
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self.batches = self.served = 0

    def submit(self, request: Request) -> asyncio.Future[Result]:
        """Queues a request; cancel its future to withdraw it."""
        request.answer = asyncio.get_running_loop().create_future()
        request.answer.add_done_callback(lambda _: request.cancel.set())
        self._waiting.append(request)
        self._arrived.set()
        return request.answer

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                batch = self._take()
                if not batch:
                    self._arrived.clear()
                    await self._arrived.wait()
                    await asyncio.sleep(0)  # lets others that arrived at this instant in
                    continue
                results = await loop.run_in_executor(self._worker, self._infer, batch)
                self.batches += 1
                self.served += len(batch)
                for request, result in zip(batch, results):
                    settle(request.answer, checked(result))
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _take(self) -> list[Request]:
        batch: list[Request] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self._largest:
            request = self._waiting.popleft()
            if request.answer.done():
                continue  # withdrawn: its connection is gone, or a newer observation took its place
            if request.deadline is not None and request.deadline < now:
                settle(request.answer, DeadlineExceeded("the deadline passed before the policy was free"))
                continue
            request.taken = True
            batch.append(request)
        return batch

    def _infer(self, batch: Sequence[Request]) -> list[Result | Exception]:
        """In the worker thread."""
        own = [request for request in batch if request.policy is not None]
        shared = [request for request in batch if request.policy is None]
        results: dict[int, Result | Exception] = {}
        together: Callable | None = getattr(self._policy, "infer_batch", None)
        if together is not None and shared:
            results = self._together(together, shared)
            if len(results) == 0:  # one bad request must not take the others down: each on its own, then
                for request in shared:
                    results |= self._together(together, [request], last=True)
            shared = []
        for request in (*own, *shared):
            results[id(request)] = self._one(request)
        return [results[id(request)] for request in batch]

    @staticmethod
    def _together(infer: Callable, batch: list[Request], *, last: bool = False) -> dict[int, Result | Exception]:
        """{request's id: its answer}; none where the batch as a whole failed and is not the last try."""
        try:
            answers = list(infer(batch))
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} requests")
        except Exception as error:
            return {id(request): error for request in batch} if last else {}
        now = time.monotonic()
        for i, request in enumerate(batch):  # a batch ends when its last request is answered
            if request.deadline is not None and request.deadline < now and not isinstance(answers[i], Exception):
                answers[i] = DeadlineExceeded(f"the deadline passed {now - request.deadline:.3f} s ago")
        return {id(request): answer for request, answer in zip(batch, answers)}

    def _one(self, request: Request) -> Result | Exception:
        policy = request.policy or self._policy
        try:
            if request.reset and hasattr(policy, "reset"):
                policy.reset()
            return policy.infer(request.observation, prefix=request.prefix, deadline=request.deadline,
                                cancel=request.cancel)
        except Exception as error:
            return error


def warm_batches(policy: Policy, robot: Robot, *, largest: int, patience: float = 1.0) -> None:
    """Answer batches of every size once, so that what a size needs is made now; none beyond one that takes longer than
    `patience`, s."""
    if not hasattr(policy, "infer_batch"):
        return
    images = {camera.name: np.zeros((*robot.image_size, 3), np.uint8) for camera in robot.cameras}
    for size in range(1, largest + 1):
        began = time.monotonic()
        policy.infer_batch([Request(Observation(images, robot.home, "put it there", 0.0)) for _ in range(size)])
        if time.monotonic() - began > patience:
            return


def checked(result: Result | Exception) -> Result | Exception:
    """No robot is sent what it could not follow: a state far outside of all sense may come out as NaN."""
    if isinstance(result, Result) and not np.isfinite(result.actions).all():
        return PolicyError("the policy's actions are not finite; is the state what this robot can be in?")
    return result


def settle(answer: asyncio.Future, result: Result | Exception) -> None:
    """Gives a waiting future its result, unless it was withdrawn."""
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
        answer.exception()  # marks it as seen: nobody may be waiting any more
    else:
        answer.set_result(result)
