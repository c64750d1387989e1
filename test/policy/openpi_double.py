"""A server that speaks openpi's protocol, written from its description and independent of ours, with faults to order.

It keeps openpi's ways: one request at a time, inference on the event loop, no ids, and on an exception a text frame
with the traceback followed by close code 1011.
"""

from __future__ import annotations

import asyncio
import http
import threading
import time
import traceback

import msgpack
import numpy as np
from websockets.asyncio.server import serve


def encode(value):
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    raise TypeError(type(value))


def decode(value):
    if b"__ndarray__" in value:
        return np.frombuffer(value[b"data"], np.dtype(value[b"dtype"])).reshape(value[b"shape"])
    return value


class OpenpiDouble:
    """`with OpenpiDouble(infer) as server:` serves on server.url; infer(observation) -> actions, or raises."""

    def __init__(self, infer, *, metadata=None, port=0):
        self.infer = infer
        self.metadata = {} if metadata is None else metadata
        self.seen = []  # observations
        self.headers = []
        self.port = port
        self.frames = None  # a function(observation) -> frames to send in place of an answer

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    async def handle(self, socket):
        self.headers.append(socket.request.headers)
        await socket.send(msgpack.packb(self.metadata))
        before = None
        async for frame in socket:
            start = time.monotonic()
            try:
                observation = msgpack.unpackb(frame, object_hook=decode)
                self.seen.append(observation)
                if self.frames is not None:
                    for answer in self.frames(observation):
                        await socket.send(answer)
                    continue
                result = {"actions": self.infer(observation), "policy_timing": {"infer_ms": 1.0},
                          "server_timing": {"infer_ms": (time.monotonic() - start) * 1e3}}
                if before is not None:
                    result["server_timing"]["prev_total_ms"] = before * 1e3
                await socket.send(msgpack.packb(result, default=encode))
                before = time.monotonic() - start
            except Exception:
                await socket.send(traceback.format_exc())
                await socket.close(1011, "Internal server error. Traceback included in previous frame.")
                return

    def health(self, connection, request):
        return connection.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None

    async def work(self):
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        async with serve(self.handle, "127.0.0.1", self.port, compression=None, max_size=None,
                         process_request=self.health) as server:
            self.port = server.sockets[0].getsockname()[1]
            self.ready.set()
            await asyncio.Event().wait()

    def run(self):
        try:
            asyncio.run(self.work())
        except asyncio.CancelledError:
            pass

    def __enter__(self):
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join(10)
