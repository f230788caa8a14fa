"""The verbs, by name: each resolves its configuration, calls one or two stages and says what came out."""

from hpa_ray.cli.config_verb import config
from hpa_ray.cli.data_verbs import check, prepare, split, synth
from hpa_ray.cli.model_verbs import evaluate, predict
from hpa_ray.cli.train_verb import train

__all__ = ["check", "config", "evaluate", "predict", "prepare", "split", "synth", "train"]
