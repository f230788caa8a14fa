"""TIFF files, in strips and tiles."""

import struct
import zlib
from random import Random
from typing import Any, Literal

import numpy as np

from fuzzing.case import NUMBERS, damaged
from fuzzing.pictures import GOOD_MODES, Pictures, saved, values_of
from hpa_ray.ingest.decode import MAX_SIDE_PX
from hpa_ray.ingest.decode.tiff import TIFF_SIGNATURES


class Tiff(Pictures):
    def picture(self, rng: Random, mode: str, stain: str) -> bytes:
        image = values_of(rng, mode, stain)
        if rng.random() < 0.3 and mode in GOOD_MODES:
            return tiled_tiff(np.asarray(image), rng)
        options: dict[str, Any] = {}
        packed = rng.choice((None, None, "tiff_lzw", "tiff_lzw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"))
        if rng.random() < 0.05:
            packed = rng.choice(("packbits", "jpeg")) if mode in ("L", "RGB") else "packbits"
        if packed:
            options["compression"] = packed
        tags: dict[int, Any] = {278: 8 * rng.choice((1, 2, 12))} if rng.random() < 0.5 else {}
        if packed in ("tiff_lzw", "tiff_adobe_deflate") and mode in GOOD_MODES and rng.random() < 0.4:
            tags[317] = 2
        if rng.random() < 0.2:
            tags |= {270: "ImageJ=1.53\nimages=1", 282: 72.0}
        if tags:
            options["tiffinfo"] = tags
        if rng.random() < 0.05:
            options |= {"save_all": True, "append_images": [image] * rng.choice((1, 3))}
        if rng.random() < 0.05:
            options["big_tiff"] = True
        return saved(image, "TIFF", **options)

    def surgery(self, rng: Random, content: bytes) -> bytes:
        """Change entries of the first directory: tag, type, count or value."""
        data = bytearray(content)
        order = "<" if data[:2] == b"II" else ">"
        try:
            (start,) = struct.unpack_from(f"{order}I", data, 4)
            (count,) = struct.unpack_from(f"{order}H", data, start)
            entries = [struct.unpack_from(f"{order}HHI4s", data, start + 2 + 12 * k) for k in range(min(count, 60))]
        except struct.error:
            return damaged(rng, content)
        if rng.random() < 0.1:  # another directory, or none
            struct.pack_into(f"{order}I", data, 4, rng.choice((0, 8, start, len(data) - 2, 2**32 - 1)))
            return bytes(data)
        if rng.random() < 0.1 and start + 6 + 12 * count <= len(data):
            struct.pack_into(f"{order}I", data, start + 2 + 12 * count, rng.choice((8, start, 2**31)))
            return bytes(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            if not entries:
                break
            k = rng.randrange(len(entries))
            tag, kind, number, value = entries[k]
            action = rng.randrange(7)
            if action == 0:
                tag = rng.choice((tag + 1, tag - 1, 256, 257, 258, 259, 262, 266, 273, 277, 284, 317, 322, 339, 65535))
            elif action == 1:
                kind = rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 16, 255))
            elif action == 2:
                number = rng.choice((0, 1, 2, 3, 4, 5, number + 1, 1000, 2**16, 2**31, 2**32 - 1))
            else:
                small = rng.choice((*range(20), 31, 32, 64, 255, 5000, 32773, *NUMBERS)) % 2**32
                if 1000 < small <= MAX_SIDE_PX and rng.random() > 0.03:
                    small = 1
                short = struct.pack(f"{order}HH", small % 65536, 0)
                value = struct.pack(f"{order}I", small) if rng.random() < 0.6 else short
            entries[k] = (tag % 65536, kind, number % 2**32, value)
            struct.pack_into(f"{order}HHI4s", data, start + 2 + 12 * k, *entries[k])
        return bytes(data)


def tiled_tiff(values: np.ndarray, rng: Random) -> bytes:
    """A TIFF in tiles, plain or deflated, which Pillow does not write."""
    order: Literal["<", ">"] = "<" if rng.random() < 0.5 else ">"
    height, width = values.shape[:2]
    tall, wide = rng.choice((16, 32)), rng.choice((16, 48))
    values = values.reshape(height, width, -1)
    padded = np.pad(values, ((0, -height % tall), (0, -width % wide), (0, 0)))
    packed = rng.random() < 0.5
    blobs = []
    for y in range(0, height, tall):
        for x in range(0, width, wide):
            tile = padded[y : y + tall, x : x + wide].astype(values.dtype.newbyteorder(order)).tobytes()
            blobs.append(zlib.compress(tile) if packed else tile)
    *offsets, start = np.cumsum([8, *map(len, blobs)]).tolist()
    samples = values.shape[2]
    entries = {
        **{256: [width], 257: [height], 258: [values.dtype.itemsize * 8] * samples, 259: [8 if packed else 1]},
        **{262: [2 if samples == 3 else 1], 277: [samples], 322: [wide], 323: [tall], 324: offsets},
        325: [len(blob) for blob in blobs],
    }
    directory, behind = struct.pack(f"{order}H", len(entries)), b""
    for tag, numbers in entries.items():
        field = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            position = start + 6 + 12 * len(entries) + len(behind)
            behind, field = behind + field, struct.pack(f"{order}I", position)
        directory += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + field
    signature = TIFF_SIGNATURES[0 if order == "<" else 1]
    return b"".join([signature, struct.pack(f"{order}I", start), *blobs, directory, bytes(4), behind])
