"""Keeps one connection to a policy server alive, in a thread of its own, and carries one request at a time over it."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pi_policy_node.policy.base import Cancelled, PolicyError
from pi_policy_node.policy.remote import wire

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # s between attempts to connect; doubles, with some chance in it
OPEN_LIMIT = 3.0  # s for the handshake, and again for the metadata
PING_EVERY, PING_LIMIT = 2.0, 5.0  # s; openpi's server does not answer pings while it thinks
IDLE_POLL = 0.1  # s, how soon an idle link notices that it was closed
REPLY_POLL = 0.02  # s
MAX_REPLY = 64 << 20  # bytes


class LinkDown(PolicyError, ConnectionError):
    """There is no connection to the server; says why, and when the next attempt is."""


class LinkState(Enum):
    CONNECTING = "connecting"  # for the first time
    UP = "up"
    DOWN = "down"
    CLOSED = "closed"


@dataclass(frozen=True)
class LinkStatus:
    """What the link is doing, for the fallback above and for people."""

    state: LinkState
    sentence: str
    since: float = field(default_factory=time.monotonic)  # s, steady


class Job:
    """One request on its way."""

    def __init__(self, payload: bytes, number: int | None) -> None:
        """`number`: its id where the server knows ids, else None."""
        self.payload, self.number = payload, number
        self.answer: Future[dict] = Future()
        self.abandoned = False

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Link:
    """Connects, and connects again with growing pauses, until closed."""

    def __init__(self, url: str, *, key: str, tls: ssl.SSLContext | None, check: Callable[[dict], None],
                 reply_limit: float) -> None:
        """`check(metadata)` raises PolicyError where the server is the wrong one; `reply_limit`: a server silent for so
        long on a request is given up [s]."""
        self.url = url
        self._headers = {"Authorization": f"Api-Key {key}"} if key else None
        self._tls = tls
        self._check = check
        self._reply_limit = reply_limit
        self.extension: dict | None = None
        self.metadata: dict = {}
        self.status = LinkStatus(LinkState.CONNECTING, f"connecting to {url}")
        self._wake = threading.Condition()
        self._job: Job | None = None  # waits to be sent
        self._connection: ClientConnection | None = None
        self._closed = False
        self._busy_since: float | None = None  # s, steady: begin of the exchange under way
        self._thread = threading.Thread(target=self._run, name=f"link {url}", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Hands a request over; one that still waits is replaced. LinkDown where there is no connection."""
        with self._wake:
            if self.status.state != LinkState.UP:
                raise LinkDown(self.status.sentence)
            if self._job is not None:
                self._job.fail(Cancelled("a newer observation took its place"))
            self._job = job
            self._wake.notify_all()

    def abandon(self, job: Job) -> None:
        """Nobody waits for this answer any more (or it has come). Cuts a connection that takes nothing."""
        job.abandoned = True
        with self._wake:
            if self._job is job:
                self._job = None
            stuck = self._busy_since is not None and time.monotonic() - self._busy_since > self._reply_limit
            connection = self._connection if stuck else None
        if connection is not None:
            _cut(connection)

    def close(self) -> None:
        """Ends the thread and the connection."""
        with self._wake:
            self._closed = True
            connection = self._connection
            self._wake.notify_all()
        if connection is not None:
            _cut(connection)
        self._thread.join(timeout=OPEN_LIMIT)
        self.status = LinkStatus(LinkState.CLOSED, f"the link to {self.url} is closed")

    def healthy(self, *, limit: float = 2.0) -> bool:
        """Whether the server answers GET /healthz. Blocks for at most `limit` seconds; not for the control loop."""
        address = "http" + self.url.removeprefix("ws").rstrip("/") + "/healthz"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                             urllib.request.HTTPSHandler(context=self._tls))
        try:
            with opener.open(address, timeout=limit) as answer:
                return answer.status == 200
        except OSError:
            return False

    # ---------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._closed:
            try:
                with connect(self.url, ssl=self._tls, additional_headers=self._headers, compression=None, proxy=None,
                             max_size=MAX_REPLY, open_timeout=OPEN_LIMIT, close_timeout=0.5, ping_interval=PING_EVERY,
                             ping_timeout=max(PING_LIMIT, self._reply_limit)) as connection:
                    self._greet(connection)
                    pause = FIRST_PAUSE
                    self._talk(connection)
            except Exception as error:
                self._down(error)
            wait = pause * random.uniform(0.7, 1.3)
            pause = min(2 * pause, LONGEST_PAUSE)
            with self._wake:
                self._wake.wait_for(lambda: self._closed, timeout=wait)

    def _greet(self, connection: ClientConnection) -> None:
        frame = connection.recv(timeout=OPEN_LIMIT)
        metadata = wire.unpack(frame) if isinstance(frame, bytes) else None
        if not isinstance(metadata, dict):
            raise wire.WireError("the server did not begin with a map of metadata: not a policy server?")
        self._check(metadata)
        with self._wake:
            offered = metadata.get(wire.EXTENSION)
            self.extension = offered if isinstance(offered, dict) and offered.get("version") == wire.VERSION else None
            self.metadata = metadata
            self._connection = connection
            self.status = LinkStatus(LinkState.UP, f"connected to {self.url}")

    def _down(self, error: Exception) -> None:
        with self._wake:
            if self.status.state == LinkState.DOWN and self._connection is None:
                since = self.status.since
            else:
                since = time.monotonic()
            sentence = f"no connection to {self.url}: {_describe(error)}; trying again"
            self.status = LinkStatus(LinkState.DOWN, sentence, since)
            self._connection = None
            self._busy_since = None
            if self._job is not None:
                self._job.fail(LinkDown(sentence))
                self._job = None

    def _talk(self, connection: ClientConnection) -> None:
        while not self._closed:
            with self._wake:
                if self._job is None:
                    self._wake.wait(IDLE_POLL)
                job, self._job = self._job, None
                self._busy_since = time.monotonic() if job is not None else None
            if job is None:
                self._listen(connection)
                continue
            try:
                self._exchange(connection, job)
            except Exception as error:
                self._down(error)  # first: whoever gets the error and asks again must not be sent down this connection
                job.fail(error if isinstance(error, PolicyError) else LinkDown(f"{self.url}: {_describe(error)}"))
                raise
            with self._wake:
                self._busy_since = None

    def _listen(self, connection: ClientConnection) -> None:
        """Notices between requests that the server is gone; late answers to given-up requests are dropped."""
        try:
            frame = connection.recv(timeout=0)
        except TimeoutError:
            return
        if isinstance(frame, str):
            raise PolicyError(f"the server: {frame.strip()[-2000:]}")

    def _exchange(self, connection: ClientConnection, job: Job) -> None:
        connection.send(job.payload)
        end = time.monotonic() + self._reply_limit
        while not self._closed:
            if job.abandoned and job.number is not None:
                return  # its late answer will be known by its number
            try:
                frame = connection.recv(timeout=REPLY_POLL)
            except TimeoutError:
                if time.monotonic() > end:
                    raise LinkDown(f"{self.url} has not answered for {self._reply_limit:g} s") from None
                continue
            if isinstance(frame, str):  # the protocol's error; the server closes after it
                raise PolicyError(f"the server: {frame.strip()[-2000:]}")
            reply = wire.unpack(frame)
            said = reply.get(wire.EXTENSION) if isinstance(reply, dict) else None
            if job.number is not None and (not isinstance(said, dict) or said.get("id") != job.number):
                continue  # of a request given up before
            if not job.answer.done():
                job.answer.set_result(reply)
            return


def _cut(connection: ClientConnection) -> None:
    """Ends a connection that may be stuck in a send."""
    try:
        connection.socket.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _describe(error: BaseException) -> str:
    if isinstance(error, InvalidStatus):
        body = (error.response.body or b"").decode("utf-8", "replace").strip()
        return f"refused with HTTP {error.response.status_code}{f' ({body[:200]})' if body else ''}"
    if isinstance(error, ConnectionClosed):
        received = error.rcvd
        return f"closed by the server ({received.code} {received.reason})".replace(" )", ")") if received else \
            "the connection broke"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = " ".join(str(error).split())
    return text if isinstance(error, PolicyError) else f"{type(error).__name__}: {text}"
