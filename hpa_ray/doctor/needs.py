"""What a run takes: memory of a worker, of the object store, room in the run folder. Before: network. After: limits."""

from typing import NamedTuple

from hpa_ray.checkpoint.run_folder import CHECKPOINTS_KEPT
from hpa_ray.config import Config
from hpa_ray.stream.feed import TASK_BYTES

FLOAT_BYTES = 4
PROCESS_BYTES = 750 * 2**20
"""Of a process that has imported torch, torchvision and this package."""
REST_BYTES = 64 * 2**20
"""Predictions, figures, event files and logs of a run folder."""
MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}
"""Values that an optimizer keeps for each weight."""


class Network(NamedTuple):
    """The model as it was built without numbers."""

    num_parameters: int
    state_bytes: int
    """Weights and buffers, as they are stored."""
    activation_values: int
    """Outputs of all layers for one image, which the way back needs."""


class Needs(NamedTuple):
    checkpoint_bytes: int
    folder_bytes: int
    """Of the run folder, with a checkpoint that is being written beside those kept."""
    certain_bytes: int
    """Of a worker: weights, gradients, averages, the optimizer's moments, a batch; on the device if that is a GPU."""
    about_bytes: int
    """The same with what the layers keep for the way back: an estimate."""
    stream_bytes: int
    """Batches of all workers that wait in the object store; of one worker, in its own memory."""


def needs(config: Config, network: Network, *, num_channels: int, image_size: int, half: bool) -> Needs:
    """half: activations of two bytes, as autocast makes them."""
    cfg = config.train
    averages = int(bool(cfg.ema_decay or cfg.swa_epochs))
    copies = 1 + MOMENTS[config.optim.name] + averages
    checkpoint = network.state_bytes * copies
    batch = cfg.batch_size * num_channels * image_size**2
    certain = network.num_parameters * FLOAT_BYTES * (copies + 1) + batch * (1 + FLOAT_BYTES)
    activations = cfg.batch_size * network.activation_values * FLOAT_BYTES // (2 if half else 1)
    waiting = max((cfg.prefetch_batches + 2) * batch, 2 * TASK_BYTES if cfg.num_workers else 0)
    return Needs(
        checkpoint_bytes=checkpoint,
        folder_bytes=(CHECKPOINTS_KEPT + 1) * checkpoint + 3 * network.state_bytes + REST_BYTES,
        certain_bytes=certain,
        about_bytes=certain + activations,
        stream_bytes=max(cfg.num_workers, 1) * waiting,
    )
