"""Small commands on places that fail meanwhile, and whether all came out as if they had not: for tests and benchmarks.

    with lab(folder) as here:
        here.store.faults = Faults(slow_down=0.2, seed=1)
        ended = here.call("train", *here.training("s3://hpa/runs", "one"))
        assert ended.code == 0 and here.difference("s3://hpa/runs/one") is None and here.lost() == 0

The data is 24 synthetic images of 32 px, on the disk and in a bucket, as files and as shards.
"""

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from object_store import ACCESS_KEY, REGION, SECRET_KEY, Faults, ObjectStore, object_store

from hpa_ray import storage
from hpa_ray.cli.main import main
from hpa_ray.synth import draw_label_sets, write_atlas

BUCKET = "hpa"
NUM_IMAGES = 24
EPOCHS = 3
TRAINING = [
    *("model.name=shufflenet_v2_x0_5", f"train.epochs={EPOCHS}", "train.batch_size=4", "split.parts=16/8"),
    *("train.num_workers=0", "train.prefetch_batches=2", "track.tensorboard=false", "optim.warmup_epochs=0"),
]
TIMES = ("wall_s", "images_per_s", "data_wait_pct", "first_batch_s", "storage_retries")


class Ended(NamedTuple):
    """A command that is over."""

    code: int
    result: dict[str, Any]
    told: list[str]
    """Lines of stderr."""
    seconds: float


@dataclass
class Seen:
    """Rows of the batches that a training took, by what they are for and their epoch and step."""

    rows: dict[tuple[str, int, int], list[int]] = field(default_factory=dict)

    def wrong(self, num_train: int, num_val: int, epochs: int) -> int:
        """Samples that an epoch did not have, or had twice."""
        wrong = 0
        for kind, count in (("train", num_train), ("val", num_val)):
            for epoch in range(epochs):
                taken = [row for (k, e, _), rows in self.rows.items() if (k, e) == (kind, epoch) for row in rows]
                wrong += count - len(set(taken)) + len(taken) - len(set(taken))
        return wrong


class Lab:
    def __init__(self, root: Path, store: ObjectStore) -> None:
        self.root, self.store = root, store
        self.seen = Seen()

    def keys(self, *words: str) -> list[str]:
        """How to get to the bucket, through the proxy that injects faults; impatient."""
        return [
            *(f"storage.endpoint={self.store.proxy_endpoint}", f"storage.access_key={ACCESS_KEY}"),
            *(f"storage.secret_key={SECRET_KEY}", f"storage.region={REGION}", "storage.timeout_s=1"),
            *words,
        ]

    def training(self, runs: str, name: str, data: str | None = None) -> list[str]:
        data = data or (f"s3://{BUCKET}/shards" if runs.startswith("s3") else f"{self.root}/shards")
        return [f"data.shards={data}", *TRAINING, f"run.storage={runs}", f"run.name={name}", *self.keys()]

    def preparing(self, output: str) -> list[str]:
        images = [f"data.images=s3://{BUCKET}/train", f"data.labels=s3://{BUCKET}/train.csv", "data.image_size=32"]
        return [*images, f"prepare.output={output}", "prepare.num_workers=0", *self.keys()]

    def predicting(self, output: str) -> list[str]:
        images = [f"data.images=s3://{BUCKET}/train", f"predict.run=s3://{BUCKET}/runs/undisturbed"]
        return [*images, f"predict.output={output}", "predict.num_workers=0", *self.keys()]

    def call(self, verb: str, *words: str) -> Ended:
        """Run a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        start = time.monotonic()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _made_small(), _noted(self.seen):
            code = main([verb, *words], json_line=True)
        seconds = time.monotonic() - start
        result = json.loads(out.getvalue().splitlines()[-1]) if code == 0 else {}
        storage.take_retries()
        return Ended(code, result, err.getvalue().splitlines(), seconds)

    def lost(self) -> int:
        """Samples that an epoch of the trainings since the last call had not, or twice."""
        seen, self.seen = self.seen, Seen()
        return seen.wrong(16, 8, EPOCHS)

    def difference(self, run: str) -> str | None:
        """What a run has other than one that nothing has disturbed: a value of metrics.jsonl, a prediction, a file."""
        expected = f"{self.root}/runs/undisturbed"
        ours, theirs = metrics(run), metrics(expected)
        if len(ours) != len(theirs):
            return f"{len(ours)} epochs instead of {len(theirs)}"
        for line, other in zip(ours, theirs, strict=True):
            for name in (line.keys() | other.keys()) - set(TIMES):
                if line.get(name) != other.get(name):
                    return f"{name} of epoch {line['epoch']}: {line.get(name)} instead of {other.get(name)}"
        for name in ("predictions_val.parquet", "per_class.csv"):
            if name == "per_class.csv" and storage.read_bytes(f"{run}/{name}") != storage.read_bytes(
                f"{expected}/{name}"
            ):
                return f"another {name}"
        missing = storage.list_files(expected).keys() - storage.list_files(run).keys()
        return f"no {min(missing)}" if missing else None

    def reach(self) -> None:
        """From here on this process, too, reaches the bucket; without faults."""
        self.store.faults = Faults()
        storage.configure(
            storage.Settings(endpoint=self.store.endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION)
        )


@contextlib.contextmanager
def lab(root: Path) -> Iterator[Lab]:
    """A store with the data, and an undisturbed run on the disk to compare with."""
    write_atlas(root, draw_label_sets(NUM_IMAGES, seed=3), image_size=32, seed=3, num_workers=1)
    with object_store() as store:
        store.create_bucket(BUCKET)
        store.put(BUCKET, "train.csv", (root / "train.csv").read_bytes())
        for path in (root / "train").iterdir():
            store.put(BUCKET, f"train/{path.name}", path.read_bytes())
        here = Lab(root, store)
        local = [f"data.images={root}/train", f"data.labels={root}/train.csv", "data.image_size=32"]
        assert here.call("prepare", *local, f"prepare.output={root}/shards", "prepare.num_workers=0").code == 0
        for path in (root / "shards").iterdir():
            store.put(BUCKET, f"shards/{path.name}", path.read_bytes())
        assert here.call("train", *here.training(f"{root}/runs", "undisturbed")).code == 0
        for path in (root / "runs" / "undisturbed").glob("model*"):
            store.put(BUCKET, f"runs/undisturbed/{path.name}", path.read_bytes())
        assert here.lost() == 0
        try:
            yield here
        finally:
            storage.configure(storage.Settings())
            storage.take_retries()


def metrics(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read_bytes(f"{run}/metrics.jsonl").decode().splitlines()]


@contextlib.contextmanager
def once(happened: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """While the block runs, a thread waits for something to happen, and then acts."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            if happened():
                act()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _made_small() -> Iterator[None]:
    """Without figures and further threads, which would take most of the time of so small a run."""
    from hpa_ray import cluster, figures
    from hpa_ray.train import host

    with contextlib.ExitStack() as stack:
        for name in ("augmented", "curves", "layers_figure", "figure_png"):
            stack.enter_context(mock.patch.object(figures, name, return_value=b"no figure"))
        for module in (cluster, host):
            stack.enter_context(mock.patch.object(module, "available_cpus", return_value=1))
        yield


@contextlib.contextmanager
def _noted(seen: Seen) -> Iterator[None]:
    """Every batch that the training loop takes is noted; one that is taken again after a stop takes its place."""
    from hpa_ray.stream.device import to_device

    def noted(*arguments: Any) -> Iterator[Any]:
        for device_batch in to_device(*arguments):
            batch = device_batch.batch
            seen.rows[batch.kind, batch.epoch, batch.step] = np.asarray(batch.rows_B).tolist()
            yield device_batch

    with mock.patch("hpa_ray.train.loop.to_device", noted):
        yield
