"""A web server on loopback that plays HPA's, with real sockets: JPEGs of synthetic fields, and every way to fail.

with web_server(Faults(share=0.3, seed=1)) as server:
    download(url=server.pattern)
    server.requests         # each request with its time
"""

import contextlib
import email.utils
import io
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.synth.render import render_field

SIDE_PX = 64
SHOWN_IN = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
"""The colour in which each stain is drawn, as shares of red, green and blue."""
KINDS = (
    *("500", "503", "503 wait", "429 seconds", "429 date", "silent", "stall", "drip", "truncate", "cut chunks"),
    *("reset", "reset in body", "garbage", "page", "cut file", "redirect", "empty"),
)


@dataclass(frozen=True)
class Faults:
    """Which answers fail: a seeded draw per file, so that the same file fails in the same way whenever it is asked."""

    share: float = 0.0
    """Of the files, those of which the first answers fail."""
    kinds: tuple[str, ...] = KINDS
    most: int = 2
    """Failing answers to one file, at most."""
    seed: int = 0
    missing: Set[str] = frozenset()
    """Files that are not there, as <Id>_<color>."""
    always: dict[str, str] = field(default_factory=dict)
    """Fault of every answer to a file, by <Id>_<color>; "*" for all files."""
    wait_s: int = 1
    """What a Retry-After asks for."""
    hang_s: float = 3.0
    """How long a silent or stalled answer is held; longer than the client's timeout."""

    def of(self, name: str) -> list[str]:
        """The faults of the first answers to a file, in order."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        if rng.random() >= self.share:
            return []
        return [str(kind) for kind in rng.choice(self.kinds, rng.integers(1, self.most + 1))]


class Request(NamedTuple):
    at: float  # time.monotonic
    name: str  # <Id>_<color>
    path: str
    agent: str
    connection: int


class WebServer(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults = faults
        self.requests: list[Request] = []
        self.served: Counter[str] = Counter()  # what was answered, by kind
        self.lock = threading.Lock()
        self.answers: Counter[str] = Counter()  # to each file
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.pattern = self.address + "/images/{first}/{rest}_{color}.jpg"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no matter of the server."""

    def names(self) -> Counter[str]:
        """How often each file was asked for; a redirected request once."""
        return Counter(request.name for request in self.requests if "moved" not in request.path)


def jpeg_of(name: str) -> bytes:
    """The file <Id>_<color>: an RGB JPEG in the colour of the stain; a pure function of its name."""
    image_id, _, stain = name.rpartition("_")
    plane = _field(image_id)[STAINS.index(stain)]
    buffer = io.BytesIO()
    pixels = plane[:, :, None] * np.array(SHOWN_IN[stain], np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


_fields: dict[str, np.ndarray] = {}


def _field(image_id: str) -> np.ndarray:
    if image_id not in _fields:
        _fields[image_id] = render_field([0], seed=[zlib.crc32(image_id.encode()) % 8], image_size=SIDE_PX)
    return _fields[image_id]


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Any server of one's own: its address, while it answers."""
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def web_server(faults: Faults | None = None) -> Iterator[WebServer]:
    server = WebServer(faults or Faults())
    with serving(server):
        yield server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: WebServer

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        at = time.monotonic()
        path = self.path.partition("?")[0]
        first, _, file = path.removeprefix("/images/").partition("/")
        name = f"{first}_{file.rpartition('.')[0]}"
        server, faults = self.server, self.server.faults
        moved = "moved" in self.path
        with server.lock:
            agent = self.headers.get("User-Agent", "")
            server.requests.append(Request(at, name, self.path, agent, self.client_address[1]))
            number = server.answers[name]
            server.answers[name] += not moved
        planned = faults.of(name)
        kind = faults.always.get(name) or faults.always.get("*") or (planned[number] if number < len(planned) else "")
        if name in faults.missing:
            kind = "404"
        if moved:
            kind = ""
        with server.lock:
            server.served[kind or "file"] += 1
        self._answer(kind, jpeg_of(name))

    def _answer(self, kind: str, data: bytes) -> None:
        half = len(data) // 2
        if kind in ("silent", "reset"):
            if kind == "silent":
                time.sleep(self.server.faults.hang_s)
            self._reset()
        elif kind == "redirect":
            self._send(302, b"", Location=f"{self.path}?moved=1")
        elif kind == "redirect elsewhere":
            self._send(302, b"", Location="ftp://127.0.0.1/file")
        elif kind == "redirect for ever":
            self._send(302, b"", Location=self.path)
        elif kind[:3].isdigit():
            seconds = self.server.faults.wait_s
            wait = {
                "429 seconds": str(seconds),
                "503 wait": str(seconds),
                "429 date": email.utils.formatdate(time.time() + seconds + 0.999, usegmt=True),
            }.get(kind)
            self._send(int(kind[:3]), b"<html>no</html>", "text/html", **({"Retry-After": wait} if wait else {}))
        elif kind == "page":
            self._send(200, b"<html>come back later</html>", "text/html")
        elif kind == "garbage":
            self._send(200, np.random.default_rng(0).bytes(len(data)))
        elif kind == "empty":
            self._send(200, b"")
        elif kind == "cut file":
            self._send(200, data[:half])  # whole as far as HTTP can tell
        elif kind == "cut chunks":
            self._head(200, "image/jpeg", {"Transfer-Encoding": "chunked"})
            self._write(f"{half:x}\r\n".encode() + data[:half] + b"\r\n")
            self._end()
        elif kind == "drip":
            self._head(200, "image/jpeg", {"Content-Length": str(len(data))})
            for start in range(len(data)):
                if not self._write(data[start : start + 1]):
                    break
                time.sleep(0.05)
        elif kind in ("stall", "truncate", "reset in body"):
            self._head(200, "image/jpeg", {"Content-Length": str(len(data))})
            self._write(data[:half])
            if kind == "stall":
                time.sleep(self.server.faults.hang_s)
            self._reset() if kind == "reset in body" else self._end()
        else:
            self._send(200, data)

    def _send(self, status: int, body: bytes, content_type: str = "image/jpeg", **headers: str) -> None:
        self._head(status, content_type, {"Content-Length": str(len(body)), **headers})
        self._write(body)

    def _head(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": content_type, **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _write(self, data: bytes) -> bool:
        """Whether the client still listens."""
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True
            return False
        return True

    def _reset(self) -> None:
        """End the connection by RST, as a router that has lost it does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end()

    def _end(self) -> None:
        self.close_connection = True
