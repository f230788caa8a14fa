"""How this process reaches object stores, and how often a request had to be repeated.

Both belong to the process: what runs in Ray workers is handed the settings of the driver and hands back its count
(`configure`, `settings`, `take_retries`, `add_retries`).
"""

import threading
from dataclasses import dataclass, field

from hpa_ray.redact import hide


@dataclass(frozen=True)
class Settings:
    """What is not set is taken from the usual environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)."""

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    concurrency: int = 16
    """Requests in flight per task: one costs tens of ms, and decoding has to wait for it."""
    max_attempts: int = 10
    """Times a request is tried, with growing pauses, while the store is throttling, failing or cutting answers."""
    timeout_s: float = 60.0
    """Without an answer for this long a request has failed."""


_lock = threading.Lock()
_settings = Settings()
_retries = 0
_abandoned = threading.Event()


def configure(settings: Settings) -> None:
    """From here on this process reaches object stores by these settings, and tells nobody of their keys."""
    global _settings
    hide(settings.access_key, settings.secret_key, settings.session_token)
    _settings = settings
    _abandoned.clear()


def settings() -> Settings:
    return _settings


def abandon() -> None:
    """Nobody waits for answers any more: what has failed is not repeated, until `configure` is called again.

    A process ends when its threads do, and one that reads ahead from a store that is down would go on for minutes.
    """
    _abandoned.set()


def is_abandoned() -> bool:
    return _abandoned.is_set()


def pause(seconds: float) -> None:
    """Sleep, but no longer once everything is abandoned."""
    _abandoned.wait(seconds)


def take_retries() -> int:
    """Requests repeated since the last call; the count starts again at 0, so no repeat is ever counted twice."""
    global _retries
    with _lock:
        taken, _retries = _retries, 0
        return taken


def add_retries(count: int) -> None:
    """Count repeats: our own, or those that a worker has handed over."""
    global _retries
    with _lock:
        _retries += count
