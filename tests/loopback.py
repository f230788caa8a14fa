"""Ports of 127.0.0.1: free ones, and small servers."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


def on_loopback(answer: Callable[[socket.socket], None]) -> contextlib.AbstractContextManager[int]:
    """A server that does this with every connection; its port."""

    @contextlib.contextmanager
    def running() -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = server.accept()
                        with connection:
                            answer(connection)

            threading.Thread(target=serve, daemon=True).start()
            yield server.getsockname()[1]
            server.shutdown(socket.SHUT_RDWR)

    return running()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
