"""An S3 service for tests: moto's server in a process of its own, behind a proxy that injects faults.

    with object_store(Faults(slow_down=0.2, seed=1)) as store:
        store.create_bucket("b")                # past the proxy: never a fault
        env = store.environment()               # for processes that go through the proxy
        assert store.counts.faults["slow_down"] == ...

Both listen on loopback ports of their own, so any process of this machine can reach them.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fault_proxy import Counts, FaultProxy, Faults

__all__ = ["Counts", "Faults", "ObjectStore", "object_store"]

REGION = "us-east-1"
ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret"
SIGNED = {"Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{REGION}/s3/aws4_request, Signature=0"}
"""Enough for moto, which verifies no signature unless it is told to."""


class ObjectStore:
    """A running service. `faults` may be replaced at any time; `counts` is what the proxy has seen so far."""

    def __init__(self, endpoint: str, proxy: FaultProxy | None = None) -> None:
        self.endpoint = endpoint
        """Of the service itself: what goes there meets no faults."""
        self._given_proxy = proxy

    @property
    def _proxy(self) -> FaultProxy:
        assert self._given_proxy, "known by its endpoint alone"
        return self._given_proxy

    @property
    def proxy_endpoint(self) -> str:
        return self._proxy.endpoint

    @property
    def counts(self) -> Counts:
        return self._proxy.counts

    @property
    def faults(self) -> Faults:
        return self._proxy.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._proxy.faults = faults

    def reset_counts(self) -> None:
        self._proxy.reset()

    def environment(self, *, direct: bool = False) -> dict[str, str]:
        """What a process needs to come here through the proxy, and no other way to credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint if direct else self.proxy_endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = SIGNED) -> bytes:
        """One request to the service itself, past the proxy and the code under test."""
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=120)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {content[:500]!r}"
        return content

    def create_bucket(self, name: str) -> None:
        self.request("PUT", f"/{name}")

    def put(self, bucket: str, key: str, data: bytes, *, public: bool = False) -> None:
        """An object; a public one may be read by requests that are not signed."""
        headers = {**SIGNED, "x-amz-acl": "public-read"} if public else SIGNED
        self.request("PUT", f"/{bucket}/{quote(key)}", data, headers)

    def get(self, bucket: str, key: str) -> bytes:
        return self.request("GET", f"/{bucket}/{quote(key)}")

    def fill(self, bucket: str, prefix: str, count: int, num_bytes: int) -> None:
        """`count` objects prefix + 000000 ... of random bytes, made inside the service: 125,000 in 10 s."""
        self.request("POST", f"/__fill/{bucket}/{count}/{num_bytes}/{prefix}")

    def server_counts(self) -> dict[str, int]:
        """Requests by method that have reached the service since the last call, the proxy's among them."""
        counts: dict[str, int] = json.loads(self.request("GET", "/__counts"))
        return counts

    def open_uploads(self, bucket: str) -> int:
        """Multi-part uploads that were begun and neither completed nor aborted."""
        return self.request("GET", f"/{bucket}?uploads").count(b"<UploadId>")

    @contextmanager
    def only_known_users(self) -> Iterator[None]:
        """In this block every request must be signed with a key that the service gave out; none is."""
        self.request("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.request("POST", "/moto-api/reset-auth", b"inf")


@contextmanager
def object_store(faults: Faults | None = None, *, listing_page: int = 1000) -> Iterator[ObjectStore]:
    """A service with no buckets; 2 s to start. Ends with the block, and with this process however that ends.

    listing_page: objects per answer to a listing. moto needs 0.5 s for 1000, so tests of many pages want small ones.
    """
    environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(listing_page)}
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(Path(__file__).resolve())]
        server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = server.stdout.readline().strip().decode()
            if not port:
                log.seek(0)
                raise RuntimeError(f"the S3 service did not start: {log.read()[-2000:].decode()}")
            with FaultProxy(int(port), faults or Faults()) as proxy:
                yield ObjectStore(f"http://127.0.0.1:{port}", proxy)
        finally:
            server.stdin.close()  # its sign to end
            server.stdout.close()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def serve() -> None:
    """The service: prints its port, ends when its standard input does."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)
    moto.debug = True
    backend = s3_backends["123456789012"]["aws"]
    counts: dict[str, int] = {}
    lock = threading.Lock()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path.startswith("/__"):
            with lock:
                answer = json.dumps(counts).encode()
                counts.clear()
            if path.startswith("/__fill/"):
                bucket, count, num_bytes, prefix = path.removeprefix("/__fill/").split("/", 3)
                for number in range(int(count)):
                    backend.put_object(bucket, f"{prefix}{number:06d}", os.urandom(int(num_bytes)))
            start_response("200 OK", [("Content-Length", str(len(answer)))])
            return [answer]
        with lock:
            counts[environ["REQUEST_METHOD"]] = counts.get(environ["REQUEST_METHOD"], 0) + 1
        return moto(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    serve()
