"""Places that are none, can not be written to or reached, are named twice, or are too small for what shall go there."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import disks
import pytest
from bad_data import ADVICE, CELL, FUZZ, NO_IMAGES, Data, call, done, files_below, first_images, refused, training
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def data(atlas: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 12)


@pytest.fixture
def whole(atlas: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 60)


@pytest.mark.parametrize("value", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have(value: str, tmp_path: Path) -> None:
    for key in ("images", "labels", "shards", "split", "groups"):
        told = refused("check", "data.images=x", f"data.{key}={value}")
        assert told == [f"data.{key} = {value!r} - no file can have this name"]
    for verb in ("prepare", "explore", "duplicates"):
        told = refused(verb, "data.images=x", "data.labels=y", f"{verb}.output={value}")
        assert told == [f"{verb}.output = {value!r} - no file can have this name"]


def test_a_place_that_can_not_be_written_to(data: Data) -> None:
    (data.root / "file").touch()
    for verb in ("check", "explore", "duplicates"):
        words = data.command(verb, f"{verb}.output={data.root}/file/x")
        assert refused(*words) == [f"{data.root}/file/x: Not a directory - mend it or name another place"]
    for words in ([], ["--dry-run"]):
        told = refused(*data.command("prepare"), f"prepare.output={data.root}/file/x", *words)
        assert told == [f"prepare.output = {data.root}/file/x: is a file - give a folder"]
    told = refused(*data.command("prepare"), f"prepare.output={data.root}/file")
    assert told == [f"prepare.output = {data.root}/file: is a file - give a folder"]
    told = refused(*data.command("train"), f"run.storage={data.root}/file")
    assert told == [f"{data.root}/file/run: Not a directory - mend it or name another place"]
    assert (data.root / "file").read_bytes() == b""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.images=s3://"], "s3://: names no bucket - write s3://BUCKET/FOLDER"),
        (["data.images=nowhere://x/y"], "nowhere://x/y: no access to nowhere:// addresses ("),
        (
            ["data.images=s3://b/x", "storage.endpoint=localhost"],
            "storage.endpoint = localhost: begins with neither http:// nor https:// - write http://HOST:PORT",
        ),
        (
            ["data.images=s3://b/x", "storage.endpoint=http://127.0.0.1:9"],
            "data.images = s3://b/x: can not be listed ([Errno 5] no connection (Connection refused) - given up after "
            "1 attempt: 's3://b/x')",
        ),
        (["data.images=http://127.0.0.1:9/x"], "data.images = http://127.0.0.1:9/x: can not be listed ("),
    ],
)
def test_stores_that_can_not_be_reached(words: list[str], told: str, tmp_path: Path) -> None:
    keys = ("storage.max_attempts=1", "storage.access_key=open", "storage.secret_key=sesame")
    (line,) = refused("check", *words, *keys)
    assert line.startswith(told)
    assert "sesame" not in line


# ---- further sources of images


@pytest.fixture
def extra(data: Data, atlas: Path) -> Path:
    """Eight images with a labels.csv beside them, of which the first source has five."""
    folder = data.root / "extra"
    shutil.copytree(data.images, folder)
    rows = data.labels.read_text().splitlines()
    for row in rows[9:]:
        for path in folder.glob(f"{row.split(',')[0]}_*.png"):
            path.unlink()
    (folder / "labels.csv").write_text("\n".join(rows[:9]) + "\n")
    for row in rows[6:9]:
        for path in data.images.glob(f"{row.split(',')[0]}_*.png"):
            path.unlink()
    data.labels.write_text("\n".join(rows[:6] + rows[9:]) + "\n")
    return folder


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("EXTRA,EXTRA", "data.extra: EXTRA is named more than once - name each source once"),
        ("EXTRA,EXTRA/../extra/", "data.extra: EXTRA is named more than once - name each source once"),
        ("EXTRA,EXTRA@LABELS", "data.extra: EXTRA is named more than once - name each source once"),
        ("IMAGES@LABELS", "data.extra: IMAGES is named more than once - name each source once"),
        ("IMAGES/nowhere", "data.extra = IMAGES/nowhere: no such folder"),
        ("EXTRA/../bare", "data.extra = BARE: no labels.csv in it - write its table there (Id,Target), or name it"),
        ("EXTRA@BARE/other.csv", "BARE/other.csv: no such file"),
        ("EXTRA@LABELS,BARE", "data.extra = BARE: no labels.csv in it - write its table there (Id,Target), or name it"),
        ("IMAGES/nowhere@LABELS", "data.extra = IMAGES/nowhere: no such folder"),
        ("BARE@LABELS", f"data.extra = BARE: {NO_IMAGES}; it holds no files"),
        ("LABELS@LABELS", "data.extra = LABELS: is a file - give the folder that holds the images"),
    ],
)
def test_further_sources_that_are_none(word: str, told: str, data: Data, extra: Path) -> None:
    (data.root / "bare").mkdir()
    names = {"EXTRA": extra, "IMAGES": data.images, "LABELS": data.labels, "BARE": data.root / "bare"}
    for name, place in names.items():
        word, told = word.replace(name, str(place)), told.replace(name, str(place))
    before = files_below(data.root)
    for verb in ("check", "explore", "duplicates", "split", "prepare", "train"):
        (line,) = refused(*data.command(verb, f"data.extra={word}"))
        assert line.startswith(told)
    assert files_below(data.root) == before


def test_a_bad_file_or_row_of_a_further_source_is_named_in_full(data: Data, extra: Path) -> None:
    last = (extra / "labels.csv").read_text().splitlines()[-1].split(",")[0]
    path = extra / f"{last}_green.png"
    good = path.read_bytes()
    words = (f"data.extra={extra}",)
    path.write_bytes(good[:-20])
    assert any(line.startswith(f"problem  {path}: truncated PNG (") for line in done(*data.command("check", *words)))
    line, advice = refused(*data.command("prepare", *words))
    assert line.startswith(f"{path}: truncated PNG (")
    assert advice == f"1 of 12 images can not be used: {ADVICE}"
    path.write_bytes(good)
    labels = (extra / "labels.csv").read_text()
    (extra / "labels.csv").write_text(f"{labels}x,99\n")
    told = [f"{extra}/labels.csv: line 10: Target '99' of 'x': '99' is no class number (0 to 27)"]
    for verb in ("duplicates", "split", "prepare", "train"):
        assert refused(*data.command(verb, *words)) == told
    assert data.unfinished()
    (extra / "labels.csv").write_text(labels)
    said = done(*data.command("prepare", *words))
    assert said[0].startswith("note: 5 images are in more than one source and come in once, from the first; ")
    assert data.index()["num_images"] == 12


@pytest.mark.parametrize("words", [["check", "data.labels=LABELS"], ["train"]])
def test_further_sources_without_a_first_one(
    words: list[str], data: Data, extra: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn or prepared in the home folder, where a later run would find it."""
    monkeypatch.setenv("HPA_RAY_HOME", str(data.root / "home"))
    small = ["synth.num_images=2", "synth.image_size=32", "synth.num_workers=1", *training(data.root)]
    words = [word.replace("LABELS", str(data.labels)) for word in words]
    (told,) = refused(*words, f"data.extra={extra}", *small)
    assert "data.images" in told
    assert not (data.root / "home").exists()


@FUZZ
@given(
    st.lists(st.builds("data.{}={}".format, st.sampled_from(["images", "labels", "channels", "shards", "extra"]), CELL))
)
def test_any_places(data: Data, words: list[str]) -> None:
    with contextlib.chdir(data.root):
        # with no place left it is the synthetic atlas that is checked
        assert call(*data.command("check", *words), "synth.num_images=2", "synth.image_size=32")[0] in (0, 2)


# ---- the machine is too small


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(disks.small_disk(tmp_path / "disk", 2**21))
        except OSError as error:
            pytest.skip(f"a small disk can not be mounted here ({error}); it takes Linux and root")
        yield disk


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded(data: Data, small_disk: Path) -> None:
    output = small_disk / "shards"
    words = data.command("prepare", f"prepare.output={output}", "data.image_size=256")
    assert any(line.startswith("disk: ") and line.endswith(" - NOT ENOUGH") for line in done(*words, "--dry-run"))
    assert not output.exists()
    assert refused(*words) == [
        f"prepare.output = {output}: the shards need 3 MiB, the disk has 2 MiB free - "
        "free some, choose another folder or a smaller data.image_size"
    ]
    assert [path.name for path in output.rglob("*") if path.suffix != ".json"] == []
    assert not (output / "index.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    done(*words)


def test_a_disk_that_fills_up_on_the_way(whole: Data, small_disk: Path) -> None:
    """Space for the pixels, as was estimated, but not for a byte more: the last shard finds the disk full."""
    for name, (number, path) in itertools.product(("b", "c"), enumerate(sorted(whole.images.glob("*.png")))):
        os.link(path, whole.images / f"{name}{path.name}")
        if number % 4 == 0:
            with whole.labels.open("a") as file:
                file.write(f"{name}{path.name.rsplit('_', 1)[0]},1\n")
    output = small_disk / "shards"
    words = whole.command("prepare", f"prepare.output={output}")
    num_bytes = 180 * 4 * 32 * 32
    page = os.sysconf("SC_PAGE_SIZE")
    free = shutil.disk_usage(small_disk).free
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free - num_bytes - page))  # a page for the plan, which comes first
    assert refused(*words) == [
        f"prepare.output = {output}: no space left on the disk - free some and run the same command again, "
        "it goes on where it was"
    ]
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.arrow")}
    assert 0 < len(finished) < 3
    assert not (output / "index.json").exists()
    assert not list(output.rglob("*.tmp"))
    assert refused("train", f"data.shards={output}", *training(whole.root))[0].startswith(
        f"data.shards = {output}: no index.json"
    )
    assert refused(*words)[0].startswith(f"prepare.output = {output}: ")  # still full

    filler.unlink()
    noted = {path.stem for path in (output / "parts").glob("*.json")}
    done(*words)
    index = json.loads((output / "index.json").read_text())
    assert index["num_images"] == 180
    assert len(index["shards"]) == 3
    assert noted
    assert all(path.stat().st_mtime_ns == finished[path] for path in finished if path.stem in noted)
    assert sorted(path.name for path in output.iterdir()) == sorted(
        [
            *("checksums.arrow", "index.json", "manifest.arrow", "rejected.parquet"),
            *(f"shard-0000{n}.arrow" for n in range(3)),
        ]
    )


def test_more_workers_than_cpus_are_refused_before_anything_heavy_starts(tmp_path: Path) -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("children of a process are counted in /proc, which is not here")
    code = f"""
import os, sys
from hpa_ray.cli.main import main
code = main(["train", "train.num_workers=500", "run.storage={tmp_path}/runs"])
import ray
children = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
print(code, "torch" in sys.modules, ray.is_initialized(), children)
"""
    environment = os.environ | {"RAY_ADDRESS": "local"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.stdout == "2 False False []\n"
    assert result.stderr == (
        f"hpa-ray train: train.num_workers = 500, but this machine has {len(os.sched_getaffinity(0))} CPUs: "
        "use fewer workers or a larger cluster\n"
    )
    assert not (tmp_path / "runs").exists()
