"""What a user can set, and how it is read."""

from hpa_ray.config.loader import (
    config_keys,
    config_tree,
    dump_config,
    load_config,
    recipe_names,
    type_name,
    without_credentials,
)
from hpa_ray.config.sections import (
    AugmentConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
    Stains,
    ThresholdsConfig,
    TrackConfig,
    TrainConfig,
    checkpoint_interval,
)
from hpa_ray.config.stages import stages_of

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SamplingConfig",
    "Stains",
    "ThresholdsConfig",
    "TrackConfig",
    "TrainConfig",
    "checkpoint_interval",
    "config_keys",
    "config_tree",
    "dump_config",
    "load_config",
    "recipe_names",
    "stages_of",
    "type_name",
    "without_credentials",
]
