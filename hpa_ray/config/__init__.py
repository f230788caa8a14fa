"""What a user can set, and how it is read."""

from hpa_ray.config.loader import config_keys, dump_config, load_config, recipe_names, type_name
from hpa_ray.config.sections import AugmentConfig, Config, OptimConfig

__all__ = [
    "AugmentConfig",
    "Config",
    "OptimConfig",
    "config_keys",
    "dump_config",
    "load_config",
    "recipe_names",
    "type_name",
]
