"""A prediction that is killed goes on where it was, repeats nothing, and ends bit for bit as if it had not been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bad_data import born_model, call, done, flip_a_pixel_byte, read_csv, refused

from hpa_ray.schema import EMBEDDING_ROW, PREDICTION_ROW

pytestmark = pytest.mark.usefixtures("one_thread")

COPIES, CHUNK = 4, 16
NUM_CHUNKS = 60 * COPIES // CHUNK
FILES = ("predictions.parquet", "embeddings.parquet", "submission.csv", "rejected.parquet")


@pytest.fixture(scope="module")
def words(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """240 images, one of which can not be read, that take a few seconds."""
    root = tmp_path_factory.mktemp("many")
    (root / "test").mkdir()
    for path in (atlas / "train").iterdir():
        for copy in range(COPIES):
            (root / "test" / f"{copy}{path.name}").symlink_to(path)
    broken = min((root / "test").glob("3*_blue.png"))
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(flip_a_pixel_byte(content))
    model = born_model(root)
    more = [
        "predict.batch_size=8",
        f"predict.chunk_images={CHUNK}",
        "inference.tta=dihedral",
        "predict.embeddings=true",
    ]
    return [
        f"predict.run={model}",
        f"data.images={root}/test",
        "data.on_error=quarantine",
        "inference.tta=dihedral",
        *more,
    ]


def killed_after(words: list[str], output: Path, num_parts: int) -> dict[str, tuple[int, int]]:
    """Kill the command once so many parts are there -> what there is: name -> inode, time of writing."""
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hpa_ray.cli", "predict", *words, f"predict.output={output}"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(list(output.glob("parts/*.parquet"))) < num_parts and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in output.glob("parts/*.parquet")}


def test_killed_twice(words: list[str], tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    done("predict", *words, f"predict.output={straight}")
    first = killed_after(words, stopped, 3)
    second = killed_after(words, stopped, len(first) + 3)
    assert len(first) < len(second) < NUM_CHUNKS
    assert first.items() <= second.items(), "a finished part was written again"
    assert not (stopped / "predictions.parquet").exists()

    (told,) = refused("predict", *words, f"predict.output={stopped}", "inference.tta_pool=max")
    assert "with other settings (inference.tta_pool: mean there, max here)" in told
    (told,) = refused("predict", *words, f"predict.output={stopped}", "predict.batch_size=4")
    assert "(batch_size: 8 there, 4 here)" in told

    said = done("predict", *words, f"predict.output={stopped}")
    assert f"going on: {len(second)} of {NUM_CHUNKS} chunks were predicted before" in said
    for name in FILES:
        assert (stopped / name).read_bytes() == (straight / name).read_bytes(), name
    assert sorted(path.name for path in stopped.iterdir()) == sorted(FILES)
    table = pq.read_table(straight / "predictions.parquet")
    assert table.schema.equals(PREDICTION_ROW)
    assert table.num_rows == 60 * COPIES - 1
    assert pq.read_table(straight / "embeddings.parquet").schema.equals(EMBEDDING_ROW)
    ids = table["image_id"].to_pylist()
    assert ids == sorted(ids)
    probabilities = np.array(table["probabilities"].to_pylist())
    by_picture = {name[1:]: probabilities[row] for row, name in enumerate(ids) if name[0] == "0"}
    for row, name in enumerate(ids):  # copies of a picture, in other chunks and batches
        assert np.abs(probabilities[row] - by_picture[name[1:]]).max() < 1e-6
    assert len(read_csv(straight / "submission.csv")) == 60 * COPIES


def test_a_damaged_part_is_named_and_made_anew(words: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    (name, *_) = sorted(killed_after(words, output, 2))
    part = output / "parts" / name
    part.write_bytes(part.read_bytes()[:-100])
    assert refused("predict", *words, f"predict.output={output}") == [
        f"{part}: damaged - delete it and run the same command again, it is made anew"
    ]
    part.unlink()
    code, said, _ = call("predict", *words, f"predict.output={output}")
    assert code == 0
    assert f"{60 * COPIES - 1} images predicted" in said[-1]
    (output / "parts").mkdir()
    (output / "parts" / "identity.json").write_text("{")
    (told,) = refused("predict", *words, f"predict.output={output}")
    assert told.startswith(f"{output}/parts/identity.json: damaged - delete that folder")
