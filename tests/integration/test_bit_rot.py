"""One byte of a stored file is another one than was written: the file is named, or what is read is the same.

What says it: shards, their checksums and their manifest, by SHA-256 or CRC-32 in the index; the index, and the notes
of a `prepare` under way, by a checksum of their own; checkpoints by the CRC-32 of each entry of the archive; models by
SHA-256 in their card; PNGs by the CRC-32 of each chunk, deflated TIFFs by the Adler-32 of each strip.

What has no checksum: csv, YAML and JSON Lines, which are text that users write and edit; JPEG and other TIFFs; shards
and models of earlier versions. What may change without a difference: of a shard all but the pixels, as nothing else is
read; the unused fields in the archive of a checkpoint; in JSON the blanks, and digits beyond what a number can hold.
Predictions and lists of rejected images are read by no verb but `fetch`, which asks again for what it does not find.
"""

import io
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_data import ADVICE, Data, done, first_images, prepared, refused

from hpa_ray.channels import STAINS
from hpa_ray.checkpoint.model_file import ModelCard, load_model, save_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import DataConfig, ModelConfig
from hpa_ray.errors import InputError
from hpa_ray.ingest import prepare
from hpa_ray.ingest.decode import DecodeError, decode_plane
from hpa_ray.ingest.notes import finished_parts
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import open_images
from hpa_ray.model import build_model
from hpa_ray.shards import open_shards, read_index, reader

SHARDS_3 = Path(__file__).parents[1] / "data" / "shards-v3"
SIDE = 32


@pytest.fixture(scope="module")
def shards(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change them."""
    return prepared(atlas, tmp_path_factory.mktemp("whole") / "shards")


def small_training(root: Path) -> list[str]:
    words = [
        "train.num_workers=0",
        "model.name=mlp6",
        "train.epochs=1",
        "optim.warmup_epochs=0",
        "split.parts=40/10/10",
    ]
    return [*words, "run.name=run", f"run.storage={root}/runs"]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one finished epoch. Do not change it."""
    root = tmp_path_factory.mktemp("trained")
    done("train", f"data.shards={shards}", *small_training(root))
    return root / "runs" / "run"


def rotten(content: bytes, positions: Iterable[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """The content with another byte at each of the positions, of all if none are named."""
    rng = np.random.default_rng(len(content))
    for position in range(len(content)) if positions is None else positions:
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        yield position, bytes(damaged)


def some(first: int, stop: int, count: int) -> list[int]:
    return sorted(np.random.default_rng(first).choice(np.arange(first, stop), count, replace=False).tolist())


def mistake(read: Callable[[], object]) -> str | None:
    """What is told when a file is read, None if it is taken."""
    try:
        read()
    except InputError as error:
        (problem,) = error.problems
        return problem
    return None


# ---- shards


def everything_in(folder: Path) -> tuple[Any, ...]:
    """All that a verb takes from a shard folder."""
    reader._open_shard.cache_clear()  # what is mapped, and has been verified, is not looked at again
    reader._checksums.cache_clear()
    source, table = open_shards(str(folder), STAINS)
    return source.index, table, source.read(np.arange(table.num_rows)).pixels_BCSS.tobytes()


@pytest.mark.parametrize("name", ["index.json", "manifest.arrow", "checksums.arrow", "shard-00000.arrow"])
def test_every_byte_of_a_shard_folder(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHARDS_3, tmp_path / "copy"))
    written, content = everything_in(folder), (folder / name).read_bytes()
    read: list[Any] = []
    harmless = set()
    for position, damaged in rotten(content):
        (folder / name).unlink()
        (folder / name).write_bytes(damaged)
        told = mistake(lambda: read.append(everything_in(folder)))
        if told is None:
            assert read.pop() == written
            harmless.add(position)
        else:
            assert told.startswith(f"{folder}/{name}: ")
    if name.startswith("shard"):
        (entry,) = read_index(str(SHARDS_3)).shards
        pixels = range(entry.offsets[0], entry.offsets[0] + 7 * 4 * 8 * 8)  # seven images of four stains
        assert harmless == set(range(len(content))) - set(pixels)
    elif name == "index.json":
        solid = [position for position in harmless if not chr(content[position]).isspace()]
        assert len(solid) < len(content) / 100
    else:
        assert not harmless


def words_of(verb: str, root: Path, run: Path, shards: Path) -> tuple[str, ...]:
    more = {
        "train": small_training(root),
        "duplicates": [f"duplicates.output={root}/doubles", "duplicates.num_workers=0"],
        "predict": [f"predict.run={run}", f"predict.output={root}/predicted"],
        "evaluate": [f"evaluate.run={run}", f"evaluate.output={root}/evaluated", "evaluate.part=all"],
    }
    return (verb, f"data.shards={shards}", *more[verb])


@pytest.mark.parametrize("verb", ["train", "duplicates", "predict", "evaluate"])
@pytest.mark.parametrize("name", ["index.json", "manifest.arrow", "checksums.arrow", "shard-00000.arrow"])
def test_a_verb_names_the_damaged_file_of_a_shard_folder(
    verb: str, name: str, shards: Path, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    index, content = read_index(str(shards)), (copy / name).read_bytes()
    first, stop = 0, len(content)
    if name.startswith("shard"):
        first = index.shards[0].offsets[0]
        stop = first + index.num_images * len(STAINS) * SIDE**2
    for position, damaged in rotten(content, some(first, stop, 2)):
        (copy / name).write_bytes(damaged)
        again = Path(shutil.copytree(copy, tmp_path / f"again-{position}"))
        (told,) = refused(*words_of(verb, tmp_path, run, again))
        assert told.startswith(f"{again}/{name}: ")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_notes_of_a_prepare_that_was_stopped(atlas: Path, tmp_path: Path) -> None:
    """A damaged note is no note: its shard is written again."""
    manifest = open_images(DataConfig(images=f"{atlas}/train", labels=f"{atlas}/train.csv"))
    output = str(tmp_path / "out")

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(manifest, output=output, channels=STAINS, sizes={8: output}, num_workers=0, on_progress=stop)
    (note,) = (tmp_path / "out" / "parts").iterdir()
    written, content = finished_parts(output, {8: output}, range(1)), note.read_bytes()
    assert list(written) == [0]
    blanks = 0
    for position, damaged in rotten(content):
        note.write_bytes(damaged)
        found = finished_parts(output, {8: output}, range(1))
        assert found == written or not found
        blanks += bool(found)
        assert not found or chr(content[position]).isspace()
    assert blanks < len(content) / 20


# ---- checkpoints


def test_every_byte_of_a_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    state = {"epoch": 1, "w": torch.arange(12.0), "n": torch.arange(3), "lr": [0.1, None], "text": "x"}
    folder.save_checkpoint(1, state)
    (path,) = (tmp_path / "checkpoints").iterdir()
    content, found = path.read_bytes(), set()
    read: list[Any] = []
    for position, damaged in rotten(content):
        path.write_bytes(damaged)
        told = mistake(lambda: read.append(folder.load_checkpoint()))
        if told is None:
            assert repr(read.pop()) == repr(state)  # tensors this small are shown whole
        else:
            assert told.startswith(f"{path}: not a checkpoint (")
            found.add(position)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            start = content.index(archive.read(entry), entry.header_offset + 30 + len(entry.filename))
            assert found >= set(range(start, start + entry.file_size)), entry.filename


def test_a_run_that_goes_on_names_a_damaged_checkpoint(run: Path, shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "runs" / "run"))
    (checkpoint,) = (copy / "checkpoints").iterdir()
    content = checkpoint.read_bytes()
    for _, damaged in rotten(content, some(len(content) // 4, len(content) // 2, 3)):  # in the weights
        checkpoint.write_bytes(damaged)
        (told,) = refused("train", f"data.shards={shards}", *small_training(tmp_path), "run.resume=true")
        assert told.startswith(f"{checkpoint}: not a checkpoint (")
        assert told.endswith("delete it to go on from the one before")


# ---- models


def test_every_byte_of_the_header_of_a_model_and_some_of_its_weights(tmp_path: Path) -> None:
    cfg = ModelConfig(name="mlp6")
    settings: dict[str, Any] = {"channels": ("green",), "image_size": 8}
    model = build_model(cfg, **settings, mean=[0.1], std=[0.2], num_classes=NUM_CLASSES, seed=0)
    thresholds = tuple(k / NUM_CLASSES for k in range(NUM_CLASSES))
    card = ModelCard(**settings, model=cfg, run="run", epoch=3, thresholds=thresholds, config="model: {name: mlp6}\n")
    path = tmp_path / "model.safetensors"
    save_model(str(path), model, card)
    state, content = model.state_dict(), path.read_bytes()
    read: list[Any] = []
    harmless = []
    start = 8 + int.from_bytes(content[:8], "little")
    for position, damaged in rotten(content, [*range(start), *some(start, len(content), 200)]):
        path.write_bytes(damaged)
        told = mistake(lambda: read.append(load_model(str(path))))
        if told is not None:
            assert told.startswith(f"{path}: ")
            continue
        shipped = read.pop()
        assert shipped.card == card
        assert all(torch.equal(tensor, state[name]) for name, tensor in shipped.model.state_dict().items())
        harmless.append(position)
    assert len(harmless) < start / 100
    assert max(harmless, default=0) < start


def test_a_verb_names_a_damaged_model(run: Path, shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copied"))
    path = copy / "model.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    words_of_card = [content.index(word) for word in (b"thresholds", b"sample_fraction", b"F32")]
    for position, damaged in rotten(content, [*some(start, len(content), 2), *words_of_card]):
        path.write_bytes(damaged)
        for verb in ("predict", "evaluate"):
            (told,) = refused(*words_of(verb, tmp_path, copy, shards))
            assert told.startswith(f"{path}: "), position
        words = (*words_of("train", tmp_path, copy, shards), f"model.weights={path}", "run.name=finer")
        (told,) = refused(*words)
        assert told.startswith(f"model.weights = {path}: not a file of weights ("), position


# ---- images


def test_every_byte_of_a_png(atlas: Path) -> None:
    path = min((atlas / "train").glob("*_green.png"), key=lambda file: file.stat().st_size)
    content = path.read_bytes()
    for _, damaged in rotten(content):
        with pytest.raises(DecodeError):
            decode_plane(damaged, "green")
    followed = decode_plane(content + b"what follows is no part of it", "green")
    assert np.array_equal(followed.pixels, decode_plane(content, "green").pixels)


@pytest.mark.parametrize("verb", ["check", "duplicates", "prepare", "train", "predict"])
def test_a_verb_names_a_damaged_png(verb: str, atlas: Path, run: Path, tmp_path: Path) -> None:
    data: Data = first_images(atlas, tmp_path, 12, run)
    path = data.images / f"{data.ids[5]}_blue.png"
    content = path.read_bytes()
    for _, damaged in rotten(content, some(0, len(content), 2)):
        path.write_bytes(damaged)
        if verb == "check":
            (told,) = [line for line in done(*data.command(verb)) if line.startswith("problem ")]
            assert told.startswith(f"problem  {path}: ")
            continue
        told, advice = refused(*data.command(verb))
        assert told.startswith(f"{path}: ")
        assert advice.endswith(f" images can not be used: {ADVICE}")
