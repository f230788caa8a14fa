"""What a run leaves in its folder after every epoch. Before: train/loop. After: evaluate, predict, report."""

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hpa_ray.checkpoint.model_file import MODEL_FILE, ModelCard, save_model
from hpa_ray.checkpoint.results import floor_scores, scores_of, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config, dump_config
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.metrics import tune_thresholds
from hpa_ray.model import Classifier
from hpa_ray.schema import Reject, rejected_table
from hpa_ray.storage import write_parquet
from hpa_ray.stream import Data

SELECT = "macro_f1_tuned"
"""The epoch whose weights are kept. At a fixed threshold of 0.5 the first epochs of a long-tailed run all score 0."""


class Validation(NamedTuple):
    """Every validation image once, in manifest order."""

    rows_N: np.ndarray
    logits_NK: np.ndarray

    @classmethod
    def join(cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> "Validation":
        """Put the parts of all ranks together; truth and prediction meet by row, not by order of arrival."""
        pairs = pairs or [(np.empty(0, np.int64), np.empty((0, NUM_CLASSES), np.float32))]
        rows = np.concatenate([rows for rows, _ in pairs])
        logits = np.concatenate([logits for _, logits in pairs])
        order = np.argsort(rows, kind="stable")
        assert len(np.unique(rows)) == len(rows), "a validation image was seen twice"
        return cls(rows[order], logits[order])

    def probabilities(self) -> np.ndarray:
        """(N, K) float64 in [0, 1]."""
        return np.exp(-np.logaddexp(0, -self.logits_NK.astype(np.float64)))


class Recorder:
    """Scores each epoch, keeps the best model, and writes the files of the run folder. Rank 0 only."""

    def __init__(self, config: Config, data: Data, folder: RunFolder) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.lines: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.earlier_s = 0.0
        self.began = time.monotonic()

    def state(self) -> str:
        """As JSON: a checkpoint that holds anything but tensors and plain values is refused when it is loaded."""
        return json.dumps({"lines": self.lines, "best": self.best, "wall_s": self._wall_s()})

    def load_state(self, text: str) -> None:
        state = json.loads(text)
        self.lines, self.best, self.earlier_s = state["lines"], state["best"], state["wall_s"]

    def end_epoch(
        self, epoch: int, model: Classifier, val: Validation, rejects: list[Reject], numbers: dict[str, float]
    ) -> dict[str, Any]:
        """Write what `epoch` finished epochs gave; returns the epoch's line of metrics.jsonl."""
        left_out = {reject.row for reject in rejects}
        expected = set(self.data.parts["val"].tolist()) - left_out
        assert expected == set(val.rows_N.tolist()), "validation did not see every image"
        probabilities, targets = val.probabilities(), self.data.targets_NK[val.rows_N]
        ids = self.data.ids(val.rows_N)
        scores = scores_of(probabilities, targets, ids)
        line = {"epoch": epoch, **numbers, **scores, "wall_s": round(self._wall_s(), 1)}
        self.lines.append(line)
        if not self.best or line[SELECT] > self.best[SELECT]:
            self.best = line
            thresholds = tune_thresholds(probabilities, targets)
            save_model(self.folder.path(MODEL_FILE), model, self._card(epoch, thresholds))
            write_results(self.folder, "val", ids, probabilities, targets, thresholds, self.config.run.name or "")
        self.folder.write_metrics(self.lines)
        if rejects or self.data.rejects:
            distinct = self.data.rejects + list({reject.row: reject for reject in rejects}.values())
            write_parquet(self.folder.path("rejected.parquet"), rejected_table(distinct))
        self.write_summary("running" if epoch < self.config.train.epochs else "done", targets)
        return line

    def write_summary(self, status: str, targets: np.ndarray) -> None:
        best, last = self.best, self.lines[-1]
        speed = {key: last[key] for key in ("images_per_s", "data_wait_pct", "first_batch_s", "train_loss")}
        retries = sum(line["storage_retries"] for line in self.lines)
        not_scores = (*speed, "epoch", "lr", "wall_s", "storage_retries")
        scores = {key: value for key, value in best.items() if key not in not_scores}
        summary = {
            "status": status,
            "part": "val",
            **scores,
            **floor_scores(targets),
            "best_epoch": best["epoch"],
            "epochs": last["epoch"],
            "num_images": len(targets),
            "num_train_images": len(self.data.parts["train"]),
            **speed,
            "storage_retries": retries,
            "wall_s": last["wall_s"],
        }
        self.folder.write_json("summary.json", summary)

    def _card(self, epoch: int, thresholds: np.ndarray) -> ModelCard:
        return ModelCard(
            channels=self.data.source.channels,
            image_size=self.data.source.image_size,
            architecture=self.config.model.name,
            run=self.config.run.name or "",
            epoch=epoch,
            thresholds=tuple(thresholds.tolist()),
            config=dump_config(self.config),
        )

    def _wall_s(self) -> float:
        return self.earlier_s + time.monotonic() - self.began
