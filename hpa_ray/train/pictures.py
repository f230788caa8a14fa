"""What a run shows of itself at its start: augmented samples and the layers of its model. Before: learner. After: loop.

Drawn on a thread while the first epoch trains: matplotlib takes seconds, during which all ranks would wait.
"""

import csv
import io
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.model import layer_table
from hpa_ray.storage import write_bytes
from hpa_ray.stream import Data
from hpa_ray.stream.device import DeviceBatch
from hpa_ray.train.learner import Learner

NUM_SAMPLES, NUM_DRAWS = 6, 5


class Pictures:
    """figures/augmented.png, figures/layers.png and layers.csv. Rank 0 only."""

    def __init__(self, config: Config, data: Data, folder: RunFolder, learner: Learner) -> None:
        self.config, self.data, self.folder, self.learner = config, data, folder, learner
        self._pool = ThreadPoolExecutor(1)
        self._drawn: list[Future[None]] = []

    def begin(self, device_batch: DeviceBatch) -> None:
        """Take samples of the first batch of the run and start to draw."""
        learner = self.learner
        layers = layer_table(learner.model, channels=len(self.data.source.channels), image_size=learner.image_size)
        self._drawn.append(self._pool.submit(self._draw_layers, layers))
        count = min(NUM_SAMPLES, len(device_batch.batch.rows_B))
        if not count:
            return
        first = DeviceBatch(device_batch.batch, *(tensor[:count] for tensor in device_batch[1:]))
        draws = [
            learner.prepared(first._replace(seeds_B=first.seeds_B + number), self.config.train.epochs - 1)[0]
            for number in range(NUM_DRAWS)
        ]
        shown = torch.stack([first.images_BCSS.float(), *(images.float() for images in draws)], dim=1)
        pixels = shown.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        self._drawn.append(self._pool.submit(self._draw_samples, pixels, device_batch.batch.rows_B[:count]))

    def finish(self) -> list[str]:
        """Wait until all is written; what went wrong, which must not cost the run."""
        self._pool.shutdown()
        errors = [error for future in self._drawn if (error := future.exception()) is not None]
        return [f"a picture of the run could not be made ({type(error).__name__}: {error})" for error in errors]

    def _draw_samples(self, pixels_BDCSS: np.ndarray, rows_B: np.ndarray) -> None:
        from hpa_ray import figures

        labels = [np.flatnonzero(row).tolist() for row in self.data.targets_NK[rows_B]]
        figure = figures.augmented(pixels_BDCSS, labels, self.data.ids(rows_B), self.data.source.channels)
        write_bytes(self.folder.path("figures", "augmented.png"), figures.figure_png(figure))

    def _draw_layers(self, layers: list[Any]) -> None:
        from hpa_ray import figures

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "kind", "output_shape", "num_parameters"])
        writer.writerows([name, kind, " x ".join(map(str, shape)), count] for name, kind, shape, count in layers)
        self.folder.write_text("layers.csv", text.getvalue())
        size = self.learner.image_size
        shape = (len(self.data.source.channels), size, size)
        figure = figures.layers_figure(layers, title=self.config.model.name, input_shape=shape)
        write_bytes(self.folder.path("figures", "layers.png"), figures.figure_png(figure))
