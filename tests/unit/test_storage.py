"""One behaviour for a local folder and an object store: whole files, listings, random access, URIs."""

import contextlib
import email.utils
import errno
import os
import pickle
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpa_ray.errors import InputError
from hpa_ray.storage import (
    RemoteFile,
    Settings,
    abandon,
    absolute,
    add_retries,
    concurrently,
    configure,
    exists,
    free_bytes,
    is_local,
    join,
    list_files,
    open_random_access,
    read_bytes,
    read_many,
    remove,
    remove_empty_folder,
    settings,
    shown,
    take_retries,
    write_bytes,
    write_json,
    write_parquet,
)
from hpa_ray.storage.failures import failure
from hpa_ray.storage.others import _retried as retried_within
from hpa_ray.storage.remote import check_length
from hpa_ray.storage.retry import (
    FIRST_PAUSE_S,
    LONGEST_ASKED_PAUSE_S,
    LONGEST_PAUSE_S,
    Denied,
    Transient,
    Unreachable,
    Waiting,
    pause_s,
    retried,
    retry_after,
)

NAME = st.text("abcXYZ019_.-", min_size=1, max_size=8).filter(lambda name: name.strip("."))


@pytest.fixture(params=["local", "file", "memory", "fsspec"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet."""
    return {
        "local": str(tmp_path / "a" / "b"),
        "file": f"file://{tmp_path}/a/b",
        "memory": f"memory://{uuid.uuid4().hex}/a/b",
        "fsspec": f"local://{tmp_path}/a/b",  # as any place with folders that fsspec knows
    }[request.param]


def test_what_is_written_is_read(folder: str) -> None:
    uri = join(folder, "deep", "x.bin")
    assert not exists(uri)
    for data in (b"first", b"", bytes(range(256)) * 300, pa.py_buffer(b"a buffer")):
        write_bytes(uri, data)  # the second and later ones replace a file
        assert read_bytes(uri) == bytes(data)
        assert list_files(join(folder, "deep")) == {"x.bin": len(data)}
    assert exists(uri)
    assert exists(join(folder, "deep"))


def test_a_failing_write_leaves_neither_file_nor_temporary(folder: str) -> None:
    write_bytes(join(folder, "other"), b"1")
    with pytest.raises(TypeError):
        write_bytes(join(folder, "x"), "text is not bytes")  # type: ignore[arg-type]
    assert list_files(folder) == {"other": 1}


def test_a_failing_write_leaves_the_file_that_was_there(folder: str) -> None:
    write_bytes(join(folder, "x"), b"good")
    with pytest.raises(TypeError):
        write_bytes(join(folder, "x"), ["not", "bytes"])  # type: ignore[arg-type]
    assert list_files(folder) == {"x": 4}
    assert read_bytes(join(folder, "x")) == b"good"


def test_a_local_write_that_can_not_be_renamed_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError):
        write_bytes(str(tmp_path / "x"), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no folders to be synced")
def test_a_local_file_is_on_the_disk_before_its_name_and_the_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as a test can see it: the order of what is asked of the system, new folders included."""
    done: list[str] = []
    opened: dict[int, str] = {}
    fsync, replace, open_ = os.fsync, os.replace, os.open

    def noted_open(path: str, *args: int) -> int:
        number = open_(path, *args)
        opened[number] = os.path.relpath(path, tmp_path)
        return number

    def noted_fsync(number: int) -> None:
        done.append(f"sync {opened.pop(number, 'file')}")
        fsync(number)

    def noted_replace(old: str, new: str) -> None:
        done.append(f"rename to {os.path.relpath(new, tmp_path)}")
        replace(old, new)

    monkeypatch.setattr(os, "open", noted_open)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_bytes(str(tmp_path / "a" / "b" / "x"), b"1")
    assert done == ["sync file", "rename to a/b/x", "sync a/b", "sync a", "sync ."]
    done.clear()
    write_bytes(str(tmp_path / "a" / "b" / "x"), b"2")
    assert done == ["sync file", "rename to a/b/x", "sync a/b"]


def test_a_folder_that_can_not_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "no folders here")))
    write_bytes(str(tmp_path / "x"), b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_a_listing_passes_over_what_vanishes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the temporary file of another process does when it gets its name."""
    names = [f"{number}" for number in range(8)]
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    with os.scandir(tmp_path) as entries:
        before = list(entries)
    monkeypatch.setattr(os, "scandir", lambda path: contextlib.nullcontext(before))
    for name in names[::2]:
        (tmp_path / name).unlink()
    assert list_files(str(tmp_path)) == dict.fromkeys(names[1::2], 1)


def test_json_is_refused_before_the_file_is_touched(folder: str) -> None:
    uri = join(folder, "x.json")
    write_json(uri, {"a": [1, 2.5, None, "é"]})
    before = read_bytes(uri)
    for value in ({"loss": float("nan")}, {"a": {1, 2}}):
        with pytest.raises((ValueError, TypeError)):
            write_json(uri, value)
    assert read_bytes(uri) == before
    assert before.endswith(b"\n")


def test_a_listing_has_files_and_no_folders(folder: str) -> None:
    for name, size in (("b.png", 3), ("a.png", 0), ("sub/c.png", 7)):
        write_bytes(join(folder, name), bytes(size))
    assert list_files(folder) == {"a.png": 0, "b.png": 3}
    assert list_files(folder + "/") == {"a.png": 0, "b.png": 3}


def test_a_listing_of_what_is_no_folder(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        list_files(join(folder, "none"))
    write_bytes(join(folder, "x"), b"1")
    with pytest.raises(NotADirectoryError):
        list_files(join(folder, "x"))


def test_a_missing_file_is_named_as_such(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(join(folder, "none"))
    with pytest.raises(FileNotFoundError):
        open_random_access(join(folder, "none"))


def test_ranges_are_read(folder: str) -> None:
    data = os.urandom(10_000)
    write_bytes(join(folder, "x"), data)
    with open_random_access(join(folder, "x")) as file:
        assert file.size() == len(data)
        for start, length in ((9_000, 1_000), (0, 1), (123, 4567), (9_999, 1)):
            assert file.read_at(length, start) == data[start : start + length]


def test_parquet_round_trip(folder: str) -> None:
    table = pa.table({"id": ["a", "b"], "labels": pa.array([[1, 2], None], pa.list_(pa.int8()))})
    write_parquet(join(folder, "x.parquet"), table)
    with open_random_access(join(folder, "x.parquet")) as file:
        assert pq.read_table(file).equals(table)


def test_remove_takes_files_that_are_gone_already(folder: str) -> None:
    uris = [join(folder, name) for name in ("x", "y")]
    for uri in uris:
        write_bytes(uri, b"1")
    write_bytes(join(folder, "z"), b"1")
    remove([*uris, join(folder, "none"), uris[0]])
    assert list_files(folder) == {"z": 1}


def test_only_an_empty_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    remove_empty_folder(str(tmp_path / "empty"))
    remove_empty_folder(str(tmp_path / "none"))
    with pytest.raises(OSError):
        remove_empty_folder(str(tmp_path / "full"))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_free_space_is_that_of_the_disk_below(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "not" / "there" / "yet", tmp_path / "file" / "below"):
        free = free_bytes(str(path))
        assert free is not None
        stats = os.statvfs(tmp_path)
        assert 0 < free <= stats.f_blocks * stats.f_frsize
    assert free_bytes("memory://bucket") is None


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.chdir(tmp_path)
    assert absolute("~/data") == "/home/ada/data"
    assert absolute("data/../x/") == f"{tmp_path}/x"
    assert absolute("file:///data//set/") == "/data/set"
    assert absolute("/data?x") == "/data?x"
    assert absolute("s3://bucket/set//") == "s3://bucket/set"
    assert absolute("memory://") == "memory://"
    assert absolute("s3://bucket/set/?region=a/b/") == "s3://bucket/set?region=a/b/"


def test_join() -> None:
    assert join("/", "x") == "/x"
    assert join("/data/", "a", "x") == "/data/a/x"
    assert join("file:///", "x") == "file:///x"
    assert join("what?/", "x") == "what?/x"
    assert join("s3://bucket", "x") == "s3://bucket/x"
    assert join("s3://bucket/set/?region=eu-north-1", "a", "x") == "s3://bucket/set/a/x?region=eu-north-1"
    assert join("https://host/set?signature=abc", "x") == "https://host/set/x?signature=abc"


@given(
    base=st.sampled_from(["/data", "rel", "memory://b", "s3://b/p?region=x", "gs://b?anonymous=true"]),
    names=st.lists(NAME),
)
def test_joining_at_once_or_one_by_one_is_the_same(base: str, names: list[str]) -> None:
    one_by_one = base
    for name in names:
        one_by_one = join(one_by_one, name)
    assert join(base, *names) == one_by_one
    assert is_local(one_by_one) == is_local(base)
    assert absolute(absolute(base)) == absolute(base)


def test_the_root_of_a_store_is_a_folder() -> None:
    name = uuid.uuid4().hex
    write_bytes(join("memory://", name), b"1")
    assert list_files("memory://")[name] == 1
    assert read_bytes(f"memory://{name}") == b"1"
    assert not Path("memory:").exists()


@pytest.mark.parametrize("use", [read_bytes, exists, list_files, open_random_access])
def test_an_unknown_scheme_is_the_users_mistake(use: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match="no access to nosuch://"):
        use("nosuch://bucket/x")
    with pytest.raises(InputError, match="nosuch://bucket/x"):
        write_bytes("nosuch://bucket/x", b"")


# ---- several files


def test_many_are_read_in_order(folder: str) -> None:
    names = [f"{number}" for number in range(50)]
    for name in names[::2]:
        write_bytes(join(folder, name), name.encode())
    contents = list(read_many([join(folder, name) for name in names]))
    assert contents[::2] == [name.encode() for name in names[::2]]
    assert all(isinstance(value, FileNotFoundError) for value in contents[1::2])
    assert list(read_many([])) == []


def test_local_files_are_read_when_their_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    before = threading.active_count()
    contents = read_many([str(tmp_path / "a"), str(tmp_path / "b")])
    assert next(contents) == b"1"
    (tmp_path / "b").write_bytes(b"2")
    assert next(contents) == b"2"
    assert threading.active_count() == before


def test_a_mistake_of_the_user_is_no_missing_file() -> None:
    with pytest.raises(InputError, match="no access to nosuch://"):
        list(read_many(["nosuch://bucket/x"]))


def test_calls_that_wait_share_their_threads() -> None:
    names: set[str] = set()

    def call(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        names.add(threading.current_thread().name)
        return number

    before = settings()
    configure(Settings(concurrency=3))
    try:
        for _ in range(4):
            assert concurrently(call, range(20)) == list(range(20))
        assert concurrently(call, []) == []
        assert len(names) <= 3
        done: list[int] = []
        with pytest.raises(ValueError, match="the first"):
            concurrently(lambda number: fail_or_wait(number, done), range(200))
        assert concurrently(call, [7]) == [7]
        assert len(done) < 100  # those that had not begun never do
    finally:
        configure(before)


def fail_or_wait(number: int, done: list[int]) -> None:
    if number == 0:
        raise ValueError("the first")
    time.sleep(0.005)
    done.append(number)


# ---- repeats


class Time:
    """A clock that only notes what it was asked to wait."""

    def __init__(self, draw: float = 1.0) -> None:
        self.pauses: list[float] = []
        self.waiting = Waiting(sleep=self.pauses.append, draw=lambda: draw)


@pytest.fixture
def attempts() -> Iterator[Callable[[int], None]]:
    take_retries()
    yield lambda number: configure(Settings(max_attempts=number))
    configure(Settings())
    take_retries()


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    """A call that fails so many times and then answers; the list grows by one with each call."""
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "answer"

    return call, calls


@given(times=st.integers(0, 8), limit=st.integers(1, 8))
def test_every_repeat_waits_once_and_is_counted_once(times: int, limit: int) -> None:
    configure(Settings(max_attempts=limit))
    take_retries()
    clock = Time()
    call, calls = failing(times, Transient("503 SlowDown"))
    try:
        if times < limit:
            assert retried("s3://b/x", call, clock.waiting) == "answer"
        else:
            with pytest.raises(Unreachable, match=rf"503 SlowDown - given up after {limit} attempts?: 's3://b/x'"):
                retried("s3://b/x", call, clock.waiting)
    finally:
        configure(Settings())
    repeats = min(times, limit - 1)
    assert len(calls) == repeats + 1
    assert len(clock.pauses) == repeats
    assert take_retries() == repeats


@pytest.mark.parametrize(
    "error", [FileNotFoundError("x"), PermissionError("x"), OSError(5, "x"), InputError("x"), KeyboardInterrupt()]
)
def test_what_a_repeat_can_not_help_passes_at_once(error: Exception, attempts: Callable[[int], None]) -> None:
    attempts(6)
    clock = Time()
    call, calls = failing(1, error)
    with pytest.raises(type(error)) as caught:
        retried("s3://b/x", call, clock.waiting)
    assert caught.value is error
    assert len(calls) == 1
    assert clock.pauses == []
    assert take_retries() == 0


@given(asked_s=st.floats(0, 1e6), draw=st.floats(0, 1, exclude_max=True))
def test_what_a_server_asks_for_is_waited_for_within_bounds(asked_s: float, draw: float) -> None:
    clock = Time(draw)
    assert retried("s3://b/x", failing(1, Transient("429", wait_s=asked_s))[0], clock.waiting) == "answer"
    take_retries()
    (pause,) = clock.pauses
    assert min(asked_s, LONGEST_ASKED_PAUSE_S) <= pause <= LONGEST_ASKED_PAUSE_S + FIRST_PAUSE_S


def test_ten_attempts_wait_for_about_half_a_minute_and_never_for_long() -> None:
    assert Settings().max_attempts == 10
    assert sum(pause_s(failures, 1.0) for failures in range(1, 10)) == pytest.approx(71.75)


def test_nothing_is_repeated_once_nobody_waits_for_it(attempts: Callable[[int], None]) -> None:
    attempts(6)
    clock = Time()
    call, calls = failing(9, Transient("503"))

    def call_and_abandon() -> str:
        if len(calls) == 2:
            abandon()
        return call()

    with pytest.raises(Unreachable, match="503 - given up after 3 attempts"):
        retried("s3://b/x", call_and_abandon, clock.waiting)
    assert len(clock.pauses) == 2
    attempts(6)  # the next command
    assert retried("s3://b/x", failing(5, Transient("503"))[0], clock.waiting) == "answer"


def test_pauses_double_up_to_a_limit_and_are_drawn_from_all_below() -> None:
    longest = [pause_s(failures, 1.0) for failures in range(1, 40)]
    assert longest[:4] == [FIRST_PAUSE_S * factor for factor in (1, 2, 4, 8)]
    assert max(longest) == longest[-1] == LONGEST_PAUSE_S
    assert longest == sorted(longest)
    assert pause_s(3, 0.0) == 0.0
    assert pause_s(3, 0.5) == pause_s(3, 1.0) / 2
    draws = {Waiting().draw() for _ in range(20)}
    assert len(draws) == 20
    assert all(0 <= draw < 1 for draw in draws)


def test_seeds_of_training_do_not_touch_the_pauses() -> None:
    import random

    random.seed(0)
    first = Waiting().draw()
    random.seed(0)
    assert Waiting().draw() != first


def test_repeats_of_workers_are_added(attempts: Callable[[int], None]) -> None:
    attempts(2)
    add_retries(3)
    retried("s3://b/x", failing(1, Transient("x"))[0], Time().waiting)
    assert take_retries() == 4
    assert take_retries() == 0


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("0", 0), (None, None), ("soon", None), ("-3", None), ("", None)]
)
def test_a_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_retry_after_as_a_date() -> None:
    assert retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) == pytest.approx(60, abs=2)
    assert retry_after(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0


def test_an_answer_that_is_too_short_is_no_data() -> None:
    assert check_length(b"123", 3) == b"123"
    for length in (0, 2, 4):
        with pytest.raises(Transient):
            check_length(b"123", length)


def status_error(status: str, code: str = "") -> str:
    body = f"<Error><Code>{code}</Code></Error>" if code else ""
    performed = "Generic S3 error: Error performing GET http://h/b/x in 1ms"
    return f"{performed} - Server returned non-2xx status code: {status}: {body}"


@pytest.mark.parametrize(
    ("message", "expected", "text"),
    [
        (status_error("503 Service Unavailable", "SlowDown"), Transient, "503 SlowDown"),
        (status_error("503 Service Unavailable"), Transient, "503 Service Unavailable"),
        (status_error("500 Internal Server Error"), Transient, "500"),
        (status_error("429 Too Many Requests"), Transient, "429"),
        (status_error("400 Bad Request", "RequestTimeout"), Transient, "400 RequestTimeout"),
        (status_error("400 Bad Request", "InvalidArgument"), OSError, "400 InvalidArgument"),
        (status_error("400 Bad Request", "ExpiredToken"), PermissionError, "ExpiredToken.*set the key"),
        (status_error("403 Forbidden", "SignatureDoesNotMatch"), PermissionError, "Signature.*set the key.*s3://b/x"),
        (status_error("401 Unauthorized"), PermissionError, "401 Unauthorized"),
        (status_error("404 Not Found", "NoSuchBucket"), FileNotFoundError, "no such bucket"),
        (status_error("301 Moved Permanently", "PermanentRedirect"), OSError, "another region"),
        (status_error("412 Precondition Failed"), OSError, "replaced"),
        (status_error("501 Not Implemented", "NotImplemented"), OSError, "501 NotImplemented"),
        (status_error("524 <none>"), Transient, "524"),
        (status_error("400 Bad Request", "BadDigest"), Transient, "BadDigest"),
        ("Generic S3 error: x\n\nDebug source:\nkind: Timeout", Transient, "no answer within 60 s"),
        ("Generic S3 error: x\n\nDebug source:\nerror: IncompleteBody", Transient, "cut short"),
        ('G: x\n\nDebug source:\nkind: Connect, message: "refused"', Transient, r"no connection \(refused\)"),
        ("Generic S3 error: HTTP error: builder error", OSError, "builder error"),
        ("E: Error performing PUT http://169.254.169.254/latest/api/token in 1s", PermissionError, "no credentials"),
        ("Generic S3 error: DeleteObjects failed for key x: no (code: AccessDenied)", PermissionError, "AccessDenied"),
        ("Generic S3 error: something new", Transient, "something new"),
    ],
)
def test_which_failures_of_a_bucket_are_tried_again(message: str, expected: type[Exception], text: str) -> None:
    error = failure("s3://b/x?region=a", message, "set the key", granted=False)
    assert type(error) is expected
    with pytest.raises(expected, match=text):
        raise error
    if isinstance(error, OSError):
        assert error.filename == "s3://b/x"
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (status_error("403 Forbidden", "AccessDenied"), "403 AccessDenied"),
        (status_error("400 Bad Request", "ExpiredToken"), "400 ExpiredToken"),
        (status_error("400 Bad Request"), "400 Bad Request"),  # what Amazon says to HEAD with expired keys
        (status_error("403 Forbidden"), "403 Forbidden"),
    ],
)
def test_a_denial_of_what_was_granted_before_may_pass(message: str, reason: str) -> None:
    """Keys are renewed by others: at first it is tried again, and told as a denial only in the end."""
    error = failure("s3://b/x", message, "set the key", granted=True)
    assert isinstance(error, Transient)
    assert (str(error), error.hint) == (reason, "set the key")
    configure(Settings(max_attempts=3))
    clock = Time()
    try:
        with pytest.raises(Denied) as caught:
            retried("s3://b/x", failing(9, error)[0], clock.waiting)
    finally:
        configure(Settings())
        assert take_retries() == 2
    assert isinstance(caught.value, PermissionError)
    assert caught.value.strerror == f"access denied ({reason} - given up after 3 attempts): set the key"
    assert failure("s3://b/x", status_error("400 Bad Request", "InvalidArgument"), "", granted=True).args[0] == 5


class TheirOwn(Exception):
    """As the errors of clients that fsspec uses: of no kind that others know."""


@pytest.mark.parametrize(
    ("error", "repeats"),
    [
        (TheirOwn("no luck"), 2),
        (ConnectionResetError("reset"), 2),
        (TimeoutError(), 2),
        (OSError(errno.EIO, "no answer"), 2),
        (OSError(errno.ENOSPC, "full"), 0),
        (FileNotFoundError(errno.ENOENT, "none"), 0),
        (PermissionError("no"), 0),
        (ValueError("wrong"), 0),
        (InputError("wrong"), 0),
    ],
)
def test_which_failures_of_other_clients_are_tried_again(
    error: Exception, repeats: int, attempts: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpa_ray.storage.retry.FIRST_PAUSE_S", 0.001)
    attempts(3)
    call, calls = failing(9, error)
    with pytest.raises(Unreachable if repeats else type(error)):
        retried_within("other://h/x", call)
    assert len(calls) == 1 + repeats


def test_a_client_that_never_comes_back_is_left_to_itself(
    attempts: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpa_ray.storage.retry.FIRST_PAUSE_S", 0.001)
    configure(Settings(max_attempts=2, timeout_s=0.05))
    ended = threading.Event()
    try:
        with pytest.raises(Unreachable, match=r"no answer within 0.05 s.*given up after 2 attempts: 'other://h/x'"):
            retried_within("other://h/x", ended.wait, num_bytes=0)
    finally:
        ended.set()


def test_where_files_are_seen_while_they_grow_they_have_another_name_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in HDFS, for which a folder of this disk stands in, by the same interface of pyarrow."""
    from pyarrow import fs

    uri, path = "hdfs://h/deep/x", tmp_path / "deep" / "x"
    monkeypatch.setattr("hpa_ray.storage.others._filesystem", lambda _: (fs.LocalFileSystem(), str(path)))
    for data in (b"first", b"second"):
        write_bytes(uri, data)
        assert read_bytes(uri) == data
        assert [file.name for file in path.parent.iterdir()] == ["x"]


def test_what_is_secret_in_an_address_is_not_shown() -> None:
    assert shown("s3://KEY:SECRET@bucket/a/b?region=x") == "s3://bucket/a/b"
    assert shown("https://user:word@host/a/b?Signature=SECRET") == "https://host/a/b"
    assert shown("/data/what?/a@b") == "/data/what?/a@b"
    assert shown("memory://a?b") == "memory://a?b"


# ---- ranges


DATA = np.random.default_rng(0).bytes(10_000)


@given(
    requests=st.lists(st.tuples(st.integers(0, 11_000), st.integers(0, 11_000))),
    moves=st.lists(st.tuples(st.integers(-100, 11_000), st.sampled_from([0, 1, 2]), st.integers(-1, 5000))),
)
def test_a_remote_file_reads_like_a_local_one(
    requests: list[tuple[int, int]], moves: list[tuple[int, int, int]]
) -> None:
    import io

    local = io.BytesIO(DATA)
    with RemoteFile("s3://b/x", len(DATA), lambda start, length: DATA[start : start + length]) as file:
        for start, length in requests:
            assert file.read_at(length, start) == DATA[start : start + length]
        for offset, whence, length in moves:
            if (0, local.tell(), len(DATA))[whence] + offset < 0:
                with pytest.raises(OSError, match="s3://b/x"):
                    file.seek(offset, whence)
                continue
            assert file.seek(offset, whence) == local.seek(offset, whence)
            assert file.read(length) == local.read(length)
            assert file.tell() == local.tell()
        assert file.seek(0) == 0
        assert file.read_buffer().to_pybytes() == DATA
        assert file.size() == len(DATA)
