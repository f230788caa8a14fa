"""What a user can set, and how it is read."""

from hpa_ray.config.loader import config_keys, dump_config, load_config, recipe_names, type_name, without_credentials
from hpa_ray.config.sections import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
    TrackConfig,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SamplingConfig",
    "TrackConfig",
    "TrainConfig",
    "config_keys",
    "dump_config",
    "load_config",
    "recipe_names",
    "type_name",
    "without_credentials",
]
