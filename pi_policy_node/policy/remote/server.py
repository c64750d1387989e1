"""Serves a policy to many robots over openpi's websocket protocol; an unmodified openpi-client works against it.

The event loop only moves bytes: messages are decoded in one pool of threads, the policy runs in another. Of each
connection only the newest observation waits; one that it replaces is told so (with our extension) or gets the newer
one's answer (without).
"""

from __future__ import annotations

import asyncio
import hmac
import http
import logging
import math
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from websockets.asyncio.server import Request as Handshake
from websockets.asyncio.server import Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pi_policy_node.policy.base import Cancelled, DeadlineExceeded, InputError, Policy, PolicyError, Result
from pi_policy_node.policy.remote import wire
from pi_policy_node.policy.remote.batcher import Batcher, Request
from pi_policy_node.robot import Robot

SEND_LIMIT = 5.0  # s; a peer that doesn't read for that long is cut off
READERS = 2  # threads that decode messages
INTERNAL_ERROR = 1011  # the protocol's close code after an error

log = logging.getLogger("pi.serve")


class Server:
    """One policy, one port. `run` serves until it is cancelled."""

    def __init__(self, policy: Policy, robot: Robot, *, host: str = "127.0.0.1", port: int = 8000, api_key: str = "",
                 tls: ssl.SSLContext | None = None, largest_batch: int = 16, max_message: int = 16 << 20,
                 max_connections: int = 64, make_own: Callable[[], Policy] | None = None) -> None:
        """`api_key`: empty = none asked for; `max_message`: bytes; `make_own`: makes a policy per connection, for one
        that remembers what it did."""
        self.host, self.port = host, port
        self._policy, self._robot = policy, robot
        self._key = api_key.encode()
        self._tls = tls
        self._largest_batch, self._max_message, self._max_connections = largest_batch, max_message, max_connections
        self._make_own = make_own
        self.connections = 0  # open now
        self.metadata = {
            "policy": policy.name, "robot": robot.name, "dt": policy.dt, "horizon": policy.horizon,
            "action_names": list(robot.action_names), "cameras": [camera.name for camera in robot.cameras],
            "image_size": list(robot.image_size),
            wire.EXTENSION: {"version": wire.VERSION, "offers": ["id", "deadline", "prefix", "reset", "jpeg"]},
        }
        if getattr(policy, "takes_subtask", False):
            self.metadata[wire.EXTENSION]["offers"].append("subtask")

    async def run(self, *, ready: Callable[[int], None] | None = None) -> None:
        """Serves; `ready(port)` once it listens."""
        self._batcher = Batcher(self._policy, largest=self._largest_batch)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        batches = asyncio.create_task(self._batcher.run())
        try:
            async with serve(self._serve, self.host, self.port, ssl=self._tls, process_request=self._admit,
                             compression=None, max_size=self._max_message, max_queue=2, close_timeout=2,
                             server_header=None) as server:
                self.port = server.sockets[0].getsockname()[1]
                if ready is not None:
                    ready(self.port)
                await batches  # for ever, or until the batcher breaks, which must not go unnoticed
        finally:
            batches.cancel()
            self._readers.shutdown(wait=False, cancel_futures=True)

    def _admit(self, connection: ServerConnection, handshake: Handshake) -> Response | None:
        if handshake.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._key:
            given = handshake.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, b"Api-Key " + self._key):
                log.warning("%s: refused, wrong or no API key", _peer(connection))
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong or no API key\n")
        if self.connections >= self._max_connections:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE,
                                      f"already {self.connections} connections, the most that are accepted\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        log.info("%s: connected, %d open", _peer(connection), self.connections)
        try:
            own = self._make_own() if self._make_own is not None else None
            await Session(connection, self._robot, self._batcher, self._readers, own).run(self.metadata)
        except ConnectionClosed:
            pass
        finally:
            self.connections -= 1
            log.info("%s: gone, %d open", _peer(connection), self.connections)


class Session:
    """One connection: reads always, keeps the newest observation, answers in order."""

    def __init__(self, connection: ServerConnection, robot: Robot, batcher: Batcher, readers: ThreadPoolExecutor,
                 own: Policy | None) -> None:
        self._connection, self._robot, self._batcher, self._readers = connection, robot, batcher, readers
        self._own = own
        self._waiting: _Job | None = None
        self._answers: set[asyncio.Task] = set()
        self._last_total: float | None = None  # s, what the answer before took

    async def run(self, metadata: dict) -> None:
        """Until the peer is gone or made a mistake."""
        try:
            await self._send(wire.pack(metadata))
            async for frame in self._connection:
                await self._take(frame)
        finally:
            for answer in self._answers:
                answer.cancel()
            if self._waiting is not None:
                self._waiting.request.answer.cancel()

    async def _take(self, frame: str | bytes) -> None:
        arrived = time.monotonic()
        extension: dict | None = None
        loop = asyncio.get_running_loop()
        try:
            if isinstance(frame, str):
                raise wire.WireError("a text frame; observations are binary")
            message = await loop.run_in_executor(self._readers, wire.unpack, frame)
            extension = _extension(message)
            job = await loop.run_in_executor(self._readers, self._read, message, extension, arrived)
        except PolicyError as error:
            await self._fail(error, extension)
            return
        old = self._waiting
        if old is not None and not old.request.taken and not old.request.answer.done():
            old.request.answer.cancel()
            if old.extension is None:
                job.owed += old.owed
            else:
                await self._fail(Cancelled("a newer observation took its place"), old.extension)
        self._batcher.submit(job.request)
        self._waiting = job
        answer = asyncio.create_task(self._answer(job))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    def _read(self, message: Any, extension: dict | None, arrived: float) -> _Job:
        """In a reader's thread: images may have to be decoded."""
        asked = extension or {}
        left = asked.get("deadline_ms")
        number = isinstance(left, (int, float)) and not isinstance(left, bool) and math.isfinite(left)
        if left is not None and not number:
            raise InputError("'deadline_ms' must be a finite number of milliseconds from now")
        observation = replace(wire.read_observation(message, self._robot),
                              subtask=wire.read_prompt(asked.get("subtask", "")))
        request = Request(observation, policy=self._own,
                          prefix=wire.read_prefix(asked.get("prefix"), self._robot), reset=bool(asked.get("reset")),
                          deadline=None if left is None else arrived + left / 1000)
        return _Job(request, extension, arrived)

    async def _answer(self, job: _Job) -> None:
        try:
            result = await job.request.answer
        except asyncio.CancelledError:
            return  # replaced, or the connection is gone
        except Exception as error:
            if not isinstance(error, PolicyError):
                log.error("inference failed", exc_info=error)
            await self._fail(error, job.extension)
            return
        packed = wire.pack(self._reply(result, job))
        try:
            for _ in range(job.owed):
                await self._send(packed)
        except ConnectionClosed:
            pass
        self._last_total = time.monotonic() - job.arrived

    def _reply(self, result: Result, job: _Job) -> dict:
        now = time.monotonic()
        timing = {"infer_ms": (now - job.arrived) * 1000}
        if self._last_total is not None:
            timing["prev_total_ms"] = self._last_total * 1000
        reply = {"actions": result.actions, "server_timing": timing,
                 "policy_timing": {f"{stage}_ms": float(seconds) * 1000 for stage, seconds in result.timing.items()}}
        if job.extension is not None:
            reply[wire.EXTENSION] = {"id": job.extension.get("id"), "subtask": result.subtask,
                                     "progress": float(result.progress)}
        return reply

    async def _fail(self, error: Exception, extension: dict | None) -> None:
        """With the extension: an error reply to this request. Without: the protocol's text frame and close."""
        text = str(error) if isinstance(error, PolicyError) else f"{type(error).__name__}: {error}"
        try:
            if extension is not None:
                await self._send(wire.pack({wire.EXTENSION: {
                    "id": extension.get("id"), "error": text, "code": _code(error)}}))
            else:
                log.warning("%s: %s", _peer(self._connection), text)
                await self._send(text)
                await self._connection.close(INTERNAL_ERROR, "the error is in the text frame before")
        except ConnectionClosed:
            pass

    async def _send(self, frame: str | bytes) -> None:
        try:
            await asyncio.wait_for(self._connection.send(frame), SEND_LIMIT)
        except asyncio.TimeoutError:
            log.warning("%s: cut off, it has not read for %g s", _peer(self._connection), SEND_LIMIT)
            self._connection.transport.abort()


class _Job:
    """A request, whose it is, and how many replies its connection waits for."""

    def __init__(self, request: Request, extension: dict | None, arrived: float) -> None:
        self.request, self.extension, self.arrived = request, extension, arrived
        self.owed = 1


def _extension(message: Any) -> dict | None:
    asked = message.get(wire.EXTENSION) if isinstance(message, dict) else None
    if asked is not None and not (isinstance(asked, dict) and isinstance(asked.get("id"), (int, str))):
        raise wire.WireError(f"'{wire.EXTENSION}' must be a map with an 'id'")
    return asked


def _code(error: Exception) -> str:
    codes = ((DeadlineExceeded, "deadline"), (Cancelled, "superseded"), ((InputError, wire.WireError), "input"))
    return next((code for kind, code in codes if isinstance(error, kind)), "failed")


def _peer(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if address else "?"


class ServerThread:
    """A server in a thread of its own, for programs and tests: `with ServerThread(server) as port:`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self.server.port

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        async def work() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            await self.server.run(ready=lambda port: self._ready.set())

        try:
            asyncio.run(work())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failure = error
        self._ready.set()
