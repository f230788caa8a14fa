"""Bytes of one image file -> one (H, W) uint8 plane. Before: storage. After: ingest/stack.

Imports no torch: every Ray worker that decodes would pay for it.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_SIDE_PX = 16_384
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class DecodeError(ValueError):
    """The file can not be used; the message is the reason."""


def decode_plane(data: bytes) -> np.ndarray:
    """An 8-bit grayscale PNG -> (H, W) uint8.

    Raises DecodeError for everything else: empty, truncated or damaged bytes, other depths, colour, huge sizes.
    """
    if not data:
        raise DecodeError("the file is empty (0 bytes)")
    if not data.startswith(PNG_SIGNATURE):
        raise DecodeError("not a PNG file")
    check_chunks(data)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if max(image.size) > MAX_SIDE_PX:
                raise DecodeError(f"{image.width} x {image.height} px, more than {MAX_SIDE_PX}")
            if image.mode != "L":
                raise DecodeError(f"{MODES.get(image.mode, image.mode)}, expected 8-bit gray")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"damaged PNG ({error})") from error


MODES = {"RGB": "RGB colour", "RGBA": "RGBA colour", "P": "palette colour", "LA": "gray with alpha", "1": "1-bit gray"}
MODES |= {"I;16": "16-bit gray", "I;16B": "16-bit gray", "I": "16-bit gray"}


def check_chunks(data: bytes) -> None:
    """Walk the chunks of a PNG and verify every checksum: Pillow does not verify those of the pixel chunks.

    Costs about 1 % of the decoding. Raises DecodeError.
    """
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise DecodeError(f"damaged PNG (checksum of chunk {kind.decode('latin-1')!r} at byte {position})")
        if kind == b"IEND":
            return
        position = end + 4
    raise DecodeError(f"truncated PNG (ends after {len(data):,} bytes)")
