"""The four stains of the Human Protein Atlas, their order in an image, and a name for that order."""

from collections.abc import Sequence

from hpa_ray.errors import InputError

STAINS = ("red", "green", "blue", "yellow")
"""Stored order of the planes: microtubules, protein of interest, nucleus, endoplasmic reticulum."""

STAIN_ORDER = "hpa-rgby"
"""Name of `STAINS` as an order; stored with shards and checkpoints, a reader refuses any other."""

STAIN_TARGETS = {
    "red": "microtubules",
    "green": "protein of interest",
    "blue": "nucleus",
    "yellow": "endoplasmic reticulum",
}


def channel_indices(channels: Sequence[str]) -> list[int]:
    """Positions of the named stains in a stored (4, S, S) image, in the order asked for.

    Raises InputError for an unknown or repeated name.
    """
    wrong = [name for name in channels if name not in STAINS]
    if wrong or not channels or len(set(channels)) < len(channels):
        raise InputError(f"name each stain once, from: {', '.join(STAINS)}")
    return [STAINS.index(name) for name in channels]
