"""A single-threaded executor that costs a tenth of rclpy's per message.

rclpy's builds a new wait set of everything a node has (a lifecycle node has some 40 entities) and a task for each
callback, at every wake-up: 0.6 to 0.8 ms, most of a core with the rates of a robot. This one keeps its wait set until
something is created or destroyed, and calls subscriptions and timers directly. Everything rarer (services, clients,
actions, coroutines, guard conditions) goes through rclpy's own code.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.event_handler import EventHandler
from rclpy.exceptions import InvalidHandle, TimerCancelledError
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities

EVENTS_PERIOD = 1.0  # s between two looks at the middleware's events (a QoS that doesn't match, and the like)


class LeanExecutor(SingleThreadedExecutor):
    """Takes the place of SingleThreadedExecutor. Callbacks run one after another, in the thread that spins."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._watched: _Watched | None = None
        self._events_due = 0.0  # s, steady
        self._spinning = threading.RLock()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        done = super().shutdown(timeout_sec)  # wakes whoever spins
        with self._spinning:
            self._let_go()
        return done

    def _spin_once_impl(self, timeout_sec: Any = None, wait_condition: Callable[[], bool] = lambda: False) -> None:
        if timeout_sec is not None and not isinstance(timeout_sec, (int, float)):
            timeout_sec = timeout_sec.timeout  # rclpy passes an object along while it spins until a future is done
        with self._spinning:
            now = time.monotonic()
            if self._tasks or now >= self._events_due:
                self._events_due = now + EVENTS_PERIOD
                self._run_rclpys()
            if wait_condition() or self._is_shutdown:
                return
            limit = self._events_due - now
            if timeout_sec is not None and timeout_sec >= 0:
                limit = min(limit, timeout_sec)
            if self._watched is None:
                self._watched = _Watched(self)
            rare = self._watched.wait(max(int(limit * 1e9), 0))
            if rare:
                self._let_go()  # what it does may create or destroy anything
                self._run_rclpys()
        if not self._context.ok():
            raise ExternalShutdownException()

    def _run_rclpys(self) -> None:
        """Whatever is ready, by rclpy's own way."""
        try:
            for handler, _, _ in self._wait_for_ready_callbacks(timeout_sec=0):
                handler()
                exception = handler.exception()
                if exception is not None:
                    raise exception
        except (TimeoutException, ShutdownException):
            pass

    def _let_go(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.close()


class _Watched:
    """A wait set, and what to call for what is in it."""

    def __init__(self, executor: LeanExecutor) -> None:
        self._in_use = ExitStack()  # a handle that somebody destroys stays valid until we have let go of it
        self._subscriptions: dict[int, Any] = {}
        self._timers: dict[int, Any] = {}
        self._guards: dict[int, Any] = {}
        self._handles: list[tuple[str, Any]] = []  # the name of the wait set's method, and its argument
        self._waitables: list[Any] = []
        total = NumberOfEntities()
        for node in executor.get_nodes():
            for kind in ("subscription", "timer", "client", "service"):
                for entity in getattr(node, f"{kind}s"):
                    self._add(kind, entity)
            for guard in node.guards:
                self._add("guard_condition", guard)
            for waitable in node.waitables:
                if not isinstance(waitable, EventHandler):
                    self._in_use.enter_context(waitable)
                    self._waitables.append(waitable)
                    total += waitable.get_num_entities()
        for guard in (executor._guard, executor._sigint_gc):
            if guard is not None:
                self._add("guard_condition", guard)
        self._in_use.enter_context(executor.context.handle)
        count = {kind: sum(method == f"add_{kind}" for method, _ in self._handles)
                 for kind in ("subscription", "guard_condition", "timer", "client", "service")}
        self._set = _rclpy.WaitSet(
            count["subscription"] + total.num_subscriptions, count["guard_condition"] + total.num_guard_conditions,
            count["timer"] + total.num_timers, count["client"] + total.num_clients,
            count["service"] + total.num_services, total.num_events, executor.context.handle)
        self._adders = [(getattr(self._set, method), handle) for method, handle in self._handles]

    def _add(self, kind: str, entity: Any) -> None:
        try:
            self._in_use.enter_context(entity.handle)
        except InvalidHandle:
            return
        self._handles.append((f"add_{kind}", entity.handle))
        if kind == "subscription" and not inspect.iscoroutinefunction(entity.callback):
            self._subscriptions[entity.handle.pointer] = entity
        elif kind == "timer" and not inspect.iscoroutinefunction(entity.callback):
            self._timers[entity.handle.pointer] = entity
        elif kind == "guard_condition":
            self._guards[entity.handle.pointer] = entity

    def wait(self, limit: int) -> bool:
        """Waits up to `limit` ns and does what is due. True when there is something that is rclpy's to do."""
        ready = self._set
        ready.clear_entities()
        for add, handle in self._adders:
            add(handle)
        for waitable in self._waitables:
            waitable.add_to_wait_set(ready)
        ready.wait(limit)
        rare = any([waitable.is_ready(ready) for waitable in self._waitables])
        for kind in ("client", "service"):
            rare = bool(ready.get_ready_entities(kind)) or rare
        for pointer in ready.get_ready_entities("guard_condition"):
            self._guards[pointer]._executor_triggered = True  # waiting took the trigger; rclpy's code triggers it again
            rare = True
        for pointer in ready.get_ready_entities("timer"):
            if pointer in self._timers:
                _call_timer(self._timers[pointer])
            else:
                rare = True
        for pointer in ready.get_ready_entities("subscription"):
            if pointer in self._subscriptions:
                _take(self._subscriptions[pointer])
            else:
                rare = True
        return rare

    def close(self) -> None:
        self._in_use.close()


def _call_timer(timer: Any) -> None:
    try:
        with timer.handle:
            if not timer.handle.is_timer_ready():
                return
            timer.handle.call_timer_with_info()
    except (InvalidHandle, TimerCancelledError):  # by a callback before
        return
    timer.callback()


def _take(subscription: Any) -> None:
    try:
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    except InvalidHandle:  # destroyed by a callback before
        return
    if taken is None:
        return
    if subscription._callback_type is Subscription.CallbackType.MessageOnly:
        subscription.callback(taken[0])
    else:
        subscription.callback(*taken)
