"""Files of pictures: valid ones made on the fly, damaged with and without an eye for what they consist of."""

import io
import struct
from abc import abstractmethod
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.case import Case, Target, Wrong, check_told, damaged
from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.ingest.decode import MAX_SIDE_PX, DecodeError, decode_plane
from hpa_ray.ingest.decode.plane import PLANES_OF_STAIN, scale_to_8_bit

WHITE_LEVELS = (65535, 65535, 255, 4095, 1000)
GOOD_MODES, OTHER_MODES = ("L", "L", "L", "I;16", "RGB", "RGB", "gray"), ("P", "LA", "RGBA", "1", "I", "F", "CMYK")
LAST_BLOCKS_PX = 17**2
"""Pixels of a JPEG that may differ: where the data ends too early in the last block, libjpeg goes on with zeros, and
decode_jpeg with ones (of 16 px, with a smoothed edge)."""


class Pictures(Target):
    """What all formats have in common. The rules of a picture are those of decode_plane, the pixels are Pillow's."""

    is_strict = False
    """Whether Pillow must see something in all that is accepted."""
    modes: tuple[str, ...] = GOOD_MODES * 4 + OTHER_MODES

    @abstractmethod
    def picture(self, rng: Random, mode: str, stain: str) -> bytes:
        """The bytes of a valid file of the format; it may be of a kind that is refused."""

    @abstractmethod
    def surgery(self, rng: Random, content: bytes) -> bytes:
        """Something done to the parts of the format."""

    def readable(self, content: bytes) -> bytes:
        """A file that Pillow makes the same pixels of. Raises Wrong for one that must not be accepted."""
        return content

    def make(self, rng: Random) -> Case:
        stain = rng.choice(STAINS)
        content = self.picture(rng, rng.choice(self.modes), stain if rng.random() < 0.9 else rng.choice(STAINS))
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            content = self.surgery(rng, content) if rng.random() < 0.55 else damaged(rng, content)
        return Case(content, (stain, str(rng.choice(WHITE_LEVELS))))

    def run(self, case: Case) -> None:
        stain, white_level = case.words[0], int(case.words[1])
        try:
            found = decode_plane(case.content, stain, white_level=white_level)
        except DecodeError as error:
            if " at 0x" in str(error):
                raise Wrong(f"an address in memory: {error}") from error
            raise InputError(str(error)) from error
        check_told((found.rule,))
        pixels = found.pixels
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or not 0 < max(pixels.shape) <= MAX_SIDE_PX:
            raise Wrong(f"{pixels.dtype} of shape {pixels.shape}")
        if not 0 <= found.peak <= 65535:
            raise Wrong(f"peak {found.peak}")
        expected = by_pillow(self.readable(case.content), stain, white_level)
        if expected is None and self.is_strict:
            raise Wrong("Pillow decodes nothing")
        if expected is None:
            return
        wrong = np.count_nonzero(expected != pixels) if expected.shape == pixels.shape else pixels.size
        if wrong > (LAST_BLOCKS_PX if "JPEG" in found.rule and expected.shape == pixels.shape else 0):
            raise Wrong(f"{wrong} of {pixels.size} pixels are not those that Pillow decodes")


def by_pillow(content: bytes, stain: str, white_level: int) -> np.ndarray | None:
    """The plane of a stain as Pillow sees it, None where Pillow sees nothing."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            values: np.ndarray = np.asarray(image)
            mode = image.mode
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Warning, struct.error, OverflowError):
        return None
    if mode == "L":
        return values
    if mode.startswith("I;16"):
        return scale_to_8_bit(values.astype(np.uint16), white_level)
    if mode != "RGB":
        raise Wrong(f"taken, and Pillow sees a picture of mode {mode}")
    if (values == values[:, :, :1]).all():
        gray: np.ndarray = values[:, :, 0]
        return gray
    used = PLANES_OF_STAIN[stain]
    total: np.ndarray = values[:, :, used].sum(axis=2, dtype=np.uint16) + len(used) // 2
    return (total // len(used)).astype(np.uint8)


def values_of(rng: Random, mode: str, stain: str) -> Image.Image:
    """A small picture of any mode; RGB is in the colour of a stain, `gray` the same in all planes."""
    width, height = rng.choice((1, 2, 7, 8, 16, 17, 33)), rng.choice((1, 2, 7, 8, 16, 17, 33))
    if rng.random() < 0.6:
        height = width
    noise = np.random.default_rng(rng.getrandbits(32))
    plane = noise.integers(0, rng.choice((2, 256, 256)), (height, width)).astype(np.uint8)
    if rng.random() < 0.2:
        plane[height // 2 :] = 0
    if mode == "I;16":
        return Image.fromarray(plane.astype(np.uint16) * rng.choice((1, 16, 257)))
    if mode in ("I", "F"):
        return Image.fromarray(plane.astype(np.int32 if mode == "I" else np.float32))
    if mode in ("RGB", "gray"):
        used = (0, 1, 2) if mode == "gray" else PLANES_OF_STAIN[stain]
        return Image.fromarray(np.stack([plane if k in used else plane * 0 for k in range(3)], axis=-1))
    return Image.fromarray(plane).convert("RGB").convert(mode) if mode != "L" else Image.fromarray(plane)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
