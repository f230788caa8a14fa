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
SCOPE = re.compile(r"Credential=([^/]*)/\d+/([^/]+)/")
ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>injected</Message></Error>"
STATUS = {
    "slow_down": (503, "SlowDown"),
    "server_error": (500, "InternalError"),
    "too_many": (429, "TooManyRequests"),
    "bad_gateway": (502, "BadGateway"),
    "gateway_timeout": (504, "GatewayTimeout"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
}


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
    """429, likewise, with a Retry-After of `retry_after_s` if that is set."""
    bad_gateway: float = 0.0
    gateway_timeout: float = 0.0
    denied: float = 0.0
    """403 AccessDenied."""
    expired: float = 0.0
    """400 ExpiredToken."""
    stall: float = 0.0
    """Nothing happens for `stall_s`, then the answer comes."""
    cut: float = 0.0
    """The request is done, half of the answer's body arrives; of an answer without body, half of its header."""
    reset: float = 0.0
    """The connection is reset: every other one before the service has seen the request, every other one after."""
    reset_body: float = 0.0
    """It is reset after half of the request's body, of a request without body after half of the answer's."""
    stall_body: float = 0.0
    """Half of the answer's body arrives, nothing more for `stall_s`; of an answer without body, half of its header."""
    short: float = 0.0
    """The answer is whole as far as HTTP can tell, but only half of the object is in it."""
    corrupt: float = 0.0
    """One byte of the answer's body is another one, each time at another place."""
    wrong_etag: float = 0.0
    """The answer has the e-tag of another object."""
    seed: int = 0
    stall_s: float = 5.0
    max_in_a_row: int | None = 3
    """Faults in a row for one method and path, so that a program that tries more often always gets through."""
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    paths: str = ""
    """Only requests whose path, query included, has this in it."""
    key: str = ""
    """Only requests signed with this key."""
    since: str = ""
    """Only after a request with this in its path was answered."""
    most: int | None = None
    """In all; for a service that is well again afterwards."""
    retry_after_s: int | None = None


KINDS = (
    *("slow_down", "server_error", "too_many", "bad_gateway", "gateway_timeout", "denied", "expired"),
    *("stall", "cut", "reset", "reset_body", "stall_body", "short", "corrupt", "wrong_etag"),
)


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
        self.counts = Counts()
        self.stopping = threading.Event()
        self._port = port
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._streak: Counter[tuple[str, str]] = Counter()
        self._in_flight = 0
        self.faults = faults
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def faults(self) -> Faults:
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        with self._lock:
            self._faults, self._num_faults, self._begun = faults, 0, not faults.since

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
        key = (method, path.partition("?")[0])
        scope = SCOPE.search(signature)
        with self._lock:
            faults = self._faults
            self.counts.requests[method] += 1
            self.counts.regions[scope[2] if scope else "unsigned"] += 1
            self._in_flight += 1
            self.counts.max_in_flight = max(self.counts.max_in_flight, self._in_flight)
            number = self._seen[key]
            self._seen[key] += 1
            meant = self._begun and method in faults.methods and faults.paths in path
            meant = meant and (not faults.key or (scope is not None and scope[1] == faults.key))
            kind = self._draw(faults, (*key, number)) if meant else None
            if kind and faults.max_in_a_row is not None and self._streak[key] >= faults.max_in_a_row:
                kind = None
            if faults.most is not None and self._num_faults >= faults.most:
                kind = None
            self._streak[key] = self._streak[key] + 1 if kind else 0
            if kind:
                self.counts.faults[kind] += 1
                self._num_faults += 1
            return kind, number

    def end(self, path: str) -> None:
        with self._lock:
            self._in_flight -= 1
            self._begun = self._begun or self._faults.since in path

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


def changed(
    kind: str | None, number: int, status: int, headers: list[tuple[str, str]], content: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer that is well-formed and wrong; all others as they are."""
    if status >= 300 or kind not in ("short", "corrupt", "wrong_etag"):
        return status, headers, content
    kept = dict(headers)
    if kind == "wrong_etag" and "ETag" in kept:
        kept["ETag"] = f'"{hashlib.md5(kept["ETag"].encode()).hexdigest()}"'
    elif kind == "short" and content:
        content = content[: len(content) // 2]
        kept["Content-Length"] = str(len(content))
    elif kind == "corrupt" and content:
        at = (number + 1) * 7919 % len(content)
        content = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
    return status, list(kept.items()), content


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
        kind, number = proxy.begin(self.command, self.path, self.headers.get("Authorization", ""))
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if kind == "reset_body" and length:
                self.rfile.read(length // 2)
                self._reset()
                return
            body = self._body()
            if kind in STATUS:
                status, code = STATUS[kind]
                headers = [("Content-Type", "application/xml")]
                if kind == "too_many" and proxy.faults.retry_after_s is not None:
                    headers.append(("Retry-After", str(proxy.faults.retry_after_s)))
                self._answer(status, headers, ERROR.format(code).encode())
                return
            if kind == "reset" and number % 2 == 0:
                self._reset()
                return
            if kind == "stall" and proxy.stopping.wait(proxy.faults.stall_s):
                return
            answer = proxy.forward(self.command, self.path, self.headers, body)
            if kind == "reset":
                self._reset()
            elif kind in ("cut", "stall_body", "reset_body"):
                self._cut(*answer)
                if kind == "stall_body":
                    proxy.stopping.wait(proxy.faults.stall_s)
                elif kind == "reset_body":
                    self._reset()
            else:
                self._answer(*changed(kind, number, *answer))
        finally:
            proxy.end(self.path)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it
        return going_on

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
