"""A live view for a browser on this machine: one page with a moving picture, made only while somebody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

HZ = 5.0  # pictures per second
CELL = (240, 320)  # h, w px of a camera
BAR = 72  # px for words
PAGE = b"""<!doctype html><title>pi</title><body style="margin:0;background:#18181c;text-align:center">
<img src="stream" style="max-width:100%;max-height:100vh">"""


class Screen:
    """Serves what `look` gives, camera pictures and lines of words, on 127.0.0.1 until closed."""

    def __init__(self, look: Callable[[], tuple[Mapping[str, np.ndarray], Sequence[str]]], port: int = 0) -> None:
        screen = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/":
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html; charset=utf-8")
                    self.send_header("Content-Length", str(len(PAGE)))
                    self.end_headers()
                    self.wfile.write(PAGE)
                elif self.path == "/stream":
                    screen._stream(self)
                else:
                    self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass  # the terminal is the robot's

        self._look = look
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="screen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends every stream."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.send_header("Cache-Control", "no-store")
        handler.end_headers()
        try:
            while not self._closed.is_set():
                begin = time.monotonic()
                _, data = cv2.imencode(".jpg", compose(*self._look())[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
                handler.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
                handler.wfile.write(data.tobytes() + b"\r\n")
                self._closed.wait(max(1.0 / HZ - (time.monotonic() - begin), 0.02))
        except OSError:
            return  # whoever looked has gone


def compose(images: Mapping[str, np.ndarray], words: Sequence[str]) -> np.ndarray:
    """uint8 [h, w, 3] rgb: cameras two by two, words below."""
    height, width = CELL
    frame = np.full((2 * height + BAR, 2 * width, 3), (24, 24, 28), np.uint8)
    for k, (name, image) in enumerate(list(images.items())[:4]):
        row, column = divmod(k, 2)
        cell = frame[row * height: (row + 1) * height, column * width: (column + 1) * width]
        cell[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        _write(cell, name.replace("_", " "), (6, 16), 0.45)
    for k, line in enumerate(words[:3]):
        _write(frame, line, (12, 2 * height + 24 + 20 * k), 0.62 if k == 0 else 0.45)
    return frame


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    plain = text.encode("ascii", "replace").decode()  # what OpenCV's letters can show
    cv2.putText(image, plain, at, cv2.FONT_HERSHEY_SIMPLEX, size, (235, 235, 235), 1, cv2.LINE_AA)
