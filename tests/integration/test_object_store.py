"""Buckets and web servers over real sockets: a local S3 service behind a proxy that breaks requests."""

import http.server
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import Faults, ObjectStore, object_store
from web_server import serving

from hpa_ray import storage
from hpa_ray.errors import InputError
from hpa_ray.storage import Settings, join

BUCKET = "bucket"
PAGE = 100
"""Objects per request of a listing, a tenth of what Amazon gives."""
KINDS = [
    *("slow_down", "server_error", "too_many", "bad_gateway", "gateway_timeout"),
    *("stall", "stall_body", "cut", "reset", "reset_body"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[ObjectStore]:
    with object_store(listing_page=PAGE) as store:
        store.create_bucket(BUCKET)
        yield store


@pytest.fixture
def store(running: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The service without faults; this process goes to it through the proxy, by its environment."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    storage.configure(Settings(timeout_s=20))
    monkeypatch.setattr("hpa_ray.storage.objects.LIST_PAGE", PAGE)
    monkeypatch.setattr("hpa_ray.storage.retry.FIRST_PAUSE_S", 0.01)
    running.faults = Faults()
    running.reset_counts()
    storage.take_retries()
    yield running
    storage.configure(Settings())
    storage.take_retries()


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{abs(hash(request.node.nodeid))}"


def key(uri: str) -> str:
    return uri.removeprefix(f"s3://{BUCKET}/")


def random_bytes(num_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(num_bytes)


# ---- what is promised for every place


def test_what_is_written_is_read(store: ObjectStore, folder: str) -> None:
    uri = join(folder, "deep", "a b%20+ä.bin")
    assert not storage.exists(uri)
    for data in (b"first", b"", bytes(range(256)) * 3000, pa.py_buffer(b"a buffer")):
        storage.write_bytes(uri, data)
        assert storage.read_bytes(uri) == bytes(data)
        assert storage.list_files(join(folder, "deep")) == {"a b%20+ä.bin": len(data)}
    assert storage.exists(uri)
    assert storage.exists(join(folder, "deep"))
    assert storage.exists(f"s3://{BUCKET}")
    assert not storage.exists(join(folder, "dee"))
    with pytest.raises(TypeError):
        storage.write_bytes(uri, "text")  # type: ignore[arg-type]
    assert storage.read_bytes(uri) == b"a buffer"


def test_reading_a_file_is_one_request_and_no_head(store: ObjectStore, folder: str) -> None:
    uris = [join(folder, f"{number}.png") for number in range(40)]
    for number, uri in enumerate(uris):
        store.put(BUCKET, key(uri), random_bytes(110_000, number))
    contents = list(storage.read_many(uris))
    assert contents == [random_bytes(110_000, number) for number in range(40)]
    assert store.counts.requests == {"GET": 40}
    assert store.counts.max_in_flight > 8
    assert storage.take_retries() == 0


def test_a_listing_is_paged_and_asks_for_no_single_file(store: ObjectStore, folder: str) -> None:
    store.fill(BUCKET, key(join(folder, "image_")), 950, 7)
    names = storage.list_files(folder)
    assert names == {f"image_{number:06d}": 7 for number in range(950)}
    assert store.counts.requests == {"GET": 10}
    assert storage.list_files(folder + "/") == names


def test_a_listing_passes_over_what_lies_deeper(store: ObjectStore, folder: str) -> None:
    """Subfolders cost a page or two, however full they are; marks of folders and empty files are told apart."""
    store.fill(BUCKET, key(join(folder, "b/x")), 350, 1)
    store.fill(BUCKET, key(join(folder, "d/e/x")), 250, 1)
    for name in ("a.png", "c.png", "z.png", "d.png"):
        store.put(BUCKET, key(join(folder, name)), b"123")
    for name in ("", "b/", "m/", "m/x/y", "empty.png"):
        store.put(BUCKET, key(join(folder, name)), b"")
    store.reset_counts()
    assert storage.list_files(folder) == {"a.png": 3, "c.png": 3, "z.png": 3, "d.png": 3, "empty.png": 0}
    assert store.counts.requests["GET"] <= 5
    assert store.counts.requests["HEAD"] <= 3  # of the empty ones


def test_what_is_no_folder(store: ObjectStore, folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.list_files(folder)
    store.put(BUCKET, key(join(folder, "x")), b"1")
    with pytest.raises(NotADirectoryError):
        storage.list_files(join(folder, "x"))
    store.put(BUCKET, key(join(folder, "made/")), b"")
    assert storage.list_files(join(folder, "made")) == {}
    for use in (storage.read_bytes, storage.open_random_access):
        with pytest.raises(FileNotFoundError, match=r"none"):
            use(join(folder, "none"))
    assert storage.take_retries() == 0


def test_a_bucket_that_is_not_there_is_named_so(store: ObjectStore) -> None:
    uri = "s3://no-such-bucket/x"
    for use in (storage.read_bytes, storage.list_files, partial(storage.write_bytes, data=b"1")):
        with pytest.raises(FileNotFoundError, match=r"no such bucket.*s3://no-such-bucket/x"):
            use(uri)
    assert not storage.exists(uri)
    assert not storage.exists("s3://no-such-bucket")
    storage.remove([uri])
    assert storage.take_retries() == 0


def test_ranges_and_parquet(store: ObjectStore, folder: str) -> None:
    data = random_bytes(200_000)
    store.put(BUCKET, key(join(folder, "x")), data)
    with storage.open_random_access(join(folder, "x")) as file:
        assert file.size() == len(data)
        with ThreadPoolExecutor(8) as pool:
            starts = range(0, 200_000, 12_345)
            parts = list(pool.map(lambda start: file.read_at(12_345, start), starts))
        assert b"".join(parts) == data
        assert file.read_buffer().to_pybytes() == data
        assert file.read_at(10, 300_000) == b""
    assert store.counts.requests == {"HEAD": 1, "GET": len(starts) + 1}
    table = pa.table({"id": ["a", "b"], "labels": pa.array([[1, 2], None], pa.list_(pa.int8()))})
    storage.write_parquet(join(folder, "x.parquet"), table)
    with storage.open_random_access(join(folder, "x.parquet")) as file:
        assert pq.read_table(file).equals(table)


def test_a_file_that_is_replaced_is_not_read_half_and_half(store: ObjectStore, folder: str) -> None:
    uri = join(folder, "x")
    storage.write_bytes(uri, b"a" * 1000)
    with storage.open_random_access(uri) as file:
        assert file.read_at(500, 0) == b"a" * 500
        storage.write_bytes(uri, b"b" * 1000)
        with pytest.raises(OSError, match="replaced"):
            file.read_at(500, 500)


def test_many_are_removed_at_once(store: ObjectStore, folder: str) -> None:
    store.fill(BUCKET, key(join(folder, "x")), 1500, 1)
    store.put(BUCKET, key(join(folder, "kept")), b"1")
    uris = [join(folder, f"x{number:06d}") for number in range(1500)]
    storage.remove([*uris, join(folder, "none"), uris[0]])
    assert storage.list_files(folder) == {"kept": 1}
    assert store.counts.requests["POST"] == 2
    assert store.counts.requests["DELETE"] == 0


# ---- faults


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_is_got_past_and_counted(store: ObjectStore, folder: str, kind: str) -> None:
    """Half of all requests break. All bytes arrive unchanged and each fault is one repeat, no more, no less."""
    stall = kind.startswith("stall")
    num_files = 6 if stall else 16
    contents = {f"{number}.bin": random_bytes(30_000 + number, number) for number in range(num_files)}
    uris = {join(folder, name): data for name, data in contents.items()}
    if stall:
        storage.configure(Settings(timeout_s=0.4))
    store.faults = Faults(seed=3, stall_s=0.8, max_in_a_row=2 if stall else 3, **{kind: 0.5})
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(storage.write_bytes, uris, uris.values()))
    for uri, data in uris.items():
        assert store.get(BUCKET, key(uri)) == data
    assert list(storage.read_many(list(uris))) == list(uris.values())
    assert storage.list_files(folder) == {name: len(data) for name, data in contents.items()}
    assert storage.exists(folder)

    def by_ranges(uri: str) -> bytes:
        with storage.open_random_access(uri) as file:
            return file.read_at(20_000, 0) + file.read_at(20_000, 20_000)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(by_ranges, uris)) == list(uris.values())
    storage.remove(uris)
    injected = store.counts.faults
    assert set(injected) == {kind}
    assert injected[kind] >= num_files
    retries = storage.take_retries()
    # a busy machine may let other answers be late as well
    assert retries >= injected[kind] if stall else retries == injected[kind]
    store.faults = Faults()
    assert not storage.exists(folder)


def test_a_listing_goes_on_at_the_page_that_failed(store: ObjectStore, folder: str) -> None:
    store.fill(BUCKET, key(join(folder, "image_")), 950, 3)
    store.faults = Faults(cut=0.25, slow_down=0.25, seed=5)
    assert len(storage.list_files(folder)) == 950
    faults = store.counts.faults.total()
    assert faults >= 3
    assert store.counts.requests["GET"] == 10 + faults  # not from the beginning
    assert storage.take_retries() == faults


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("slow_down", "503 SlowDown"),
        ("cut", "cut short"),
        ("stall", "no answer within 0.2 s"),
        ("reset", "reset by peer|lost"),
    ],
)
def test_giving_up_tells_address_reason_and_attempts(store: ObjectStore, folder: str, kind: str, reason: str) -> None:
    uri = join(folder, "x")
    store.put(BUCKET, key(uri), random_bytes(1000))
    storage.configure(Settings(max_attempts=2, timeout_s=0.2))
    store.faults = Faults(max_in_a_row=None, stall_s=0.5, **{kind: 1.0})
    with pytest.raises(OSError, match=rf"({reason}).*given up after 2 attempts.*{uri}") as caught:
        storage.read_bytes(uri)
    assert store.counts.requests == {"GET": 2}
    assert storage.take_retries() == 1
    with pytest.raises(storage.Unreachable, match="given up"):  # no fault of the file, so not a value
        list(storage.read_many([uri]))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_failed_write_leaves_what_was_there(store: ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One put, or parts that are given up: never a part of the new file, and nothing left behind in the store."""
    uri = join(folder, "x")
    monkeypatch.setattr("hpa_ray.storage.objects.PART_BYTES", 5 * 2**20)
    storage.write_bytes(uri, bytes(6 * 2**20))
    assert store.counts.requests == {"PUT": 1}
    storage.write_bytes(uri, b"old")
    storage.configure(Settings(max_attempts=2, timeout_s=5))
    store.faults = Faults(slow_down=1.0, methods=("PUT",), max_in_a_row=None)
    with pytest.raises(OSError, match="given up"):
        storage.write_bytes(uri, bytes(1000))
    monkeypatch.setattr("hpa_ray.storage.objects.LARGEST_PUT_BYTES", 2**20)
    store.faults = Faults(slow_down=1.0, paths="partNumber=2", max_in_a_row=None)
    with pytest.raises(OSError, match="given up"):
        storage.write_bytes(uri, bytes(11 * 2**20))
    assert store.open_uploads(BUCKET) == 0
    assert store.get(BUCKET, key(uri)) == b"old"
    store.faults = Faults()
    big = random_bytes(11 * 2**20)
    storage.write_bytes(uri, big)
    assert store.get(BUCKET, key(uri)) == big


def test_an_upload_that_breaks_off_is_never_seen(store: ObjectStore, folder: str) -> None:
    uri = join(folder, "x")
    storage.configure(Settings(max_attempts=3))
    store.faults = Faults(reset_body=1.0, methods=("PUT",), max_in_a_row=None)
    with pytest.raises(storage.Unreachable, match=r"no connection|connection lost|reset"):
        storage.write_bytes(uri, random_bytes(3_000_000))
    assert store.counts.faults == {"reset_body": 3}
    assert not storage.exists(uri)
    store.faults = Faults(reset_body=1.0, methods=("PUT",), max_in_a_row=2)
    storage.write_bytes(uri, random_bytes(3_000_000))
    assert store.get(BUCKET, key(uri)) == random_bytes(3_000_000)


def test_a_large_file_is_read_in_parts_of_which_one_may_fail(
    store: ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the connection: time limits are those of a part."""
    monkeypatch.setattr("hpa_ray.storage.objects.LARGEST_GET_BYTES", 50_000)
    uri, data = join(folder, "x"), random_bytes(260_000)
    store.put(BUCKET, key(uri), data)
    store.faults = Faults(cut=0.4, stall_body=0.1, stall_s=1, seed=4)
    storage.configure(Settings(timeout_s=0.5))
    assert storage.read_bytes(uri) == data
    faults = store.counts.faults.total()
    assert faults >= 2
    assert store.counts.requests["GET"] in (6 + faults, 7 + faults)  # of the first one only the size is looked at
    with storage.open_random_access(uri) as file:
        assert file.read_at(200_000, 30_000) == data[30_000:230_000]


def test_bytes_that_change_on_their_way_are_read_again(store: ObjectStore, folder: str) -> None:
    uri, data = join(folder, "x"), random_bytes(30_000)
    store.put(BUCKET, key(uri), data)
    for kind in ("corrupt", "short", "wrong_etag"):
        store.reset_counts()
        store.faults = Faults(max_in_a_row=1, **{kind: 1.0})
        assert storage.read_bytes(uri) == data
        assert storage.take_retries() == 1
    store.reset_counts()
    store.faults = Faults(corrupt=1.0, max_in_a_row=3)
    with storage.open_random_access(uri) as file:
        assert isinstance(file, storage.RemoteFile)
        assert file.read_at(9000, 500, lambda part: part == data[500:9500]) == data[500:9500]
        assert storage.take_retries() == 3
        store.faults = Faults()
        assert file.read_at(9000, 500, lambda part: False) == data[500:9500]  # so it is stored
        assert storage.take_retries() == 1


def test_e_tags_that_are_no_checksums_are_found_out(store: ObjectStore, folder: str) -> None:
    """As those of Amazon's encryption: what comes twice is what is stored, and after some they are not looked at."""
    uris = [f"{join(folder, str(number))}?region=eu-north-1" for number in range(8)]  # a bucket that is opened anew
    for uri in uris:
        store.put(BUCKET, key(uri).partition("?")[0], uri.encode())
    store.faults = Faults(wrong_etag=1.0, max_in_a_row=None)
    assert [storage.read_bytes(uri) for uri in uris] == [uri.encode() for uri in uris]
    assert store.counts.requests == {"GET": 4 * 2 + 4}
    assert storage.take_retries() == 4


def test_keys_that_run_out_are_looked_up_anew(
    store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program beside this one renews those in ~/.aws/credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))

    def renew(name: str) -> None:
        credentials.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = x\n")

    renew("old")
    storage.write_bytes(join(folder, "x"), b"1")
    assert storage.read_bytes(join(folder, "x")) == b"1"
    store.faults = Faults(expired=1.0, key="old", max_in_a_row=None)
    renewing = threading.Timer(0.1, renew, ["new"])
    renewing.start()
    monkeypatch.setattr("hpa_ray.storage.retry.FIRST_PAUSE_S", 0.1)
    assert storage.read_bytes(join(folder, "x")) == b"1"
    renewing.join()
    storage.write_bytes(join(folder, "x"), b"2")
    assert store.get(BUCKET, key(join(folder, "x"))) == b"2"
    assert storage.take_retries() >= 1


def test_a_denial_of_what_was_never_granted_is_told_at_once(store: ObjectStore, folder: str) -> None:
    """As with keys that may only read."""
    uri = f"{join(folder, 'x')}?region=eu-west-3"  # a bucket that is opened anew
    store.put(BUCKET, key(uri).partition("?")[0], b"1")
    assert storage.read_bytes(uri) == b"1"
    store.faults = Faults(denied=1.0, methods=("PUT",), max_in_a_row=None)
    with pytest.raises(PermissionError, match=r"access denied \(403 AccessDenied\): set storage.access_key"):
        storage.write_bytes(uri, b"2")
    assert storage.take_retries() == 0


def test_reading_ahead_is_bounded_and_stops_with_the_consumer(
    store: ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        store.put(BUCKET, key(join(folder, f"{number:02d}")), b"%d" % number)
    storage.configure(Settings(concurrency=4))
    uris = [join(folder, f"{number:02d}") for number in range(60)]
    contents = storage.read_many(uris)
    assert next(contents) == b"0"
    time.sleep(0.3)
    assert store.counts.requests["GET"] == 8
    contents.close()
    store.reset_counts()
    monkeypatch.setattr("hpa_ray.storage.many.AHEAD", 10)
    store.faults = Faults(stall=1.0, stall_s=0.2, max_in_a_row=None)
    contents = storage.read_many(uris)
    assert next(contents) == b"0"
    contents.close()
    time.sleep(0.5)
    assert store.counts.requests["GET"] <= 12  # of the forty asked for, those under way and no more
    assert store.counts.max_in_flight == 4


def test_local_and_remote_files_come_in_order(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"local")
    store.put(BUCKET, key(join(folder, "x")), b"remote")
    uris = [str(tmp_path / "x"), join(folder, "x"), join(folder, "none"), str(tmp_path / "none")] * 20
    contents = list(storage.read_many(uris))
    assert contents[0::4] == [b"local"] * 20
    assert contents[1::4] == [b"remote"] * 20
    assert all(isinstance(value, FileNotFoundError) for value in contents[2::4] + contents[3::4])
    assert storage.take_retries() == 0


# ---- who is asking, and where


def test_wrong_keys_are_told_at_once_and_not_shown(store: ObjectStore, folder: str) -> None:
    uri = join(folder, "x")
    store.put(BUCKET, key(uri), b"1")
    storage.configure(Settings(access_key="AKIAWRONG", secret_key="verysecret", session_token="evenmoresecret"))
    uses: list[Callable[[str], object]] = [storage.read_bytes, storage.list_files, storage.exists]
    uses += [partial(storage.write_bytes, data=b"2"), storage.open_random_access, lambda uri: storage.remove([uri])]
    with store.only_known_users():
        for use in uses:
            with pytest.raises(PermissionError, match=rf"storage.access_key.*AWS_PROFILE.*anonymous.*{uri}") as caught:
                use(uri)
            assert "secret" not in f"{caught.value!r} {caught.value.__cause__}".replace("secret_key", "")
    assert storage.take_retries() == 0
    assert "secret" not in repr(storage.settings())
    assert storage.read_bytes(uri) == b"1"


@pytest.mark.parametrize("way", ["settings", "uri"])
def test_public_files_are_read_without_keys(
    store: ObjectStore, folder: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(BUCKET, key(join(folder, "public")), b"1", public=True)
    store.put(BUCKET, key(join(folder, "private")), b"2")
    assert storage.read_bytes(join(folder, "private")) == b"2"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    query = "?anonymous=true"
    if way == "settings":
        storage.configure(Settings(anonymous=True))
        query = ""
    store.reset_counts()
    assert storage.read_bytes(join(folder + query, "public")) == b"1"
    assert store.counts.regions == {"unsigned": 1}
    with pytest.raises(PermissionError, match=r"403.*unset storage.anonymous"):
        storage.read_bytes(join(folder + query, "private"))
    assert storage.take_retries() == 0


@pytest.mark.parametrize("way", ["settings", "uri", "uri with scheme", "AWS_ENDPOINT_URL_S3", "profile"])
def test_ways_to_tell_the_endpoint(
    store: ObjectStore, folder: str, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All over plain http; the environment names a place where nobody listens."""
    store.put(BUCKET, key(join(folder, "x")), b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    host = store.proxy_endpoint.removeprefix("http://")
    query = ""
    if way == "settings":
        storage.configure(Settings(endpoint=store.proxy_endpoint, access_key="a", secret_key="b", region="eu-north-1"))
    elif way == "uri":
        query = f"?endpoint_override={store.proxy_endpoint}"
    elif way == "uri with scheme":
        query = f"?endpoint_override={host}&scheme=http&region=eu-north-1"
    elif way == "AWS_ENDPOINT_URL_S3":
        monkeypatch.setenv(way, store.proxy_endpoint)
    else:
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.delenv(name)
        (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {store.proxy_endpoint}\nregion = eu-north-1\n")
        (tmp_path / "keys").write_text("[lab]\naws_access_key_id = a\naws_secret_access_key = b\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
        monkeypatch.setenv("AWS_PROFILE", "lab")
    assert storage.read_bytes(join(folder + query, "x")) == b"1"
    assert storage.list_files(folder + query) == {"x": 1}
    assert store.counts.regions == {"us-east-1" if way in ("uri", "AWS_ENDPOINT_URL_S3") else "eu-north-1": 2}


def test_no_credentials_at_all(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PermissionError, match=r"no credentials.*storage.access_key"):
        storage.read_bytes(f"s3://{BUCKET}/x")  # half of a pair
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(PermissionError, match=r"no credentials.*storage.access_key"):
        storage.read_bytes(f"s3://{BUCKET}/x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(PermissionError, match="nobody"):
        storage.read_bytes(f"s3://{BUCKET}/x")
    assert store.counts.requests == {}


@pytest.mark.parametrize(
    ("uri", "given", "message"),
    [
        ("s3://bucket/x?regoin=a", Settings(), "unknown option regoin"),
        ("s3:///x", Settings(), "names no bucket"),
        ("s3://KEY:HIDDEN@bucket/x", Settings(), "s3://bucket/x: keys do not belong"),
        ("s3://bucket/x", Settings(access_key="a"), "belong together"),
        ("s3://bucket/x", Settings(endpoint="localhost:9000"), "write http://HOST:PORT"),
    ],
)
def test_mistakes_of_the_user(store: ObjectStore, uri: str, given: Settings, message: str) -> None:
    storage.configure(given)
    for use in (storage.read_bytes, storage.list_files, storage.exists):
        with pytest.raises(InputError, match=message) as caught:
            use(uri)
        assert "HIDDEN" not in str(caught.value)


def test_nobody_listens(store: ObjectStore) -> None:
    storage.configure(Settings(endpoint="http://127.0.0.1:9", max_attempts=2))
    with pytest.raises(OSError, match=r"no connection \(Connection refused\) - given up after 2 attempts"):
        storage.read_bytes(f"s3://{BUCKET}/x")
    with pytest.raises(OSError, match=r"Connection refused.* - given up after 2 attempts") as caught:
        storage.read_bytes("http://127.0.0.1:9/x?X-Amz-Signature=SECRET")
    assert "SECRET" not in str(caught.value)
    assert storage.take_retries() == 2


def test_a_google_bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's own interface for such clients is that of S3, so the same service can stand in for it."""
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
    uri = f"gs://{BUCKET}/google?endpoint_override={store.proxy_endpoint}"
    store.faults = Faults(slow_down=0.3, seed=2)
    for number in range(5):
        storage.write_bytes(join(uri, f"{number}.bin"), random_bytes(1000, number))
    uris = [join(uri, f"{number}.bin") for number in range(5)]
    assert list(storage.read_many(uris)) == [random_bytes(1000, number) for number in range(5)]
    assert storage.list_files(uri) == {f"{number}.bin": 1000 for number in range(5)}
    storage.remove(uris[1:])
    assert storage.list_files(uri) == {"0.bin": 1000}
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uris[1])
    assert storage.take_retries() == store.counts.faults.total() > 0


# ---- web servers


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    """A server of static files, without parts of files, over the folder `site`."""
    (tmp_path / "site").mkdir()
    site = partial(QuietHandler, directory=str(tmp_path / "site"))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), site)) as address:
        yield address


def test_files_of_a_web_server(store: ObjectStore, website: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "a b.png").write_bytes(b"123")
    (tmp_path / "site" / "sub").mkdir()
    assert storage.read_bytes(f"{website}/a b.png") == b"123"
    assert storage.list_files(website) == {"a b.png": 0}
    assert storage.exists(f"{website}/sub")
    assert not storage.exists(f"{website}/none")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{website}/none")
    with pytest.raises(FileNotFoundError):
        storage.list_files(f"{website}/a b.png")
    with storage.open_random_access(f"{website}/a b.png") as file, pytest.raises(OSError, match="parts of files"):
        file.read_at(1, 1)
    with pytest.raises(InputError, match="only read"):
        storage.write_bytes(f"{website}/x", b"")
    assert storage.take_retries() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_web_server_with_faults(store: ObjectStore, kind: str) -> None:
    """The S3 service without signatures is a web server that gives parts of files."""
    data = random_bytes(50_000)
    store.put(BUCKET, f"web/{kind}", data, public=True)
    uri = f"{store.proxy_endpoint}/{BUCKET}/web/{kind}?X-Amz-Signature=SECRET"
    if kind.startswith("stall"):
        storage.configure(Settings(timeout_s=0.3))
    store.faults = Faults(seed=1, stall_s=0.6, **{kind: 0.6})
    assert storage.read_bytes(uri) == data
    with storage.open_random_access(uri) as file:
        assert file.size() == len(data)
        assert b"".join(file.read_at(10_000, start) for start in range(0, 50_000, 10_000)) == data
    injected = store.counts.faults[kind]
    assert injected >= 2
    assert storage.take_retries() >= injected - 1  # of the request for the size no body is read
    assert store.counts.requests["HEAD"] == 0
    storage.configure(Settings(max_attempts=1, timeout_s=0.2))
    store.faults = Faults(max_in_a_row=None, stall_s=0.4, **{kind: 1.0})
    with pytest.raises(OSError, match="given up after 1 attempt") as caught:
        storage.read_bytes(uri)
    assert "SECRET" not in str(caught.value)


def test_a_web_server_says_when_to_come_again(store: ObjectStore) -> None:
    store.put(BUCKET, "web/later", b"1", public=True)
    store.faults = Faults(too_many=1.0, most=1, retry_after_s=1)
    began = time.monotonic()
    assert storage.read_bytes(f"{store.proxy_endpoint}/{BUCKET}/web/later") == b"1"
    assert 1 <= time.monotonic() - began < 5


def test_a_signature_that_is_refused(store: ObjectStore) -> None:
    store.put(BUCKET, "private", b"1")
    with pytest.raises(PermissionError, match="403") as caught:
        storage.read_bytes(f"{store.proxy_endpoint}/{BUCKET}/private?signature=SECRET")
    assert "SECRET" not in str(caught.value)
    assert storage.take_retries() == 0


# ---- how long is waited


class Unfriendly(http.server.BaseHTTPRequestHandler):
    """Answers that never come to an end."""

    way = ""

    def do_GET(self) -> None:
        if self.way == "drop by drop":
            self.send_response(200)
            for name, value in {
                "Content-Length": "5000",
                "ETag": '"x"',
                "Last-Modified": self.date_time_string(),
            }.items():
                self.send_header(name, value)
            self.end_headers()
        for _ in range(5000 if self.way == "drop by drop" else 600):
            time.sleep(0.05)
            try:
                if self.way == "drop by drop":
                    self.wfile.write(b"x")
            except OSError:
                break

    do_HEAD = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("way", ["silent", "drop by drop"])
@pytest.mark.parametrize("client", ["s3", "http", "fsspec"])
def test_no_client_waits_for_ever(client: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are accepted and requests taken; s3a:// is s3fs, whose own time-out and repeats are 5 x 60 s."""
    handler = type("Handler", (Unfriendly,), {"way": way})
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        _waits_not_for_ever(client, way, address, monkeypatch)


def _waits_not_for_ever(client: str, way: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ObjectStore(address).environment(direct=True).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("hpa_ray.storage.retry.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("hpa_ray.storage.buckets.SLOWEST_BYTES_PER_S", 1e9)  # else a whole part is waited for
    monkeypatch.setattr("hpa_ray.storage.others.MAX_TIMEOUTS_PER_REQUEST", 2)
    storage.configure(Settings(max_attempts=2, timeout_s=0.3))
    uri = {"s3": f"s3://{BUCKET}/x", "http": f"{address}/x", "fsspec": f"s3a://{BUCKET}/x"}[client]
    uses: list[Callable[[], object]] = [lambda: storage.read_bytes(uri)]
    if client != "http" and way == "silent":
        uses.append(lambda: storage.write_bytes(uri, random_bytes(20_000)))
    try:
        if client == "fsspec":
            import s3fs  # takes a second

            s3fs.S3FileSystem.clear_instance_cache()
        for use in uses:
            began = time.monotonic()
            with pytest.raises(storage.Unreachable, match="given up after 2 attempts"):
                use()
            assert time.monotonic() - began < 15
    finally:
        storage.configure(Settings())
        storage.take_retries()


# ---- other processes


def test_other_processes_come_by_environment(store: ObjectStore, folder: str) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from hpa_ray import storage\n"
        "storage.write_bytes(sys.argv[1], b'from there'); assert storage.read_bytes(sys.argv[1]) == b'from there'\n"
        "assert not {'obstore.fsspec', 's3fs', 'botocore', 'requests', 'fsspec', 'ray', 'torch'} & set(sys.modules)\n"
        "print(storage.take_retries())"
    )
    store.faults = Faults(slow_down=0.6, seed=1)
    environment = {**os.environ, **store.environment()}
    done = subprocess.run(
        [sys.executable, "-c", code, join(folder, "x")], env=environment, capture_output=True, text=True, check=True
    )
    assert store.get(BUCKET, key(join(folder, "x"))) == b"from there"
    assert int(done.stdout) == store.counts.faults["slow_down"]
