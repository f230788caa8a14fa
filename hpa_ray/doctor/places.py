"""Whether a place can be written, read, listed and cleaned, how fast, and by which clock. Before: storage."""

import contextlib
import email.utils
import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import requests

from hpa_ray.doctor.findings import Finding, fail, ok, reason, refused, warn
from hpa_ray.errors import InputError
from hpa_ray.storage import (
    absolute,
    exists,
    is_local,
    join,
    list_files,
    read_bytes,
    remove,
    remove_empty_folder,
    shown,
    write_bytes,
)
from hpa_ray.storage.buckets import open_bucket
from hpa_ray.storage.files import BUCKET_SCHEMES
from hpa_ray.storage.uris import scheme_of

ENDINGS = (".pth", ".pt", ".safetensors")
"""Of files of weights; everything else is a name."""
PROBE_BYTES = 4096
RATE_BYTES, RATE_READS = 4 * 2**20, 8
MARK = "mark"
"""A file that the driver writes into the folder of its probe: whether a node sees it."""
SKEW_BREAKS_S = 300.0
"""Signatures of a clock that is further off are refused."""
SKEW_TOLD_S = 30.0


@contextlib.contextmanager
def probe_folder(base: str) -> Iterator[str]:
    """A folder below `base` that nobody else has; neither it is left behind, nor a `base` that was not there."""
    folder = join(base, f"hpa-ray-doctor-{uuid.uuid4().hex[:12]}")
    with no_traces(folder):
        yield folder


@contextlib.contextmanager
def no_traces(folder: str) -> Iterator[None]:
    """The local folders that this block makes down to `folder` are gone after it, unless somebody uses them."""
    missing = []
    path = absolute(folder)
    while is_local(folder) and not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                remove_empty_folder(path)


def read_rate(folder: str, name: str) -> float:
    """Bytes per second that come back when several are read at a time, as images are. Raises OSError or InputError."""
    uri = join(folder, name)
    write_bytes(uri, os.urandom(RATE_BYTES))
    try:
        began = time.perf_counter()
        with ThreadPoolExecutor(RATE_READS) as pool:
            num_bytes = sum(len(data) for data in pool.map(read_bytes, [uri] * RATE_READS))
        return num_bytes / (time.perf_counter() - began)
    finally:
        remove([uri])


def round_trip(folder: str, name: str) -> float:
    """Seconds that a small file takes to be written, read, listed and deleted. Raises OSError or InputError."""
    uri, data = join(folder, name), os.urandom(PROBE_BYTES)
    began = time.perf_counter()
    with _step("writing"):
        write_bytes(uri, data)
    try:
        with _step("reading"):
            if read_bytes(uri) != data:
                raise OSError(errno.EIO, "what comes back is not what was written", shown(uri))
        with _step("listing"):
            if name not in list_files(folder):
                raise OSError(errno.EIO, "a file just written is not listed", shown(uri))
    except OSError:
        with contextlib.suppress(OSError):
            remove([uri])
        raise
    with _step("deleting"):
        remove([uri])
    if exists(uri):
        raise OSError(errno.EIO, "deleting: the file is still there", shown(uri))
    return time.perf_counter() - began


def check_storage(key: str, base: str, folder: str) -> list[Finding]:
    try:
        seconds = round_trip(folder, "probe")
    except InputError as error:
        return refused("storage", error)
    except OSError as error:
        return [fail("storage", f"{key} = {shown(base)}: {reason(error)}", "mend it or name another place")]
    return [ok("storage", f"{key} = {shown(base)}: written, read, listed and deleted in {seconds * 1000:,.0f} ms")]


def check_clocks(uris: Sequence[str]) -> Iterator[Finding]:
    """The clock of this machine beside those of the object stores that are asked."""
    for url in dict.fromkeys(filter(None, map(store_of, uris))):
        skew = skew_s(url)
        if skew is None:
            continue
        found = f"{abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead of'} that of {shown(url)}"
        if abs(skew) > SKEW_BREAKS_S:
            yield fail("clock", f"{found}: signatures are refused", "set the clock, by NTP")
        elif abs(skew) > SKEW_TOLD_S:
            yield warn("clock", found, "set the clock, by NTP, before it breaks signatures")
        else:
            yield ok("clock", f"within {max(abs(skew), 1):.0f} s of that of {shown(url)}")


def store_of(uri: str) -> str | None:
    """The address of the service behind a bucket; None for what is none, or can not be opened."""
    if scheme_of(uri) not in BUCKET_SCHEMES:
        return None
    try:
        settings = open_bucket(uri)[0].client().config
    except (InputError, OSError):  # told where it is written to or read
        return None
    if scheme_of(uri) != "s3":
        return str(settings.get("base_url") or "https://storage.googleapis.com")
    return str(settings.get("endpoint") or f"https://s3.{settings['region']}.amazonaws.com")


def skew_s(url: str, timeout_s: float = 5.0) -> float | None:
    """Seconds that the clock of a web server is ahead of ours; None if it does not tell."""
    before = time.time()
    try:
        answer = requests.head(url, timeout=timeout_s, allow_redirects=False)
        there = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (requests.RequestException, KeyError, ValueError):
        return None
    return there + 0.5 - (before + time.time()) / 2  # it names whole seconds


def check_weights(weights: str | None, download: str) -> Iterator[Finding]:
    """Pretrained weights that a run begins with. download: where they will come from, empty if they are here."""
    if weights is None:
        return
    if weights.endswith(ENDINGS):
        try:
            there = exists(weights)
        except (InputError, OSError) as error:
            yield fail("weights", f"model.weights = {shown(weights)}: {reason(error)}", "mend it or name another file")
            return
        if not there:
            yield fail("weights", f"model.weights = {shown(weights)}: no such file", "name another file")
            return
    elif download and not _can_be_had(download):
        found = f"model.weights = {weights}: {download} can not be reached from here"
        yield warn("weights", found, "download it elsewhere and give the file as model.weights")
        return
    yield ok("weights", f"{shown(weights)}{f', will be downloaded from {download}' if download else ''}")


def _can_be_had(url: str, timeout_s: float = 5.0) -> bool:
    try:
        return requests.head(url, timeout=timeout_s, allow_redirects=True).ok
    except requests.RequestException:
        return False


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, f"{name}: {error.strerror or error}") from error
