"""The search for what helps the rare classes: many trials of the same training. Before: train, evaluate. After: cli."""

from hpa_ray.tune.generations import check_population
from hpa_ray.tune.plan import Plan, check_metric
from hpa_ray.tune.sampler import designed
from hpa_ray.tune.space import Space, as_words, combinations, load_space, space_names, with_overrides
from hpa_ray.tune.study import StudyFolder, Trial, finals

__all__ = [
    "Plan",
    "Space",
    "StudyFolder",
    "Trial",
    "as_words",
    "check_metric",
    "check_population",
    "combinations",
    "designed",
    "finals",
    "load_space",
    "space_names",
    "with_overrides",
]
