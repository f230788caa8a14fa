"""Stored values of a picture, gray or colour -> the 8-bit gray plane of a stain. Before: png, tiff, jpeg."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_SIDE_PX = 8192
"""Pillow takes images of more than 89 million pixels (9,459 px square) for an attack."""
PLANES_OF_STAIN = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
"""Where the signal of a stain lies in an RGB picture of it (HPAv18 and the web pages of the atlas)."""
GRID_PX = 512
"""The colours are judged on every so many pixels that about this many rows are left: 1 ms instead of 8 at 2048 px."""
MIN_RMS = 8
MAX_OTHER_RMS = 0.5
"""A picture is of another stain, or merged, if a plane that should be empty has an RMS over MIN_RMS and over
MAX_OTHER_RMS of that of the stain's plane; a yellow one also if R and G differ by more than that.

Measured on 57_F11_1 of HPAv18, JPEGs of quality 50 with halved colour: 0.04 (red), 0.14 (green), 0.02 (blue), 0.18
(yellow, whose R and G are as 1 to 0.96); at most 0.34 in five fields saved at qualities 10-95 and darkened down to
1/64, of which below an RMS of 5 the colour is lost to quantisation and every ratio occurs. Another stain's picture has
at least 0.98 and a merged one 0.74.
"""


class DecodeError(ValueError):
    """The file can not be used; the message is the reason."""


class Plane(NamedTuple):
    """One stain as 8-bit gray, and how the file became that."""

    pixels: np.ndarray
    """(H, W) uint8, may be read-only."""
    rule: str
    """A few stable words for a table, such as "16-bit gray TIFF, 65535 -> 255"."""
    peak: int
    """Highest value before scaling, in the units of the file: up to 4095 in all files is a 12-bit camera."""


def check_size(width: int, height: int, kind: str) -> None:
    """Called before anything of that size is allocated. Raises DecodeError."""
    if max(width, height) > MAX_SIDE_PX:
        raise DecodeError(f"{width} x {height} px, more than {MAX_SIDE_PX}")
    if min(width, height) < 1:
        raise DecodeError(f"damaged {kind} ({width} x {height} px)")


def load_picture(content: bytes, kind: str) -> Image.Image:
    """Decode with Pillow, which is given no choice of format. Raises DecodeError."""
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            image.load()
            return image
    except UnidentifiedImageError as error:  # its text holds an address in memory, and reasons are stored
        raise DecodeError(f"damaged {kind} (its header)") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DecodeError(f"damaged {kind} ({error})") from error


def gray_plane(values: np.ndarray, kind: str, white_level: int) -> Plane:
    """(H, W) uint8, taken as it is, or uint16, scaled."""
    peak = int(values.max())
    if values.dtype == np.uint8:
        return Plane(values, f"8-bit gray {kind}", peak)
    return Plane(scale_to_8_bit(values, white_level), f"16-bit gray {kind}, {white_level} -> 255", peak)


def scale_to_8_bit(values: np.ndarray, white_level: int) -> np.ndarray:
    """(H, W) uint16 -> uint8: value * 255 / white_level to the nearest integer (half up), at most 255.

    The atlas itself rounds up: of 383_D2_1_blue, the 8-bit file is ceil(value / 257) of the 16-bit file in every pixel,
    this rule is one level lower in 7.9 % of them.
    """
    assert 1 <= white_level <= 65535
    doubled: np.ndarray = np.minimum(values, white_level) * np.uint32(510)
    doubled += np.uint32(white_level)
    doubled //= np.uint32(2 * white_level)
    return doubled.astype(np.uint8)


def colour_plane(image: Image.Image, kind: str, stain: str) -> Plane:
    """The plane of an 8-bit RGB picture that holds the signal of the stain; of yellow the mean of R and G, half up.

    Never the luminance, which weighs red by 0.30, green by 0.59, blue by 0.11. Raises DecodeError if the signal lies
    in other planes.
    """
    planes = [np.asarray(image.getchannel(k)) for k in range(3)]
    step = max(1, min(image.size) // GRID_PX)
    grids = [plane[::step, ::step] for plane in planes]
    if _all_equal(grids) and _all_equal(planes):
        return Plane(planes[0], f"gray stored as RGB {kind}", int(planes[0].max()))
    _check_colour(grids, kind, stain)
    used = [planes[k] for k in PLANES_OF_STAIN[stain]]
    peak = max(int(plane.max()) for plane in used)
    if len(used) == 1:
        return Plane(used[0], f"RGB {kind}, plane {'RGB'[PLANES_OF_STAIN[stain][0]]}", peak)
    red, green = used
    return Plane((red | green) - ((red ^ green) >> 1), f"RGB {kind}, mean of planes R and G", peak)


def _all_equal(planes: list[np.ndarray]) -> bool:
    return all(np.array_equal(planes[0], plane) for plane in planes[1:])


def _check_colour(grids: list[np.ndarray], kind: str, stain: str) -> None:
    """grids: of R, G and B every so many pixels of the picture, (h, w) uint8. Raises DecodeError."""
    squares = [int(np.square(grid, dtype=np.uint16).sum(dtype=np.int64)) for grid in grids]
    floor = MIN_RMS**2 * grids[0].size
    signal = [squares[k] for k in PLANES_OF_STAIN[stain]]
    others = [squares[k] for k in range(3) if k not in PLANES_OF_STAIN[stain]]
    foreign = max(others) > max(floor, min(signal) * MAX_OTHER_RMS**2)
    uneven = max(signal) > max(floor, min(signal) / MAX_OTHER_RMS**2)
    if foreign or uneven:
        levels = ", ".join(
            f"{name} {(total / grids[0].size) ** 0.5:.0f}" for name, total in zip("RGB", squares, strict=True)
        )
        wanted = " and ".join("RGB"[k] for k in PLANES_OF_STAIN[stain])
        raise DecodeError(
            f"RGB {kind} looks like another stain's picture or a merged one "
            f"(RMS of {levels}; {stain} has its signal in {wanted})"
        )
