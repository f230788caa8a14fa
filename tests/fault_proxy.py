"""An HTTP proxy on real sockets that stands before an S3 service and breaks a chosen share of the requests."""

import contextlib
import hashlib
import http.client
import re
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "proxy-connection"}
SCOPE = re.compile(r"Credential=[^/]*/\d+/([^/]+)/")
ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>injected</Message></Error>"
STATUS = {"slow_down": (503, "SlowDown"), "server_error": (500, "InternalError"), "too_many": (429, "TooManyRequests")}


@dataclass(frozen=True)
class Faults:
    """Shares of requests, their sum at most 1.

    Whether the n-th request for a path is broken, and how, depends on (seed, method, path, n) alone: threads that
    overtake each other change nothing.
    """

    slow_down: float = 0.0
    """503 SlowDown; the request does not reach the service."""
    server_error: float = 0.0
    """500 InternalError; it does not reach it either."""
    too_many: float = 0.0
    """429, likewise."""
    stall: float = 0.0
    """Nothing happens for `stall_s`, then the answer comes."""
    cut: float = 0.0
    """The request is done, half of the answer's body arrives; of an answer without body, half of its header."""
    reset: float = 0.0
    """The connection is reset: every other one before the service has seen the request, every other one after."""
    seed: int = 0
    stall_s: float = 5.0
    max_in_a_row: int | None = 3
    """Faults in a row for one method and path, so that a program that tries more often always gets through."""
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    paths: str = ""
    """Only requests whose path, query included, has this in it."""


KINDS = ("slow_down", "server_error", "too_many", "stall", "cut", "reset")


@dataclass
class Counts:
    requests: Counter[str] = field(default_factory=Counter)
    """By method, broken ones among them."""
    faults: Counter[str] = field(default_factory=Counter)
    """By kind."""
    regions: Counter[str] = field(default_factory=Counter)
    """Requests by the region that their signature names; `unsigned` for those without one."""
    max_in_flight: int = 0


class FaultProxy:
    """Runs in threads of this process while its block does."""

    def __init__(self, port: int, faults: Faults) -> None:
        self.faults = faults
        self.counts = Counts()
        self.stopping = threading.Event()
        self._port = port
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._streak: Counter[tuple[str, str]] = Counter()
        self._in_flight = 0
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultProxy":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()  # else the threads of idle connections wait for their clients
        self._server.server_close()

    def reset(self) -> None:
        with self._lock:
            self.counts = Counts()
            self._seen.clear()
            self._streak.clear()

    def begin(self, method: str, path: str, signature: str) -> tuple[str | None, int]:
        """Count a request -> the fault to inject, if any, and how many came before it on this path."""
        faults = self.faults
        key = (method, path.partition("?")[0])
        scope = SCOPE.search(signature)
        with self._lock:
            self.counts.requests[method] += 1
            self.counts.regions[scope[1] if scope else "unsigned"] += 1
            self._in_flight += 1
            self.counts.max_in_flight = max(self.counts.max_in_flight, self._in_flight)
            number = self._seen[key]
            self._seen[key] += 1
            kind = self._draw(faults, (*key, number)) if method in faults.methods and faults.paths in path else None
            if kind and faults.max_in_a_row is not None and self._streak[key] >= faults.max_in_a_row:
                kind = None
            self._streak[key] = self._streak[key] + 1 if kind else 0
            if kind:
                self.counts.faults[kind] += 1
            return kind, number

    def end(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def forward(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.putheader("Connection", "close")
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
            # that of HEAD tells the size of the object
            kept.append(("Content-Length", answer.getheader("Content-Length") or str(len(content))))
            return answer.status, kept, content
        finally:
            connection.close()

    @staticmethod
    def _draw(faults: Faults, key: tuple[object, ...]) -> str | None:
        digest = hashlib.blake2b(repr((faults.seed, key)).encode(), digest_size=8).digest()
        rest = int.from_bytes(digest, "big") / 2**64
        for kind in KINDS:
            rest -= getattr(faults, kind)
            if rest < 0:
                return kind
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._open_lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is what this proxy is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement
    wbufsize = -1
    server: _Server

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        kind, number = proxy.begin(self.command, self.path, self.headers.get("Authorization", ""))
        try:
            if kind in STATUS:
                status, code = STATUS[kind]
                self._answer(status, [("Content-Type", "application/xml")], ERROR.format(code).encode())
                return
            if kind == "reset" and number % 2 == 0:
                self._reset()
                return
            if kind == "stall" and proxy.stopping.wait(proxy.faults.stall_s):
                return
            answer = proxy.forward(self.command, self.path, self.headers, body)
            if kind == "reset":
                self._reset()
            elif kind == "cut":
                self._cut(*answer)
            else:
                self._answer(*answer)
        finally:
            proxy.end()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        if not any(name == "Content-Length" for name, _ in headers):
            headers = [*headers, ("Content-Length", str(len(content)))]
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def _cut(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.close_connection = True
        if self.command == "HEAD" or not content:
            self.wfile.write(f"HTTP/1.1 {status} OK\r\nServ".encode())
            self.wfile.flush()
            return
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        linger_off = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_off)
        with contextlib.suppress(OSError):
            self.rfile.close()
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass
