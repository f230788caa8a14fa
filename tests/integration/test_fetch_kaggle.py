"""`fetch kaggle` against a loopback server that plays Kaggle: the token, the rules, a broken download, what came."""

import base64
import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hpa_ray.channels import STAINS
from hpa_ray.cli.fetch_verb import fetch
from hpa_ray.cli.main import Invocation
from hpa_ray.errors import InputError
from hpa_ray.fetch import kaggle

pytest.importorskip("kagglehub", reason="the extra `kaggle` is not installed")
pytestmark = pytest.mark.filterwarnings(  # kagglehub leaves the connection of a broken download to the collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
TOKEN = "KGAT_of_a_test"
IDS = [f"0{k}" for k in range(6)]


class Kaggle(ThreadingHTTPServer):
    """Its API answers with a redirect to the archive, as the real one does to a file store."""

    daemon_threads = True

    def __init__(self, archive: bytes, *, status: int = 302, breaks_at: tuple[int, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archive, self.status, self.breaks_at = archive, status, list(breaks_at)
        self.asked: list[tuple[str, str, str]] = []  # path, Authorization, Range

    def handle_error(self, request: Any, client_address: Any) -> None: ...


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Kaggle

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body == {"competitionName": kaggle.COMPETITION}
        self._note()
        message = json.dumps({"code": self.server.status, "message": "no"}).encode()
        if self.server.status == 302:
            self._head(302, 0, Location="http://localhost/archive.zip")
        else:
            self._head(self.server.status, len(message), **{"Content-Type": "application/json"})
            self.wfile.write(message)

    def do_GET(self) -> None:
        self._note()
        data, start = self.server.archive, 0
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").rstrip("-"))
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        extra = {"Accept-Ranges": "bytes", "x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}
        self._head(206 if given else 200, len(data) - start, **extra)
        end = len(data)
        if self.server.breaks_at and start < self.server.breaks_at[0]:
            end = self.server.breaks_at.pop(0)
            self.close_connection = True
        self.wfile.write(data[start:end])

    def _note(self) -> None:
        headers = self.headers
        self.server.asked.append((urlsplit(self.path).path, headers.get("Authorization", ""), headers.get("Range", "")))

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()


@pytest.fixture(scope="module")
def archive() -> bytes:
    """A competition of six images, in random pixels that do not shrink: 3.8 MB, kagglehub writes MiB by MiB."""
    return zip_of({f"train/{name}": data for name, data in planes().items()} | tables())


def planes() -> dict[str, bytes]:
    from PIL import Image

    files = {}
    for image_id in IDS:
        for stain in STAINS:
            buffer = io.BytesIO()
            Image.frombytes("L", (400, 400), os.urandom(400 * 400)).save(buffer, "PNG")
            files[f"{image_id}_{stain}.png"] = buffer.getvalue()
    return files


def tables() -> dict[str, bytes]:
    return {"train.csv": ("Id,Target\n" + "".join(f"{image_id},0 25\n" for image_id in IDS)).encode()}


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Kaggle]]:
    """Start a server; kagglehub asks http://localhost in its environment LOCALHOST, and the proxy leads here."""
    servers: list[Kaggle] = []
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLEHUB_CACHE", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home" / ".kaggle"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(kaggle, "PAUSE_S", 0.01)
    monkeypatch.setattr(kaggle, "free_bytes", lambda folder: kaggle.NEEDED_BYTES)  # whatever this disk has

    def start(archive: bytes, **kinds: Any) -> Kaggle:
        server = Kaggle(archive, **kinds)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def run(output: Path) -> dict[str, Any]:
    return fetch(Invocation("fetch", ("kaggle", f"fetch.output={output}")))


def test_the_competition_arrives(
    plays: Callable[..., Kaggle], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plays(archive)
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    output = tmp_path / "hpa"
    result = run(output)
    assert result["num_images"] == len(IDS)
    assert sorted(os.listdir(output)) == ["train", "train.csv"]
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert all((output / name).read_bytes() == file.read(name) for name in file.namelist())
    assert server.asked[0][:2] == (
        "/api/v1/competitions.CompetitionApiService/DownloadDataFiles",
        f"Bearer {TOKEN}",
    )
    asked = len(server.asked)
    assert run(output) == result
    assert len(server.asked) == asked, "what is there is not asked for again"


def test_a_broken_download_goes_on_where_it_was(
    plays: Callable[..., Kaggle], archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, twice = 3 * 2**19, 5 * 2**19  # each also ends the answer that tells kagglehub whether ranges can be asked for
    server = plays(archive, breaks_at=(once, once, twice, twice))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert run(tmp_path / "hpa")["num_images"] == len(IDS)
    ranges = [given for path, _, given in server.asked if path == "/archive.zip" and given]
    assert ranges == [f"bytes={2**20}-", f"bytes={2 * 2**20}-"]


def test_train_zip_is_unpacked(plays: Callable[..., Kaggle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plays(zip_of({"train.zip": zip_of(planes())} | tables()))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert run(tmp_path / "hpa")["num_images"] == len(IDS)
    assert sorted(os.listdir(tmp_path / "hpa")) == ["train", "train.csv"]


@pytest.mark.parametrize(("status", "words"), [(403, "accept the rules"), (401, "does not know the token")])
def test_a_refusal_says_what_to_do(
    plays: Callable[..., Kaggle], status: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plays(b"", status=status)
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    with pytest.raises(InputError, match=words) as raised:
        run(tmp_path / "hpa")
    assert "/rules" in str(raised.value)
    assert len(server.asked) == 1
    assert TOKEN not in str(raised.value)


def test_without_a_token_nothing_is_asked_for(
    plays: Callable[..., Kaggle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = plays(b"")
    with pytest.raises(InputError, match="no Kaggle token") as raised:
        run(tmp_path / "hpa")
    for word in ("KAGGLE_API_TOKEN", "access_token", "kaggle.json", "KAGGLE_USERNAME", "/rules"):
        assert word in str(raised.value)
    said = capsys.readouterr().out
    assert "124,288" in said
    assert "GiB" in said
    assert server.asked == []


@pytest.mark.parametrize("place", ["access_token", "kaggle.json", "variables"])
def test_every_place_of_a_token_that_is_told_is_read(
    plays: Callable[..., Kaggle], archive: bytes, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plays(archive)
    folder = tmp_path / "home" / ".kaggle"
    folder.mkdir(parents=True)
    if place == "access_token":
        (folder / place).write_text(TOKEN)
    elif place == "kaggle.json":
        (folder / place).write_text(json.dumps({"username": "me", "key": "secret"}))
    else:
        monkeypatch.setenv("KAGGLE_USERNAME", "me")
        monkeypatch.setenv("KAGGLE_KEY", "secret")
    assert run(tmp_path / "hpa")["num_images"] == len(IDS)
    basic = f"Basic {base64.b64encode(b'me:secret').decode()}"
    assert server.asked[0][1] == (f"Bearer {TOKEN}" if place == "access_token" else basic)


def test_what_stands_in_the_way_is_said(
    plays: Callable[..., Kaggle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plays(b"")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("x")
    with pytest.raises(InputError, match=r"holds other files \('thesis.doc'\)"):
        run(tmp_path / "full")
    with pytest.raises(InputError, match="a disk only"):
        fetch(Invocation("fetch", ("kaggle", "fetch.output=s3://bucket/folder")))
    monkeypatch.setattr(kaggle, "free_bytes", lambda uri: 2**30)
    with pytest.raises(InputError, match="has 1 GiB free"):
        run(tmp_path / "hpa")
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    with pytest.raises(InputError, match="not installed"):
        run(tmp_path / "hpa")
    assert server.asked == []


def test_an_archive_that_is_none_is_deleted_and_asked_for_again(
    plays: Callable[..., Kaggle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plays(b"<html>not an archive</html>")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    with pytest.raises(InputError, match="broke off 6 times"):
        run(tmp_path / "hpa")
    assert [given for path, _, given in server.asked if path == "/archive.zip"] == [""] * 6
