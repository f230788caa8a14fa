"""Bytes of one image file -> one (H, W) uint8 plane. Before: storage. After: ingest/stack.

Imports no torch: every Ray worker that decodes would pay for it.
"""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_SIDE_PX = 8192
"""Pillow takes images of more than 89 million pixels (9,459 px square) for an attack."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {2: "RGB colour", 3: "palette colour", 4: "gray with alpha", 6: "RGBA colour"}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced PNG: first column, first row, step between columns, step between rows."""


class DecodeError(ValueError):
    """The file can not be used; the message is the reason."""


class Png(NamedTuple):
    """The chunks of a PNG that make the image, as they are in the file."""

    header: bytes
    data: list[memoryview]
    width: int
    height: int
    interlaced: bool


def decode_plane(data: bytes) -> np.ndarray:
    """An 8-bit grayscale PNG -> (H, W) uint8.

    Raises DecodeError for everything else: empty, truncated or damaged bytes, other depths, colour, huge sizes.
    """
    png = read_chunks(data)
    # Pillow gets nothing but the image: no damaged or huge text, profile or animation chunk can stop it
    end = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    file = io.BytesIO(b"".join([PNG_SIGNATURE, png.header, *png.data, end]))
    try:
        with Image.open(file, formats=["PNG"]) as image:
            plane = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DecodeError(f"damaged PNG ({error})") from error
    # Pillow leaves rows black for which there is no data; black rows are rare enough to look again
    if png.interlaced or not plane[-1].any():
        _check_length(png)
    return plane


def read_chunks(data: bytes) -> Png:
    """Walk the chunks and verify every checksum (Pillow does not verify those of the pixels) and the header.

    Costs about 1 % of the decoding. Raises DecodeError.
    """
    if not data:
        raise DecodeError("the file is empty (0 bytes)")
    if not data.startswith(PNG_SIGNATURE):
        raise DecodeError("not a PNG file")
    view = memoryview(data)
    start = position = len(PNG_SIGNATURE)
    pixels = []
    width = height = interlace = 0
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise DecodeError(f"damaged PNG (checksum of chunk {kind.decode('latin-1')!r} at byte {position})")
        if position == start:
            if kind != b"IHDR" or length != 13:
                raise DecodeError("damaged PNG (does not begin with its header)")
            width, height, interlace = _check_header(data[position + 8 : end])
        elif kind == b"IDAT":
            pixels.append(view[position : end + 4])
        elif kind == b"IEND":
            if not pixels:
                raise DecodeError("damaged PNG (holds no pixels)")
            return Png(data[start : start + 25], pixels, width, height, bool(interlace))
        position = end + 4
    raise DecodeError(f"truncated PNG (ends after {len(data):,} bytes)")


def _check_header(header: bytes) -> tuple[int, int, int]:
    """Width, height and interlacing of an image that is 8-bit gray and of a sensible size. Raises DecodeError."""
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if max(width, height) > MAX_SIDE_PX:
        raise DecodeError(f"{width} x {height} px, more than {MAX_SIDE_PX}")
    if depth != 8 or colour != 0:
        raise DecodeError(f"{COLOURS.get(colour, f'{depth}-bit gray')}, expected 8-bit gray")
    if min(width, height) < 1 or compression or filtering or interlace > 1:
        raise DecodeError(f"damaged PNG ({width} x {height} px, methods {compression}, {filtering}, {interlace})")
    return width, height, interlace


def _check_length(png: Png) -> None:
    passes = ADAM7 if png.interlaced else ((0, 0, 1, 1),)
    sides = [(-((x - png.width) // dx), -((y - png.height) // dy)) for x, y, dx, dy in passes]
    expected = sum(rows * (columns + 1) for columns, rows in sides if columns > 0 and rows > 0)
    stream = zlib.decompressobj()
    try:
        found = len(stream.decompress(b"".join(chunk[8:-4] for chunk in png.data), expected))
    except zlib.error as error:
        raise DecodeError(f"damaged PNG ({error})") from error
    if found < expected:
        raise DecodeError(f"truncated PNG (holds {found:,} of {expected:,} bytes of pixels)")
