"""Files in buckets, s3:// and gs://, by obstore. Before: storage/files."""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import pyarrow as pa

from hpa_ray.storage.buckets import LARGEST_GET_BYTES, Bucket, open_bucket
from hpa_ray.storage.failures import told
from hpa_ray.storage.remote import Doubt, RemoteFile, check_length
from hpa_ray.storage.retry import Transient, retried
from hpa_ray.storage.threads import concurrently
from hpa_ray.storage.uris import join, shown

T = TypeVar("T")
Kind = Literal["read", "write", "list", "remove"]

LARGEST_PUT_BYTES = 4 * 2**30
"""Sent by one put, which shows the object whole or not at all; S3 takes 5 GiB, and more only in parts."""
PART_BYTES = 64 * 2**20
LIST_PAGE = 1000
"""Objects that one request lists."""
DELETES_PER_REQUEST = 1000
MD5 = re.compile(r'"([0-9a-f]{32})"')
"""Of an e-tag that is a checksum: that of an object sent by one put. Where the store encrypts, it may be none."""
MAX_OTHER_TAGS = 4
"""Objects of a bucket whose e-tags were none, after which no other is held against its own."""
AFTER_ALL = "\U0010ffff"
"""Sorts behind every character."""


class ObjectFiles:
    """Implements remote.Backend for buckets."""

    def read(self, uri: str) -> bytes:
        import obstore

        bucket, doubt = open_bucket(uri)[0], Doubt()

        def get(client: Any, key: str) -> "bytes | Any":
            answer = obstore.get(client, key)
            if answer.meta["size"] > LARGEST_GET_BYTES:
                return answer.meta
            data = check_length(bytes(answer.bytes()), answer.meta["size"])
            fits = _fits(bucket, data, answer.meta["e_tag"])
            doubt.settle(data, fits)
            bucket.num_other_tags += not fits
            return data

        found = _request("read", uri, get)
        if isinstance(found, bytes):
            return found
        with _opened(uri, found) as file:
            return file.read_at(file.size(), 0, lambda data: _fits(bucket, data, found["e_tag"]))

    def open(self, uri: str) -> RemoteFile:
        import obstore

        return _opened(uri, _request("read", uri, lambda client, key: obstore.head(client, key)))

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None:
        import obstore

        buffer = memoryview(pa.py_buffer(data)).cast("B")  # wrong data shows before the object is touched
        parts = len(buffer) > LARGEST_PUT_BYTES

        def put(client: Any, key: str) -> None:
            obstore.put(client, key, buffer, use_multipart=parts, chunk_size=PART_BYTES)

        _request("write", uri, put, num_bytes=min(len(buffer), LARGEST_PUT_BYTES))

    def list(self, uri: str) -> dict[str, int]:
        folder = open_bucket(uri)[1]
        start = len(folder) + 1 if folder else 0
        sizes: dict[str, int] = {}
        is_folder = not folder
        for key, size in _below(uri):
            is_folder = True
            name = key[start:]  # empty for the mark of the folder itself
            if name and "/" not in name:
                sizes[name] = size
        if not is_folder:
            is_file = _size(uri) is not None
            error, number = (NotADirectoryError, errno.ENOTDIR) if is_file else (FileNotFoundError, errno.ENOENT)
            raise error(number, os.strerror(number), shown(uri))
        # The client shows the mark of a folder, an empty object "sub/" as some tools make, as "sub".
        empty = [name for name, size in sizes.items() if size == 0]
        for name, found in zip(empty, concurrently(lambda name: _size(join(uri, name)), empty), strict=True):
            if found is None:
                del sizes[name]
            else:
                sizes[name] = found
        return sizes

    def exists(self, uri: str) -> bool:
        is_bucket = not open_bucket(uri)[1]
        if not is_bucket and _size(uri) is not None:
            return True
        try:
            return next(_below(uri), None) is not None or is_bucket
        except FileNotFoundError:  # no such bucket
            return False

    def remove(self, uris: Sequence[str]) -> None:
        together: dict[Bucket, dict[str, str]] = {}  # key -> URI
        single: dict[str, None] = {}
        for uri in uris:
            bucket, key = open_bucket(uri)
            if bucket.deletes_many:
                together.setdefault(bucket, {})[key] = uri
            else:
                single[uri] = None
        for uri_of in together.values():
            keys = list(uri_of)
            for start in range(0, len(keys), DELETES_PER_REQUEST):
                some = keys[start : start + DELETES_PER_REQUEST]
                _remove(uri_of[some[0]], some)
        concurrently(_remove, list(single))


def _remove(uri: str, keys: Sequence[str] | None = None) -> None:
    """Delete the object of a URI, or the keys in its bucket, by one request."""
    import obstore

    with contextlib.suppress(FileNotFoundError):  # or not even the bucket is there
        _request("remove", uri, lambda client, key: obstore.delete(client, keys or [key]))


def _request(kind: Kind, uri: str, call: Callable[[Any, str], T], num_bytes: int = 0) -> T:
    """`call` with a client and the key of a URI, repeated as long as that helps; errors as those of files."""
    bucket, key = open_bucket(uri)

    def attempt() -> T:
        client = bucket.client(num_bytes)
        try:
            with told(uri, bucket.hint, granted=kind in bucket.granted):
                result = call(client, key)
        except Transient as failure:
            if failure.hint:
                bucket.look_up_keys()
            raise
        if bucket.has_keys:
            bucket.granted.add(kind)
        return result

    return retried(uri, attempt)


def _opened(uri: str, meta: Any) -> RemoteFile:
    """A file of which size and e-tag are known, to be read in ranges."""
    import obstore

    e_tag = meta["e_tag"] or "W/"
    version = None if e_tag.startswith("W/") else e_tag  # never half of one file and half of the next

    def read_range(start: int, length: int) -> bytes:
        def get(client: Any, key: str) -> bytes:
            answer = obstore.get(client, key, options={"range": (start, start + length), "if_match": version})
            return check_length(bytes(answer.bytes()), length)

        return _request("read", uri, get)

    def read_parts(start: int, length: int) -> bytes:
        stop = start + length
        parts = [read_range(at, min(LARGEST_GET_BYTES, stop - at)) for at in range(start, stop, LARGEST_GET_BYTES)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    return RemoteFile(uri, meta["size"], read_parts)


def _fits(bucket: Bucket, data: bytes, e_tag: str | None) -> bool:
    """Whether these can be the bytes of the object; True where its e-tag is no checksum."""
    told = MD5.fullmatch(e_tag or "")
    if told is None or bucket.num_other_tags >= MAX_OTHER_TAGS:
        return True
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == told[1]


def _size(uri: str) -> int | None:
    """Of an object; None if there is none of this name."""
    import obstore

    try:
        return int(_request("read", uri, lambda client, key: obstore.head(client, key))["size"])
    except FileNotFoundError:
        return None


def _below(uri: str) -> Iterator[tuple[str, int]]:
    """Key and size of what is below a folder in order, page by page; of a long subfolder only the first page.

    The listing by delimiter that obstore has takes all pages in one call, and one failure would lose them all: with
    125,000 files and 1 % of the requests failing it would come to an end once in three and a half times.
    """
    import obstore

    folder = open_bucket(uri)[1]
    stream: Any = None
    after: str | None = None

    def next_page(client: Any, key: str) -> Sequence[Any]:
        nonlocal stream
        if stream is None:
            stream = obstore.list(client, folder or None, offset=after, chunk_size=LIST_PAGE)
        try:
            return next(stream, ())
        except Exception:  # the next attempt goes on behind the last page
            stream = None
            raise

    while page := _request("list", uri, next_page):
        yield from ((entry["path"], entry["size"]) for entry in page)
        if len(page) < LIST_PAGE:
            return
        after = page[-1]["path"]
        start = len(folder) + 1 if folder else 0
        subfolder, slash, _ = after[start:].partition("/")
        if slash:
            after, stream = f"{after[:start]}{subfolder}/{AFTER_ALL}", None
