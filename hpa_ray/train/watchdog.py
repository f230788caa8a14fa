"""Ends a training that hangs, with the stack of every thread of every rank, instead of waiting for ever.

Before: host. After: loop.
"""

import faulthandler
import os
import sys
import threading
import time
import traceback
from types import TracebackType

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.train.host import Host

HUNG = 70
"""Exit status of a process that was ended."""
GRACE_S = 10.0
"""Between a rank's stacks and its end: when the first one ends, Ray ends the others, which have stacks to tell too."""
LAST_RESORT_S = 60.0


class Watchdog:
    """`beat` at every sign of life; after timeout_s without one this process ends with status 70.

    The stacks go to hang/rank-<rank>.txt in the run folder and to the driver. Where even this thread can not run, as
    when C code holds the interpreter, faulthandler writes them to stderr and ends the process.
    """

    def __init__(self, timeout_s: float, host: Host, folder: RunFolder) -> None:
        self.timeout_s, self.host, self.folder = timeout_s, host, folder
        self._beat = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        self._beat = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        poll_s = min(self.timeout_s / 4, 15.0)
        stderr = sys.__stderr__
        try:
            while not self._ended.wait(poll_s):
                if time.monotonic() - self._beat >= self.timeout_s:
                    self._end()
                if stderr is not None:
                    faulthandler.dump_traceback_later(self.timeout_s + LAST_RESORT_S, exit=True, file=stderr)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _end(self) -> None:
        text = stacks()
        name = f"hang/rank-{self.host.rank}.txt"
        reason = f"rank {self.host.rank} did nothing for {self.timeout_s:g} s (train.hang_timeout_s)"
        event = {
            "event": "hang",
            "rank": self.host.rank,
            "text": f"{reason}: its stacks are in {self.folder.path(name)}",
        }
        telling = (
            threading.Thread(target=self.folder.write_text, args=(name, f"{reason}\n\n{text}"), daemon=True),
            threading.Thread(target=self.host.give_up, args=(event,), daemon=True),
        )
        for thread in telling:  # the storage, or the way to the driver, may be what hangs
            thread.start()
        for thread in telling:
            thread.join(GRACE_S)
        if self.host.world_size > 1:
            time.sleep(GRACE_S)
        os._exit(HUNG)


def stacks() -> str:
    """The stack of every thread of this process but the one that asks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    shown = []
    for number, frame in sys._current_frames().items():
        if number != threading.get_ident():
            shown.append(f"thread {names.get(number, number)}\n" + "".join(traceback.format_stack(frame)))
    return "\n".join(shown)
