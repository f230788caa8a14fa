"""What a file, a name or a server can do to a user that means harm, and where secrets of the user end up."""

import contextlib
import gzip
import http.server
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import torch
from bad_data import Data, done, first_images, refused
from object_store import ObjectStore, object_store
from PIL import Image
from test_fetch_kaggle import plays as plays
from web_server import serving

from hpa_ray import storage
from hpa_ray.cli.main import main
from hpa_ray.errors import InputError
from hpa_ray.fetch import kaggle, line
from hpa_ray.fetch.folder import FORMAT, source_of
from hpa_ray.storage import read_arrow, web

pytestmark = pytest.mark.filterwarnings(  # of MLflow and W&B
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

KEYS = {
    "access_key": "AKIACANARYOFACCESS",
    "secret_key": "canary/secret+of=store",
    "session_token": "canary-token-of-store",
}
PASSWORD, SIGNATURE, TOKEN = "canary-password", "canary0signature0of0address", "canary0token0of0address"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYOFSYSTEM",
    "AWS_SECRET_ACCESS_KEY": "canary/secret+of=system",
    "AWS_SESSION_TOKEN": "canary-token-of-system",
    "KAGGLE_KEY": "canary-key-of-kaggle",
    "KAGGLE_API_TOKEN": "canary-token-of-kaggle",
    "WANDB_API_KEY": "ca0a1y" * 6 + "beef",
    "HF_TOKEN": "canary-token-of-hub",
}
CANARIES = [*KEYS.values(), *ENVIRONMENT.values(), PASSWORD, SIGNATURE, TOKEN]


class Site(http.server.SimpleHTTPRequestHandler):
    """The files of a folder, for who has the password and the signature."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if "Basic" in self.headers.get("Authorization", "") and SIGNATURE in self.path:
            super().do_GET()
        else:
            self.send_error(403)


@pytest.fixture(scope="module")
def data(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    return first_images(atlas, tmp_path_factory.mktemp("few"), 12)


@pytest.fixture(scope="module")
def website(data: Data) -> Iterator[str]:
    """Its address without scheme."""
    site = partial(Site, directory=str(data.root))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), site)) as address:
        yield address.removeprefix("http://")


@pytest.fixture(scope="module")
def store(data: Data) -> Iterator[ObjectStore]:
    with object_store() as running:
        running.create_bucket("hpa")
        running.put("hpa", "train.csv", data.labels.read_bytes())
        for path in data.images.iterdir():
            running.put("hpa", f"train/{path.name}", path.read_bytes())
        yield running


@pytest.fixture(autouse=True)
def usual_storage() -> Iterator[None]:
    yield
    storage.configure(storage.Settings())
    storage.take_retries()


# ---- secrets


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


class Told:
    """Runs verbs as a shell would, and keeps what they tell."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd, self.texts = monkeypatch, capfd, list[str]()

    def __call__(self, code: int, *words: str) -> str:
        self.monkeypatch.setattr(sys, "argv", ["hpa-ray", *words])
        found = main(words, json_line=True)
        told = "".join(self.capfd.readouterr())
        self.texts.append(told)
        assert found == code, told
        return told


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], secrets: None) -> Iterator[Told]:
    kept = Told(monkeypatch, capfd)
    yield kept
    without_secrets({f"output {k}": text.encode() for k, text in enumerate(kept.texts)})


def without_secrets(contents: dict[str, bytes]) -> None:
    found = {(name, canary) for name, content in contents.items() for canary in CANARIES if canary.encode() in content}
    assert not found


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects_of(store: ObjectStore) -> dict[str, bytes]:
    names = re.findall(r"<Key>(.*?)</Key>", store.request("GET", "/hpa?list-type=2").decode())
    return {name: store.get("hpa", name) for name in names}


def keys(store: ObjectStore) -> list[str]:
    words = [f"storage.{name}={value}" for name, value in KEYS.items()]
    return [*words, f"storage.endpoint={store.endpoint}", "storage.region=us-east-1", "storage.max_attempts=1"]


SMALL = ["data.image_size=32", "model.name=mlp6", "train.epochs=1", "train.num_workers=0", "split.parts=0.5/0.25/0.25"]


def test_secrets_are_told_and_written_nowhere(
    told: Told, store: ObjectStore, website: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the web by password and signature, with keys of the bucket on the command line, which W&B records too."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    there = f"http://me:{PASSWORD}@{website}"
    images = f"data.images={there}/train?X-Amz-Signature={SIGNATURE}&X-Amz-Security-Token={TOKEN}"
    web = [images, f"data.labels={there}/train.csv?sig={SIGNATURE}", *keys(store)]
    bucket = ["data.images=s3://hpa/train", "data.labels=s3://hpa/train.csv", *keys(store)]
    track = [f"track.mlflow=file://{tmp_path}/mlruns", "track.wandb=hpa"]

    told(0, "synth", f"synth.output={tmp_path}/atlas", "synth.num_images=2", "synth.image_size=32", *keys(store))
    told(0, "config", "show", *web)
    told(0, "check", *web, f"check.output={tmp_path}/checked")
    told(0, "duplicates", *web, f"duplicates.output={tmp_path}/doubles", "duplicates.num_workers=0")
    told(0, "prepare", *web, f"prepare.output={tmp_path}/shards", "prepare.num_workers=0", "data.image_size=32")
    told(0, "prepare", *bucket, "prepare.output=s3://hpa/shards", "prepare.num_workers=0", "data.image_size=32")
    told(0, "train", *web, *SMALL, "run.storage=s3://hpa/runs", "run.name=web", *track)
    there = "s3://hpa/runs/web"
    told(0, "evaluate", f"evaluate.run={there}", *web, f"evaluate.output={tmp_path}/scored")
    told(0, "predict", f"predict.run={there}", *web, f"predict.output={tmp_path}/predicted")
    written, stored = files_of(tmp_path), objects_of(store)
    for name in ("runs/web/config.yaml", "runs/web/environment.json", "runs/web/run.log", "runs/web/model.safetensors"):
        assert b"127.0.0.1" in stored[name] or name.endswith("run.log")
    assert any(name.endswith(".wandb") for name in written)
    assert any("/mlruns/" in name and b"127.0.0.1" in content for name, content in written.items())
    without_secrets(written)
    without_secrets(stored)


def test_what_fails_tells_no_secret(
    told: Told, store: ObjectStore, website: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = f"http://me:{PASSWORD}@127.0.0.1:1"
    signed = f"X-Amz-Signature={SIGNATURE}&token={TOKEN}"
    local = [f"data.images={data.images}", f"data.labels={data.labels}"]
    bucket = ["data.images=s3://hpa/train", "data.labels=s3://hpa/train.csv"]
    output = [f"prepare.output={tmp_path}/shards", "prepare.num_workers=0"]

    told(2, "check", f"data.images={nobody}/train?{signed}", *keys(store))
    told(2, "--debug", "check", f"data.labels={nobody}/train.csv?{signed}", *keys(store))
    once = ["storage.max_attempts=1", "storage.timeout_s=2"]
    told(2, "prepare", f"data.images=http://me:{PASSWORD}@{website}/train?sig=x{SIGNATURE[2:]}", local[1], *output)
    told(
        2,
        "prepare",
        *local,
        f"data.extra=https://{TOKEN}@127.0.0.1:1/x?{signed}@t.csv,ftp://me:{PASSWORD}@h/",
        *output,
        *once,
    )
    told(2, "--debug", "prepare", *bucket, *keys(store)[:3], f"storage.endpoint={nobody}", *output, *once)
    told(2, "prepare", f"data.images=s3://KEY:{PASSWORD}@hpa/train", local[1], *output)
    told(2, "prepare", f"data.images=s3://hpa/train?secret={TOKEN}", local[1], *output)
    told(2, "predict", f"predict.run={nobody}/run?{signed}", local[0], f"predict.output={tmp_path}/predicted", *once)
    train = ["train", *local, *SMALL, *once, f"run.storage={tmp_path}"]
    told(2, *train, f"model.weights={nobody}/w.pth?{signed}", "run.name=a")
    told(2, *train, f"track.mlflow={nobody}/?{signed}", "run.name=b")
    told(2, *train[:-1], f"run.storage=zip://x::{nobody}/a.zip?{signed}", "run.name=c")
    with store.only_known_users():
        told(2, "--debug", "prepare", *bucket, *keys(store), *output)
        told(2, "prepare", *bucket, f"storage.endpoint={store.endpoint}", *output, *once)  # keys of the environment
    fetch = [
        f"fetch.output={tmp_path}/fetched",
        "fetch.num_workers=0",
        "fetch.max_attempts=1",
        "fetch.requests_per_s=999",
    ]
    told(
        2, "fetch", *fetch, f"fetch.labels={data.labels}", f"fetch.url=http://127.0.0.1:1/{{id}}_{{color}}.jpg?{signed}"
    )

    file = tmp_path / "my.yaml"
    for text in (f"storage:\n  secret_key: {TOKEN}: x\n", f"[storage]\nsecret_key = {TOKEN}\n", TOKEN):
        file.write_text(text)
        told(2, "check", "--config", str(file))
    file.unlink()
    told(2, "check", "storage.secret_key", KEYS["secret_key"])
    told(2, "check", f"--storage.secret_key={KEYS['secret_key']}")
    told(2, "check", f"storage.secret_ky={KEYS['secret_key']}")
    assert "can not be used" in json.loads((tmp_path / "b" / "summary.json").read_text())["reason"]
    assert (tmp_path / "fetched" / "fetch.json").exists()
    without_secrets(files_of(tmp_path))


# ---- files that hold code


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def bombs(proof: Path) -> Iterator[tuple[str, bytes]]:
    """Files that run code for who opens them without care, by the endings of their kind."""
    for old in (False, True):
        buffer = io.BytesIO()
        torch.save({"a": torch.zeros(1), "b": Bomb(proof)}, buffer, _use_new_zipfile_serialization=not old)
        yield "pt", buffer.getvalue()
    yield "pth", pickle.dumps({"state_dict": Bomb(proof)})
    yield "safetensors", pickle.dumps(Bomb(proof))
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(proof)], object), allow_pickle=True)
    yield "pth", buffer.getvalue()
    yield "npy", buffer.getvalue()


@pytest.fixture(scope="module")
def run(data: Data) -> list[str]:
    """How a run of one epoch was called, and is to be called again."""
    words = ["train", f"data.images={data.images}", f"data.labels={data.labels}", *SMALL]
    words += [f"run.storage={data.root}/runs", "run.name=good", "track.tensorboard=false"]
    done(*words)
    return words


def test_no_file_runs_code(data: Data, run: list[str], tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for number, (ending, content) in enumerate(bombs(proof)):
        file, folder = tmp_path / f"{number}.{ending}", tmp_path / f"run{number}"
        file.write_bytes(content)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        told = refused(*run[:-2], "run.name=new", f"model.weights={file}")
        told += refused("predict", f"predict.run={folder}", run[1], f"predict.output={tmp_path}/predicted")
        told += refused("evaluate", f"evaluate.run={file}", run[1], run[2])
        assert len(told) == 3, told
        (data.root / "runs" / "good" / "checkpoints" / "epoch-0001.pt").write_bytes(content)
        (line,) = refused(*run, "run.resume=true")
        assert "not a checkpoint" in line
    for text in (f"!!python/object/apply:os.mkdir [{proof}]", f"run: {{name: !!python/object/new:os.mkdir [{proof}]}}"):
        (tmp_path / "x.yaml").write_text(text)
        (line,) = refused("check", "--config", f"{tmp_path}/x.yaml")
        assert "not valid YAML" in line
        (folder / "config.yaml").write_text(text)
        (line,) = refused(*run[:-3], f"run.storage={tmp_path}", f"run.name={folder.name}", "run.resume=true")
        assert "damaged" in line
    assert not proof.exists()
    for _, content in list(bombs(proof))[:1]:
        torch.load(io.BytesIO(content), weights_only=False)
    assert proof.exists(), "without care it runs"


def test_pickled_objects_of_ray_data_are_not_made(data: Data, tmp_path: Path) -> None:
    """Where Ray Data is imported, as in a notebook, reading a value of such a column runs code."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    def column() -> pa.Array:
        pickled = pa.array([pickle.dumps(Bomb(tmp_path / "proof"))], pa.large_binary())
        return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), pickled)

    fetched = tmp_path / "fetched"
    labels, url = f"fetch.labels={data.labels}", "http://127.0.0.1:1/{id}_{color}.jpg"
    storage.write_json(f"{fetched}/fetch.json", {"format": FORMAT, **source_of(str(data.labels), url)})
    row = {"image_id": column(), "file": ["a"], "reason": ["not available (404)"]}
    storage.write_parquet(f"{fetched}/rejected.parquet", pa.table(row))
    done("fetch", f"fetch.output={fetched}", labels, f"fetch.url={url}", "--dry-run")

    shards = tmp_path / "shards"
    shutil.copytree(ARCHIVED, shards)
    replaced = read_arrow((shards / "manifest.arrow").read_bytes())
    write_manifest(shards, pa.table({"image_id": column()}))
    refused("train", f"data.shards={shards}", *SMALL, f"run.storage={tmp_path}", "run.name=x")
    assert replaced.num_rows
    assert not (tmp_path / "proof").exists()


ARCHIVED = Path(__file__).parents[1] / "data" / "shards-v2"


def write_manifest(shards: Path, table: pa.Table) -> None:
    """In place of the one of shards of version 2, whose index has no checksum of it."""
    with pa.ipc.new_file(str(shards / "manifest.arrow"), table.schema) as writer:
        writer.write_table(table)


# ---- Ids and names


@pytest.mark.parametrize("name", ["../../x", "=1+1", "a,b\nc,d", "\x1b[2J", "<script>", "x" * 1000])
def test_shards_of_others_bring_no_ids_that_are_none(name: str, tmp_path: Path) -> None:
    shutil.copytree(ARCHIVED, tmp_path / "shards")
    table = read_arrow((tmp_path / "shards" / "manifest.arrow").read_bytes())
    ids = [name, *table["image_id"].to_pylist()[1:]]
    write_manifest(tmp_path / "shards", table.set_column(0, table.schema.field(0), pa.array(ids)))
    for verb in ("duplicates", "explore", "train"):
        output = {"train": f"run.storage={tmp_path}/runs"}.get(verb, f"{verb}.output={tmp_path}/out")
        (line,) = refused(verb, f"data.shards={tmp_path}/shards", output)
        assert "holds Ids that are none" in line
    assert os.listdir(tmp_path) == ["shards"]


@pytest.mark.parametrize(
    "name", ["../x", "/x", "", "a/b", ".", "-x", "a\n", "a\0", "\x1b[2J", "<b>", "a'b", 'a"b', "é", "x" * 101]
)
def test_a_run_can_not_be_named_so(name: str, tmp_path: Path) -> None:
    words = ["train", f"run.storage={tmp_path}", "run.resume=true"]
    assert len(refused(*words, f"run.name={name}")) == 1
    assert not any(tmp_path.iterdir())


def test_long_cells_are_told_briefly(data: Data, tmp_path: Path) -> None:
    tables = {
        "labels": "Id,Target\n" + "x" * 10**6 + ",1\n" + "a," + "9" * 10**6 + "\n",
        "split": "Id,split\n" + ("x" * 10**6 + ",train\n") * 2,
        "groups": "Id,group\n" + "x" * 10**6 + "," + "y" * 10**6 + "\n" + "x" * 10**6 + "," + "z" * 10**6 + "\n",
    }
    for key, text in tables.items():
        (tmp_path / "x.csv").write_text(text)
        words = {f"data.{name}": getattr(data, name) for name in ("images", "labels")} | {
            f"data.{key}": tmp_path / "x.csv"
        }
        told = refused("train", *(f"{name}={value}" for name, value in words.items()), *SMALL)
        assert all(len(line) < 1000 for line in told), key


def test_names_of_folders_do_no_harm_on_pages_and_in_figures(data: Data, tmp_path: Path) -> None:
    """In the text of a page, in an attribute, in SVG, in the mathematics that matplotlib reads between dollars."""
    evil = tmp_path / "<img src=x onerror=alert(1)>\"'&$\\frac{$ $x^2$ =1+1 {{7*7}} \x1b[2J"
    evil.mkdir()
    images, labels = evil / "train", evil / "train.csv"
    shutil.copytree(data.images, images)
    shutil.copy(data.labels, labels)
    (images / "<script>alert(1)<.png").write_bytes(b"x")
    second = tmp_path / "second$\\frac{$<marquee>"
    shutil.copytree(data.images, second)
    shutil.copy(data.labels, second / "labels.csv")
    words = [f"data.images={images}", f"data.labels={labels}", "data.image_size=32"]
    done("check", *words, f"check.output={tmp_path}/out")
    done("duplicates", *words, f"data.extra={second}", f"duplicates.output={tmp_path}/out", "duplicates.num_workers=0")
    few = ["explore.samples_per_class=1", "explore.num_images=2", f"explore.output={tmp_path}/out"]
    done("explore", words[0], words[2], f"data.extra={second}", *few)
    pages = sorted((tmp_path / "out").glob("*.html"))
    assert [page.stem for page in pages] == ["check", "duplicates", "explore"]
    for page in pages:
        parsed = Tags(page.read_text())
        assert parsed.count["script"] == 1
        assert not parsed.count["marquee"]
        assert not any(name.startswith("on") for name in parsed.attributes)
        assert parsed.sources <= {"data:image/png", "data:image/jpeg", "data:image/svg+xml"}
    for figure in (tmp_path / "out" / "figures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(figure.read_bytes()).iter()}
        assert not tags & {"script", "img", "foreignObject", "a"}


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.count, self.attributes, self.sources = Counter[str](), set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.sources |= {(value or "").partition(";")[0] for name, value in attrs if name == "src"}


# ---- archives, pictures, answers


def zip_of(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED, links: tuple[str, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if name in links else 0o100644) << 16
            entry.compress_type = method
            file.writestr(entry, content)
    return buffer.getvalue()


def unpacked(folder: Path, archive: bytes, data: Data) -> Path:
    """What `fetch kaggle` does with a train.zip that came before."""
    folder.mkdir()
    shutil.copy(data.labels, folder)
    (folder / "train.zip").write_bytes(archive)
    return folder


def test_a_train_zip_leads_nowhere_else(data: Data, tmp_path: Path) -> None:
    planes = {path.name: path.read_bytes() for path in data.images.iterdir()}
    one = next(iter(planes))
    inner = zip_of({"a_red.png": b"x"})
    evil = {f"../{one}": b"1", f"/tmp/{one}": b"2", "../../evil": b"3", "run.sh": b"4", "inner.zip": inner}
    evil |= {"link_red.png": b"/etc/passwd", "a\\..\\b_red.png": b"5", ".._red.png": b"6", "CON": b"7"}
    archive = zip_of(evil | {f"train/{name}": content for name, content in planes.items()}, links=("link_red.png",))
    folder = unpacked(tmp_path / "hpa", archive, data)
    done("fetch", "kaggle", f"fetch.output={folder}")
    assert sorted(os.listdir(tmp_path)) == ["hpa"]
    assert sorted(os.listdir(folder)) == ["train", "train.csv"]
    assert sorted(os.listdir(folder / "train")) == sorted([*planes, "link_red.png"])
    assert (folder / "train" / one).read_bytes() == planes[one]
    assert not (folder / "train" / "link_red.png").is_symlink()


def test_a_train_zip_that_grows_or_lies_is_refused(data: Data, tmp_path: Path) -> None:
    grows = zip_of({"a_red.png": bytes(50 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert len(grows) < 2**20
    lies = bytearray(zip_of({"a_red.png": os.urandom(2**20)}))
    at = lies.rindex(b"PK\x01\x02")
    lies[at + 24 : at + 28] = (1000).to_bytes(4, "little")  # its size after unpacking
    for number, (archive, reason) in enumerate(((grows, "would grow to 50 MiB"), (bytes(lies), "damaged"))):
        folder = unpacked(tmp_path / f"hpa{number}", archive, data)
        (line,) = refused("fetch", "kaggle", f"fetch.output={folder}")
        assert reason in line
        assert not (folder / "train").exists()


def test_a_download_that_arrived_elsewhere_is_not_moved(data: Data, tmp_path: Path) -> None:
    folder, mine = tmp_path / "hpa", tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("x")
    for where in (str(mine), "../../mine"):
        (folder / "download").mkdir(parents=True, exist_ok=True)
        (folder / "download" / "arrived").write_text(where)
        with pytest.raises(InputError, match="leads out of its folder"):
            kaggle._move_up(folder)
    assert (mine / "thesis").exists()


def picture_bombs() -> dict[str, bytes]:
    """Small files that claim to be, or to hold, huge ones."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def png(side: int, pixels: bytes, *more: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

    def tiff(side: int, compression: int, strip: bytes) -> bytes:
        tags = {256: side, 257: side, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: side, 279: len(strip)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)

    zeros = zlib.compress(bytes(200 * 2**20), 1)
    small = zlib.compress(bytes(9 * 8))
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    frame = jpeg.index(b"\xff\xc0")
    return {
        "png of 100,000 px": png(100_000, zeros),
        "tiff of 100,000 px": tiff(100_000, 8, zeros),
        "tiff of 100,000 px, lzw": tiff(100_000, 5, b"\x80\0"),
        "jpeg of 65,535 px": jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :],
        "png with too many pixels": png(8, zeros),
        "png with a text": png(8, small, chunk(b"zTXt", b"a\0\0" + zeros)),
        "png with a profile": png(8, small, chunk(b"iCCP", b"a\0\0" + zeros)),
        "tiff with too many pixels": tiff(8, 8, zeros),
        "jpeg of many scans": jpeg[:-2] + jpeg[jpeg.index(b"\xff\xda") : -2] * 10_000 + jpeg[-2:],
    }


DECODE = """
import pickle, resource, sys
from hpa_ray.ingest.decode import DecodeError, decode_plane
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
files = pickle.load(sys.stdin.buffer)
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + 64 * 2**20,) * 2)
for name, content in files.items():
    try:
        decode_plane(content, "red")
        told = "a plane"
    except DecodeError as error:
        told = str(error)
    print(f"{name}: {told}")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_pictures_that_claim_to_be_huge_take_no_memory() -> None:
    """In a process that can have 64 MiB more than it has."""
    files = picture_bombs()
    command = [sys.executable, "-c", DECODE]
    done = subprocess.run(command, input=pickle.dumps(files), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    *lines, grown_mib = done.stdout.decode().splitlines()
    told = dict(line.split(": ", 1) for line in lines)
    assert told.keys() == files.keys()
    for name, text in told.items():
        assert (text == "a plane") == (name in ("png with a text", "png with a profile")), told
        assert ("more than 8192" in text) == ("px" in name)
    assert int(grown_mib) < sum(map(len, files.values())) / 2**20 + 48


class Trap(http.server.BaseHTTPRequestHandler):
    """Answers that go on, that grow, that lead elsewhere; the path says which."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        kind = self.path.partition("?")[0].strip("/").split("/")[0]
        with contextlib.suppress(OSError):
            {"endless": self.endless, "gzip": self.gzip, "longer": self.longer, "to": self.to}[kind]()
        self.close_connection = True

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def endless(self) -> None:
        self.head(200, Content_Type="image/png", Transfer_Encoding="chunked")
        while True:
            self.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    def gzip(self) -> None:
        body = GZIP
        self.head(200, Content_Type="image/png", Content_Encoding="gzip", Content_Length=str(len(body)))
        self.wfile.write(body)

    def longer(self) -> None:
        self.head(200, Content_Type="image/png", Content_Length="10")
        self.wfile.write(bytes(10**6))

    def to(self) -> None:
        self.head(302, Location=unquote(self.path.partition("?")[2].partition("&")[0]), Content_Length="0")


GZIP = gzip.compress(bytes(300 * 2**20), 9)


@pytest.fixture(scope="module")
def trap() -> Iterator[str]:
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap)) as address:
        yield address


def test_answers_of_the_web_end(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in (("gzip", "grows to more than 100 times"), ("endless", "more than 8,388,608 bytes")):
        if path == "endless":
            monkeypatch.setattr(web, "_body", partial(web._body, at_most=8 * 2**20))
        tracemalloc.start()
        try:
            with pytest.raises(OSError, match=reason):
                storage.read_bytes(f"{trap}/{path}/a.png")
            assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
        finally:
            tracemalloc.stop()
    assert storage.read_bytes(f"{trap}/longer/a.png") == bytes(10)
    assert storage.take_retries() == 0


ELSEWHERE = [
    ("file:///etc/passwd", "no web address"),
    ("ftp://127.0.0.1/a", "no web address"),
    ("//169.254.169.254/latest/meta-data/", "an inner address"),
    ("http://[fe80::1]/a", "an inner address"),
    ("http://me:canary@169.254.1.1/a?sig=canary", "an inner address"),
]


@pytest.mark.parametrize(("where", "reason"), ELSEWHERE)
def test_redirects_lead_to_no_inner_address(trap: str, where: str, reason: str) -> None:
    for use in (storage.read_bytes, storage.list_files, storage.exists, storage.open_random_access):
        with pytest.raises(OSError, match=reason) as caught:
            use(f"{trap}/to?{quote(where)}")
        assert "canary" not in str(caught.value)
    assert storage.take_retries() == 0


def test_a_redirect_in_a_circle_ends(trap: str) -> None:
    with pytest.raises(OSError, match="more than 5 times"):
        storage.read_bytes(f"{trap}/to?{quote('/to?%2Fto')}")


def test_fetch_follows_no_redirect_to_an_inner_address_and_takes_no_endless_file(
    trap: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MAX_FILE_BYTES", 2**20)
    words = [f"fetch.labels={data.labels}", "fetch.num_workers=0", "fetch.requests_per_s=999", "fetch.max_attempts=1"]
    words += ["fetch.classes=all"]
    for number, (path, reason) in enumerate(
        [(f"to?{quote(where, safe='')}&", reason) for where, reason in ELSEWHERE]
        + [("endless/", "larger than 1 MiB"), ("gzip/", "larger than 1 MiB"), ("longer/", "damaged file")]
    ):
        url = f"fetch.url={trap}/{path}{{id}}_{{color}}.png"
        told = refused("fetch", *words, url, f"fetch.output={tmp_path}/{number}")
        assert reason in told[0], told
        assert not list((tmp_path / str(number)).glob("*.png"))


def test_an_archive_of_kaggle_leads_nowhere_else(
    plays: Callable[..., Any], data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which kagglehub unpacks: both kinds that it takes, with entries that lead out and links."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_of_a_test")
    planes = {f"train/{path.name}": path.read_bytes() for path in data.images.iterdir()}
    evil = {"../../../../evil": b"1", "/evil": b"2", "train/../../../../evil": b"3", "link": b"/etc"}
    plays(zip_of(evil | planes | {"train.csv": data.labels.read_bytes()}, links=("link",)))
    assert main(["fetch", "kaggle", f"fetch.output={tmp_path}/zip/hpa"]) == 0
    assert os.listdir(tmp_path / "zip") == ["hpa"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert not Path("/evil").exists()

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        link = tarfile.TarInfo("train")
        link.type, link.linkname = tarfile.SYMTYPE, str(data.images)
        file.addfile(link)
    plays(buffer.getvalue())
    assert main(["fetch", "kaggle", f"fetch.output={tmp_path}/tar/hpa", "fetch.max_attempts=1"]) == 2
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
