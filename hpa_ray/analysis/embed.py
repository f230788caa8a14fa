"""Images -> what a model says of them, and what its last layer sees. Before: checkpoint, stream. After: run, gallery.

N images of the sweep, B of a batch, C stains, S side in px, F features, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from hpa_ray.checkpoint.model_file import ShippedModel
from hpa_ray.schema import Reject
from hpa_ray.stream import Data, Sweep, local_feed
from hpa_ray.stream.device import SourceMatch

PREFETCH_BATCHES = 4


class Embedded(NamedTuple):
    """Ascending by manifest row; images that could not be read are in `rejects` instead."""

    rows_N: np.ndarray  # int64
    probabilities_NK: np.ndarray  # float64
    embedding_NF: np.ndarray  # float32
    rejects: list[Reject]


class Viewer:
    """The model on its device, and images as it takes them."""

    def __init__(self, shipped: ShippedModel, data: Data) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = shipped.model.to(self.device).eval()
        self.data = data
        matching = data.matching if shipped.card.model.normalize == "source" else None
        self._match = SourceMatch(data.source_N, matching, self.device)

    def images(self, pixels_BCSS: np.ndarray, rows_B: np.ndarray) -> torch.Tensor:
        """(B, C, S, S) uint8 of the source -> the same on the device, matched to the first source where need be."""
        return self._match(torch.from_numpy(np.array(pixels_BCSS)).to(self.device), rows_B)

    @torch.inference_mode()
    def embed(
        self,
        rows: np.ndarray,
        *,
        batch_size: int,
        on_progress: Callable[[int], None] = lambda done: None,
        on_rejects: Callable[[list[Reject]], None] = lambda rejects: None,
    ) -> Embedded:
        """One pass over manifest rows. on_rejects(all images so far that could not be used) may raise."""
        seen, logits, embeddings, rejects = [np.empty(0, np.int64)], [], [], []
        done = 0
        for batch in local_feed(self.data.source, Sweep(np.sort(rows), batch_size), prefetch=PREFETCH_BATCHES):
            if batch.rejects:
                rejects += batch.rejects
                on_rejects(rejects)
            if len(batch.rows_B):
                logits_BK, embedding_BF = self.model.with_embedding(self.images(batch.pixels_BCSS, batch.rows_B))
                seen.append(batch.rows_B)
                logits.append(logits_BK.float().cpu().numpy())
                embeddings.append(embedding_BF.cpu().numpy())
            done += len(batch.rows_B) + len(batch.rejects)
            on_progress(done)
        if not logits:
            num_classes, num_features = self.model.head.weight.shape[:2]
            return Embedded(seen[0], np.empty((0, num_classes)), np.empty((0, num_features), np.float32), rejects)
        rows_N, logits_NK = np.concatenate(seen), np.concatenate(logits).astype(np.float64)
        probabilities_NK = as_stored(np.exp(-np.logaddexp(0, -logits_NK)))
        return Embedded(rows_N, probabilities_NK, np.concatenate(embeddings), rejects)


def as_stored(probabilities_NK: np.ndarray) -> np.ndarray:
    """float64, but no finer than a file of predictions has them: what is made here and what is read there is one."""
    return probabilities_NK.astype(np.float32).astype(np.float64)
