"""The folder of a cross-validation: a run folder for each fold below it. Before: crossval. After: predict, evaluate."""

from typing import Any

import numpy as np

from hpa_ray.checkpoint.judge import THRESHOLDS_FILE
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.storage import exists, join

FOLDS_FILE = "folds.csv"
"""Which image is in which fold; what a folder of `crossval` is known by."""
FOLDS = "folds"


def is_crossval(uri: str) -> bool:
    """Raises InputError where it can not be looked at."""
    try:
        return not uri.endswith(".safetensors") and exists(join(uri, FOLDS_FILE))
    except OSError as error:
        raise InputError(f"{uri}: can not be read ({' '.join(str(error).split())[:200]})") from error


def fold_runs(uri: str) -> list[str]:
    """The run folders of a finished cross-validation. Raises InputError for one that is not."""
    summary = _read(uri, "summary.json")
    return [join(uri, FOLDS, str(number)) for number in range(int(summary["folds"]))]


def out_of_fold_thresholds(uri: str) -> np.ndarray:
    """(K,) float64, of the stored rule. Raises InputError where the cross-validation is not finished.

    They are found on what every image's fold said of it; thresholds.json is the last file that is written.
    """
    rules = _read(uri, THRESHOLDS_FILE)
    try:
        thresholds_K = np.asarray(rules[rules["stored"]]["thresholds"], np.float64)
    except (LookupError, TypeError, ValueError):
        thresholds_K = np.empty(0)
    if thresholds_K.shape != (NUM_CLASSES,) or not np.isfinite(thresholds_K).all():
        raise InputError(f"{uri}/{THRESHOLDS_FILE}: damaged - run crossval again with run.resume=true")
    return thresholds_K


def _read(uri: str, name: str) -> dict[str, Any]:
    folder = RunFolder(uri)
    if not exists(folder.path(THRESHOLDS_FILE)):
        raise InputError(f"{folder.uri}: its cross-validation is not finished - go on with it by run.resume=true")
    try:
        content = folder.read_json(name)
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder.uri}/{name}: damaged - run crossval again with run.resume=true") from error
