"""PNG: 8- and 16-bit gray, 8-bit RGB. Every checksum and the number of rows are verified."""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from hpa_ray.ingest.decode.plane import DecodeError, Plane, check_size, colour_plane, gray_plane, load_picture

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BYTES_PER_PIXEL = {(8, 0): 1, (16, 0): 2, (8, 2): 3}
"""What is read, by depth and colour type."""
REFUSED = {
    2: "RGB PNG of {} bits, expected 8 - save each stain as 16-bit gray or 8-bit RGB",
    3: "palette PNG - save it as 8-bit gray or 8-bit RGB",
    4: "PNG of gray with alpha - save it without alpha",
    6: "RGBA PNG - if the four planes are the four stains that is another layout: save one gray PNG per stain, "
    "if not save it without alpha",
}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced PNG: first column, first row, step between columns, step between rows."""


class Png(NamedTuple):
    """The chunks of a PNG that make the image, as they are in the file."""

    header: bytes
    data: list[memoryview]
    width: int
    height: int
    bytes_per_pixel: int
    interlaced: bool


def decode_png(data: bytes, stain: str, white_level: int) -> Plane:
    """Raises DecodeError for other depths and colours, truncated or damaged bytes, huge sizes."""
    png = read_chunks(data)
    # Pillow undoes the filters and no more. It leaves rows black for which there is no data, looks at the checksum of
    # the stream only if it is in the last chunk that it needs, and damaged or huge text and profile chunks stop it.
    # Packed with level 0 the lines cost it no more than a copy.
    chunks = [png.header, _chunk(b"IDAT", zlib.compress(_scan_lines(png), 0)), _chunk(b"IEND", b"")]
    image = load_picture(b"".join([PNG_SIGNATURE, *chunks]), "PNG")
    if png.bytes_per_pixel == 3:
        return colour_plane(image, "PNG", stain)
    return gray_plane(np.asarray(image), "PNG", white_level)


def read_chunks(data: bytes) -> Png:
    """Walk the chunks and verify every checksum (Pillow does not verify those of the pixels) and the header.

    Costs about 1 % of the decoding. Raises DecodeError.
    """
    view = memoryview(data)
    start = position = len(PNG_SIGNATURE)
    pixels = []
    width = height = bytes_per_pixel = interlace = 0
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
            width, height, bytes_per_pixel, interlace = _check_header(data[position + 8 : end])
        elif kind == b"IDAT":
            pixels.append(view[position : end + 4])
        elif kind == b"IEND":
            if not pixels:
                raise DecodeError("damaged PNG (holds no pixels)")
            return Png(data[start : start + 25], pixels, width, height, bytes_per_pixel, bool(interlace))
        position = end + 4
    raise DecodeError(f"truncated PNG (ends after {len(data):,} bytes)")


def _check_header(header: bytes) -> tuple[int, int, int, int]:
    """Width, height, bytes per pixel and interlacing of an image that can be read. Raises DecodeError."""
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
    check_size(width, height, "PNG")
    if (depth, colour) not in BYTES_PER_PIXEL:
        raise DecodeError(REFUSED.get(colour, "{}-bit gray PNG, expected 8 or 16 bits").format(depth))
    if compression or filtering or interlace > 1:
        raise DecodeError(f"damaged PNG (methods {compression}, {filtering}, {interlace})")
    return width, height, BYTES_PER_PIXEL[depth, colour], interlace


def _scan_lines(png: Png) -> bytes:
    """The unpacked stream of pixels, each line with its filter before it; all of it, its checksum verified."""
    passes = ADAM7 if png.interlaced else ((0, 0, 1, 1),)
    sides = [(-((x - png.width) // dx), -((y - png.height) // dy)) for x, y, dx, dy in passes]
    expected = sum(rows * (columns * png.bytes_per_pixel + 1) for columns, rows in sides if columns > 0 and rows > 0)
    stream = zlib.decompressobj()
    try:
        lines = stream.decompress(b"".join(chunk[8:-4] for chunk in png.data), expected)
        more = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise DecodeError(f"damaged PNG ({error})") from error
    if len(lines) < expected:
        raise DecodeError(f"truncated PNG (holds {len(lines):,} of {expected:,} bytes of pixels)")
    if more or not stream.eof:
        raise DecodeError("damaged PNG (its stream of pixels does not end where it should)")
    return lines


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
