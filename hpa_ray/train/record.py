"""What a run leaves in its folder after every epoch. Before: train/loop. After: evaluate, predict, report."""

import json
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from hpa_ray.checkpoint.judge import fit_of
from hpa_ray.checkpoint.model_file import LAST_MODEL_FILE, MODEL_FILE, ModelCard, save_model
from hpa_ray.checkpoint.results import floor_scores, scores_of, selectable, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config, dump_config
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.loss import ClassificationLoss
from hpa_ray.metrics import score_predictions
from hpa_ray.model import Classifier
from hpa_ray.schema import Reject, rejected_table
from hpa_ray.storage import write_parquet
from hpa_ray.stream import Data

MAX_SCORED = 100_000
"""Training images of an epoch, over all workers, whose predictions make the scores of the training part."""
TRAIN_SCORES = ("macro_f1", "micro_f1", "exact_match", "proportional_accuracy")


class Seen(NamedTuple):
    """What a model said of images, in the order in which it saw them."""

    rows_N: np.ndarray  # manifest rows
    logits_NK: np.ndarray  # float32

    @classmethod
    def join(cls, parts: "Sequence[Seen]") -> "Seen":
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def in_order(self) -> "Seen":
        """In manifest order; truth and prediction meet by row, not by order of arrival."""
        order = np.argsort(self.rows_N, kind="stable")
        assert len(np.unique(self.rows_N)) == len(self.rows_N), "a validation image was seen twice"
        return Seen(self.rows_N[order], self.logits_NK[order])

    def probabilities(self) -> np.ndarray:
        """(N, K) float64 in [0, 1], of the precision in which they are stored: what is scored is what is written."""
        exact_NK: np.ndarray = np.exp(-np.logaddexp(0, -self.logits_NK.astype(np.float64)))
        return exact_NK.astype(np.float32).astype(np.float64)


class Watcher:
    """Collects logits where they are, on the device, so that no step waits for them."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._rows: list[np.ndarray] = [np.empty(0, np.int64)]
        self._logits: list[torch.Tensor] = []
        self._num = 0

    def add(self, rows_B: np.ndarray, logits_BK: torch.Tensor) -> None:
        if self.limit is None or self._num < self.limit:
            self._rows.append(rows_B)
            self._logits.append(logits_BK)
            self._num += len(rows_B)

    def take(self) -> Seen:
        if not self._logits:
            return Seen(self._rows[0], np.empty((0, NUM_CLASSES), np.float32))
        return Seen(np.concatenate(self._rows), torch.cat(self._logits).float().cpu().numpy())


class Recorder:
    """Scores each epoch, keeps the best model, and writes the files of the run folder. Rank 0 only."""

    def __init__(self, config: Config, data: Data, folder: RunFolder, loss: ClassificationLoss) -> None:
        self.config, self.data, self.folder, self.loss = config, data, folder, loss
        self.select = config.train.select
        self.fit = fit_of(config.thresholds, data.shares_K)
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

    @property
    def is_finished(self) -> bool:
        return self._stopped_early or (bool(self.lines) and self.lines[-1]["epoch"] >= self.config.train.epochs)

    @property
    def _stopped_early(self) -> bool:
        patience = self.config.train.patience
        return bool(self.lines) and patience is not None and self.lines[-1]["epoch"] - self.best["epoch"] >= patience

    def end_epoch(
        self,
        epoch: int,
        model: Classifier,
        train: Seen,
        val: Seen,
        rejects: dict[int, Reject],
        numbers: dict[str, float],
    ) -> dict[str, Any]:
        """Write what `epoch` finished epochs gave; returns the epoch's line of metrics.jsonl.

        rejects: by manifest row, the images that could not be read in this or an earlier epoch.
        """
        val = val.in_order()
        # an image that could not be read before may have been readable now
        missing = set(self.data.parts["val"].tolist()) - set(val.rows_N.tolist())
        assert missing <= rejects.keys(), "validation did not see every image"
        if not np.isfinite(val.logits_NK).all():
            raise InputError(
                f"the model's outputs are not finite numbers after epoch {epoch}: lower optim.lr or set optim.clip_norm"
            )
        probabilities, targets = val.probabilities(), self.data.targets_NK[val.rows_N]
        ids = self.data.ids(val.rows_N)
        scores = scores_of(probabilities, targets, ids, self.data.rare_K, self.fit)
        losses = {"val_loss": self._val_loss(val.logits_NK, targets)}
        line = {"epoch": epoch, **numbers, **losses, **self._train_scores(train, numbers["num_samples"]), **scores}
        line["wall_s"] = round(self._wall_s(), 1)
        self.lines.append(line)
        if self._is_best(line):
            self.best = line
            thresholds = self.fit(probabilities, targets)
            save_model(self.folder.path(MODEL_FILE), model, self._card(epoch, thresholds))
            write_results(self.folder, "val", ids, probabilities, targets, thresholds, self.config.run.name or "")
        if self.is_finished:
            card = self._card(epoch, self.fit(probabilities, targets))
            save_model(self.folder.path(LAST_MODEL_FILE), model, card)
        self.folder.write_metrics(self.lines)
        if rejects or self.data.rejects:
            table = rejected_table(self.data.rejects + list(rejects.values()))
            write_parquet(self.folder.path("rejected.parquet"), table)
        self.write_summary("done" if self.is_finished else "running", targets)
        return line

    def write_summary(self, status: str, targets: np.ndarray) -> None:
        best, last = self.best, self.lines[-1]
        speed = {key: last[key] for key in ("images_per_s", "data_wait_pct", "first_batch_s", "train_loss")}
        retries = sum(line["storage_retries"] for line in self.lines)
        not_scores = (*speed, "epoch", "lr", "wall_s", "storage_retries", "num_samples", "num_distinct")
        scores = {key: value for key, value in best.items() if key not in not_scores}
        summary = {
            "status": status,
            "part": "val",
            **scores,
            **floor_scores(targets),
            "best_epoch": best["epoch"],
            "epochs": last["epoch"],
            "stopped_early": self._stopped_early,
            "num_images": len(targets),
            "num_train_images": len(self.data.parts["train"]),
            **speed,
            "storage_retries": retries,
            "wall_s": last["wall_s"],
        }
        self.folder.write_json("summary.json", summary)

    def _is_best(self, line: dict[str, Any]) -> bool:
        """Whether this epoch is the best so far; a score that is not defined is never better."""
        value = line[self.select]
        if not self.best or value is None:
            return not self.best
        best = self.best[self.select]
        return best is None or (value > best if selectable()[self.select] else value < best)

    @torch.inference_mode()
    def _val_loss(self, logits_NK: np.ndarray, targets_NK: np.ndarray) -> float | None:
        """The run's loss over all validation images at once; where losses alternate, the first of them."""
        device = next(self.loss.buffers()).device
        logits, targets = torch.from_numpy(logits_NK).to(device), torch.from_numpy(targets_NK).float().to(device)
        value = float(self.loss(logits, targets).mean())
        return value if math.isfinite(value) else None

    def _train_scores(self, train: Seen, num_samples: float) -> dict[str, float]:
        """At threshold 0.5, of the training images as they were seen: augmented, by a model that was still learning.

        num_distinct: how many images they are, sampled or not; it is not known of more than MAX_SCORED.
        """
        if not len(train.rows_N):
            return {}
        scores = score_predictions(train.logits_NK >= 0, self.data.targets_NK[train.rows_N])
        found = {f"train_{name}": value for name in TRAIN_SCORES if (value := scores[name]) is not None}
        if len(train.rows_N) == num_samples:
            found["num_distinct"] = len(np.unique(train.rows_N))
        return found

    def _card(self, epoch: int, thresholds: np.ndarray) -> ModelCard:
        return ModelCard(
            channels=self.data.source.channels,
            image_size=self.data.source.image_size,
            model=self.config.model,
            run=self.config.run.name or "",
            epoch=epoch,
            thresholds=tuple(thresholds.tolist()),
            config=dump_config(self.config),
        )

    def _wall_s(self) -> float:
        return self.earlier_s + time.monotonic() - self.began
