"""What benchmarks/fuzz.py has found stays mended, and the program itself goes on working."""

import io
import json
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from fuzz import TARGETS
from fuzzing.png import chunks_of, png_of
from fuzzing.workers import (
    ACCEPTED,
    FIELDS,
    REFUSED,
    Block,
    Count,
    Limits,
    rng_of,
    run_all,
    run_block,
    target_of,
)

from hpa_ray.channels import STAINS
from hpa_ray.checkpoint.model_file import load_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import load_config
from hpa_ray.errors import InputError
from hpa_ray.ingest.decode import DecodeError, decode_plane
from hpa_ray.manifest import read_group_table, read_ids, read_label_table
from hpa_ray.shards import open_shards

PLACES = {name: place for name, (place, _) in TARGETS.items()}
SHARDS_2 = Path(__file__).parents[1] / "data" / "shards-v2"
INPUTS = {"config": 80, "space": 60, "names": 80, "model": 40}
"""Of the slower ones; 150 of the others."""


# ---- the program


@pytest.mark.parametrize("name", TARGETS)
def test_some_inputs_of_every_target(name: str, tmp_path: Path) -> None:
    target = target_of(name, PLACES, tmp_path / "scratch")
    state, count = [0.0] * FIELDS, INPUTS.get(name, 150)
    run_block(target, Block(name, 0, count), 7, tmp_path / "found", state)
    found = [path.read_text() for path in (tmp_path / "found").glob("*.txt")]
    assert not found, found[0]
    assert state[ACCEPTED] + state[REFUSED] == count
    assert min(state[ACCEPTED], state[REFUSED]) > count / 20  # neither all good nor all bad


@pytest.mark.parametrize("name", TARGETS)
def test_a_seed_gives_the_same_inputs(name: str, tmp_path: Path) -> None:
    one, other = (target_of(name, PLACES, tmp_path / place) for place in ("one", "other"))
    cases = [one.make(rng_of(0, name, number)) for number in range(20)]
    assert [other.make(rng_of(0, name, number)) for number in range(20)] == cases
    assert len(set(map(str, cases))) > 10
    assert [one.make(rng_of(1, name, number)) for number in range(20)] != cases


TOY = """
import ctypes, time
from fuzzing.case import Case, Target, Wrong
from hpa_ray.errors import InputError

class Toy(Target):
    def make(self, rng):
        return Case(rng.randbytes(9))

    def run(self, case):
        self.number = getattr(self, "number", -1) + 1

class Bad(Toy):
    def make(self, rng):
        return Case(b"content", (str(rng.randrange(10**9)),))

    def run(self, case):
        what = NUMBERS[case.words[0]]
        if what == 1:
            raise InputError("no")
        if what == 2:
            raise InputError("a\\nb")
        if what == 3:
            raise Wrong("accepted")
        if what == 4:
            raise KeyError("x")
        if what == 5:
            bytearray(2**34)
        if what == 6:
            ctypes.string_at(0)
        if what == 7:
            time.sleep(60)

from fuzzing.workers import rng_of
NUMBERS = {str(rng_of(0, "bad", k).randrange(10**9)): k for k in range(9)}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is one of Linux")
def test_processes_that_die_or_hang_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_target.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    counts: dict[str, Count] = {}
    for name, count in run_all(
        [Block("bad", 0, 9), Block("toy", 0, 50)],
        {"bad": "toy_target:Bad", "toy": "toy_target:Toy"},
        seed=0,
        processes=2,
        place=tmp_path / "scratch",
        findings=tmp_path / "found",
        limits=Limits(seconds=1.5),
    ):
        counts[name] = counts.get(name, Count()) + count
    assert counts["toy"][:3] == (50, 0, 0)
    assert counts["bad"][:3] == (2, 1, 6)  # accepted are numbers 0 and 8, refused is 1
    told = {path.stem: path.read_text() for path in (tmp_path / "found").glob("*.txt")}
    assert sorted(told) == [f"bad-{number}" for number in range(2, 8)]
    reasons = [
        "'a\\nb'",
        "Wrong: accepted",
        "KeyError",
        "MemoryError",
        "died with exit code -11",
        "took more than 1.5 s",
    ]
    for text, reason in zip(map(told.__getitem__, sorted(told)), reasons, strict=True):
        assert reason in text
    assert "in run" in told["bad-6"]  # where it was
    assert (tmp_path / "found" / "bad-7.bin").read_bytes() == b"content"


# ---- what was found


def reason_of(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    for line in caught.value.problems:
        assert line.isprintable()
        assert len(line) < 1000
    return str(caught.value)


def test_words_are_told_in_one_printable_line() -> None:
    for word in ("a\x1b[2J", "a\nb=1", "\u2028", "x" * 10**5, "train.\x07=1", "data.split\ud800"):
        reason_of(load_config, [word])


def test_cells_are_told_in_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"Id,Target\na,{'9' * 5000}\n")
    (problem,) = read_label_table(str(path)).problems  # Python refuses to make a number of so many digits
    assert problem.endswith("is no class number (0 to 27)")
    assert len(problem) < 1000
    path.write_text(f"Id,group\n{'x' * 70_000},1\n{'x' * 70_000},2\n")
    assert "is in a second group" in reason_of(read_group_table, str(path))
    path.write_text(f"Id\n{chr(7) * 70_000}\n")
    assert "letters, digits" in reason_of(read_ids, str(path))
    path.write_text("Id,Target\na\x1b[2J\n")
    assert "not a csv file" in reason_of(read_label_table, str(path))


def small_png() -> list[tuple[bytes, bytes]]:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    return chunks_of(buffer.getvalue())


def test_the_checksum_of_the_stream_of_a_png_is_looked_at_wherever_it_lies() -> None:
    header, (_, stream), end = small_png()
    wrong = stream[:-1] + bytes([stream[-1] ^ 1])
    for parts in ([wrong], [stream[:-4], wrong[-4:]], [stream[:-4], stream], [stream[:-4]], [stream[:-9]]):
        with pytest.raises(DecodeError, match=r"damaged PNG|truncated PNG"):
            decode_plane(png_of([header, *((b"IDAT", part) for part in parts), end]), "green")
    long = zlib.compress(zlib.decompress(stream) + bytes(9))
    with pytest.raises(DecodeError, match="does not end where it should"):
        decode_plane(png_of([header, (b"IDAT", long), end]), "green")
    for parts in ([stream[:-4], stream[-4:]], [stream[:1], stream[1:]], [stream, b"", b"more"]):
        pixels = decode_plane(png_of([header, *((b"IDAT", part) for part in parts), end]), "green").pixels
        assert pixels.tobytes() == bytes(range(64))


def test_a_tiff_that_says_two_things_is_refused() -> None:
    pixels = bytes(range(64))

    def tiff(*more: tuple[int, int, int]) -> bytes:
        tags = [(256, 8), (257, 8), (258, 8), (262, 1), (273, 8), (279, 64)]
        entries = sorted([(tag, 1, value) for tag, value in tags] + list(more))
        directory = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in entries)
        return b"II*\0" + struct.pack("<I", 72) + pixels + struct.pack("<H", len(entries)) + directory + bytes(4)

    assert decode_plane(tiff(), "red").pixels.tobytes() == pixels
    with pytest.raises(DecodeError, match=r"damaged TIFF \(tag 256\)"):
        decode_plane(tiff((256, 1, 4)), "red")
    with pytest.raises(DecodeError, match="both strips and tiles"):
        decode_plane(tiff((322, 1, 16), (323, 1, 16), (324, 1, 8), (325, 1, 64)), "red")


@pytest.mark.parametrize(("column", "value"), [("labels", [[28]] * 7), ("labels", [[-1]] * 7), ("source", [2] * 7)])
def test_a_manifest_of_an_earlier_version_with_numbers_that_are_none(column: str, value: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHARDS_2, tmp_path / "copy"))
    table = pa.ipc.open_file((folder / "manifest.arrow").read_bytes()).read_all()
    place = table.schema.get_field_index(column)
    table = table.set_column(place, table.schema.field(place), pa.array(value, table.schema.field(place).type))
    with pa.OSFile(str(folder / "manifest.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert "holds labels or sources that are none" in reason_of(open_shards, str(folder), STAINS)


def test_an_index_of_nothing_but_brackets_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHARDS_2, tmp_path / "copy"))
    (folder / "index.json").write_text("[" * 100_000)
    assert "not an index of this version" in reason_of(open_shards, str(folder), STAINS)


def test_an_index_of_any_number_of_rows_is_refused_at_once(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHARDS_2, tmp_path / "copy"))
    index = json.loads((folder / "index.json").read_text())
    for rows in (2**40, 2**63, 10**30):
        index["shards"][0]["rows"] = index["num_images"] = index["sources"][0]["num_images"] = rows
        (folder / "index.json").write_text(json.dumps(index))
        assert "contradict each other" in reason_of(open_shards, str(folder), STAINS)


def test_a_checkpoint_in_which_torch_sees_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    """One bit of the directory of the archive; torch then gave a tensor of whatever was in the memory."""
    folder, weights = RunFolder(str(tmp_path)), torch.arange(35.0)
    folder.save_checkpoint(1, {"w": weights})
    (path,) = (tmp_path / "checkpoints").iterdir()
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    while content[entry + 46 :].startswith(b"archive/data.pkl") or b"/data/0" not in content[entry + 46 : entry + 70]:
        entry = content.index(b"PK\1\2", entry + 1)
    content[entry + 38] ^= 0x10
    path.write_bytes(content)
    state = folder.load_checkpoint()
    assert state is not None
    assert torch.equal(state["w"], weights)


def test_names_in_a_checkpoint_or_model_are_told_in_one_printable_line(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.save_checkpoint(1, {"w": torch.zeros(1)})
    (path,) = (tmp_path / "checkpoints").iterdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("\x1b[2J", b"x")
    assert "not a checkpoint" in reason_of(folder.load_checkpoint)
    header = json.dumps({"w": {"dtype": "\x1b[2J", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "not a model file" in reason_of(load_model, str(tmp_path))
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors", {"hpa_ray": "[" * 100_000})
    assert "not a model file" in reason_of(load_model, str(tmp_path))
