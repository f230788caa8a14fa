"""Published numbers of Human Protein Atlas images, to hold a user's against. After: check, explore, fetch, figures.

Intensities are on the 0 to 1 scale, stains in the order of channels.STAINS. The test images of the competition are
about a quarter darker than those for training, the images of the public atlas up to half again as bright.
"""

from typing import NamedTuple

TRAIN_IMAGES, TEST_IMAGES = 31_072, 11_702
"""Images of the 2018 competition."""


class Intensities(NamedTuple):
    name: str
    source: str
    mean: tuple[float, float, float, float]
    std: tuple[float, float, float, float]


COMPETITION_TRAIN = Intensities(
    "2018 competition, train",
    "over all pixels of the 31,072 images; the numbers most public solutions copy",
    (0.08069, 0.05258, 0.05487, 0.08282),
    (0.13704, 0.10145, 0.15313, 0.13814),
)
COMPETITION_TEST = Intensities(
    "2018 competition, test",
    "over all pixels of the 11,702 images",
    (0.05913, 0.04540, 0.04066, 0.05928),
    (0.11734, 0.09503, 0.12900, 0.11528),
)
HPA_V18 = Intensities(
    "HPAv18",
    "external images at 512 px, as measured by the first-ranked public solutions",
    (0.11744, 0.06799, 0.06592, 0.09500),
    (0.16392, 0.10037, 0.16703, 0.13726),
)
KNOWN = (COMPETITION_TRAIN, COMPETITION_TEST, HPA_V18)
