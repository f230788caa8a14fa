"""TIFF: 8- and 16-bit gray, 8-bit RGB, in strips or tiles, plain, LZW or deflate, one picture per file.

The directory is read here, so that nothing but the pixels has to be left to libtiff, and of these only LZW.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from hpa_ray.ingest.decode.plane import (
    MAX_SIDE_PX,
    DecodeError,
    Plane,
    check_size,
    colour_plane,
    gray_plane,
    load_picture,
)

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT = 322, 323, 324, 325, 339
TAGS = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES}
TAGS |= {PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT}
INTEGERS = {1: "u1", 3: "u2", 4: "u4"}
PLAIN, LZW, DEFLATE = 1, 5, (8, 32946)
COMPRESSIONS = {6: "JPEG", 7: "JPEG", 32773: "PackBits", 34712: "JPEG 2000", 50000: "Zstandard", 50001: "WebP"}
NUMBERS = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
RIGHT = "save it as 8- or 16-bit gray, plain, LZW or deflate"


class Layout(NamedTuple):
    """How the pixels lie in a file. Segments are strips, from top to bottom, or tiles, row by row."""

    order: str  # "<" or ">"
    width: int
    height: int
    samples: int  # 1 gray, 3 RGB
    depth: int  # 8 or 16
    compression: int
    predictor: int  # 2: differences to the pixel at the left
    segment_width: int
    segment_height: int
    tiled: bool
    segments: list[tuple[int, int]]  # first byte, number of bytes


def decode_tiff(data: bytes, stain: str, white_level: int) -> Plane:
    """Raises DecodeError for other kinds of pixels, several pictures, truncated or damaged bytes, huge sizes."""
    layout = read_layout(data)
    values = _decode_lzw(data, layout) if layout.compression == LZW else _decode_segments(data, layout)
    if layout.samples == 3:
        return colour_plane(Image.fromarray(values), "TIFF", stain)
    return gray_plane(values, "TIFF", white_level)


def read_layout(data: bytes) -> Layout:
    """Raises DecodeError for all that is not the one gray or RGB picture of a whole file."""
    order = "<" if data[:2] == b"II" else ">"
    tags = _read_tags(data, order)

    def one(tag: int, default: int | None = None) -> int:
        values = tags.get(tag)
        if values is not None and len(set(values.tolist())) == 1:
            return int(values[0])
        if values is not None or default is None:
            raise DecodeError(f"damaged TIFF (tag {tag})")
        return default

    width, height = one(WIDTH), one(HEIGHT)
    check_size(width, height, "TIFF")
    samples, depth, compression = one(SAMPLES, 1), one(BITS, 1), one(COMPRESSION, PLAIN)
    photometric, predictor = one(PHOTOMETRIC), one(PREDICTOR, 1)
    _check_kind(samples, depth, photometric, one(SAMPLE_FORMAT, 1))
    if compression not in (PLAIN, LZW, *DEFLATE):
        raise DecodeError(f"TIFF with {COMPRESSIONS.get(compression, f'compression {compression}')} - {RIGHT}")
    if predictor > 2 or one(FILL_ORDER, 1) != 1:
        raise DecodeError(f"TIFF with predictor {predictor} or mirrored bits - {RIGHT}")
    if samples == 3 and one(PLANAR, 1) != 1:
        raise DecodeError("RGB TIFF of separate planes - save it with the colours of each pixel together")

    tiled = TILE_OFFSETS in tags
    if tiled and STRIP_OFFSETS in tags:
        raise DecodeError("damaged TIFF (both strips and tiles)")
    if tiled:
        segment_width, segment_height = one(TILE_WIDTH), one(TILE_HEIGHT)
        if not (0 < segment_width <= MAX_SIDE_PX and 0 < segment_height <= MAX_SIDE_PX):
            raise DecodeError(f"damaged TIFF (tiles of {segment_width} x {segment_height} px)")
    else:
        segment_width, segment_height = width, min(one(ROWS_PER_STRIP, 2**32 - 1), height)
        if segment_height < 1:
            raise DecodeError("damaged TIFF (strips without rows)")
    offsets = tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, np.empty(0)).tolist()
    sizes = tags.get(TILE_BYTES if tiled else STRIP_BYTES, np.empty(0)).tolist()
    expected = -(-width // segment_width) * -(-height // segment_height)
    if len(offsets) != expected or len(sizes) != expected:
        raise DecodeError(f"damaged TIFF (lists {len(offsets)} strips or tiles and {len(sizes)} sizes, not {expected})")
    segments = list(zip(offsets, sizes, strict=True))
    end = max(offset + size for offset, size in segments)
    if end > len(data):
        raise DecodeError(f"truncated TIFF (ends after {len(data):,} of {end:,} bytes)")
    return Layout(
        order, width, height, samples, depth, compression, predictor, segment_width, segment_height, tiled, segments
    )


def _read_tags(data: bytes, order: str) -> dict[int, np.ndarray]:
    """The tags of `TAGS` in the first directory, as integers. Raises DecodeError if there are several directories."""
    if data[2:4] != struct.pack(f"{order}H", 42):
        raise DecodeError(f"BigTIFF - {RIGHT} in a TIFF of less than 4 GB")
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (num,) = struct.unpack_from(f"{order}H", data, start)
        entries = [struct.unpack_from(f"{order}HHI4s", data, start + 2 + 12 * k) for k in range(num)]
        (following,) = struct.unpack_from(f"{order}I", data, start + 2 + 12 * num)
    except struct.error as error:
        raise DecodeError(f"truncated TIFF (ends after {len(data):,} bytes)") from error
    if following:
        raise DecodeError("TIFF of several pictures, expected one - save one file per stain")
    tags: dict[int, np.ndarray] = {}
    for tag, kind, count, field in entries:
        if tag not in TAGS:
            continue
        if kind not in INTEGERS or not count or tag in tags:
            raise DecodeError(f"damaged TIFF (tag {tag})")
        values = np.dtype(order + INTEGERS[kind])
        offset = int.from_bytes(field, "little" if order == "<" else "big")
        source, offset = (field, 0) if count * values.itemsize <= 4 else (data, offset)
        if offset + count * values.itemsize > len(source):
            raise DecodeError(f"truncated TIFF (ends after {len(data):,} bytes)")
        tags[tag] = np.frombuffer(source, values, count, offset)
    return tags


def _check_kind(samples: int, depth: int, photometric: int, number: int) -> None:
    """Raises DecodeError for pixels other than 8- or 16-bit gray or 8-bit RGB."""
    if samples == 4:
        raise DecodeError(
            "TIFF of four planes - if they are the four stains that is another layout: save one gray TIFF per stain, "
            "if not save it without alpha"
        )
    if samples not in (1, 3):
        raise DecodeError(f"TIFF of {samples} planes, expected gray or RGB")
    if number != 1:
        raise DecodeError(f"TIFF of {depth}-bit {NUMBERS.get(number, 'unknown')} numbers - {RIGHT}")
    if samples == 3 and (depth != 8 or photometric != 2):
        raise DecodeError(f"{depth}-bit colour TIFF (kind {photometric}) - save it as 16-bit gray or 8-bit RGB")
    if depth not in (8, 16):
        raise DecodeError(f"{depth}-bit gray TIFF - {RIGHT}")
    if samples == 1 and photometric != 1:
        kinds = {0: "gray TIFF in which white is 0", 3: "palette TIFF"}
        raise DecodeError(f"{kinds.get(photometric, f'TIFF of kind {photometric}')} - save it as gray with black 0")


def _decode_segments(data: bytes, layout: Layout) -> np.ndarray:
    """(H, W) uint8 or uint16, or (H, W, 3) uint8 of plain or deflated segments. Raises DecodeError."""
    view = memoryview(data)
    stored = np.dtype(f"{layout.order}u{layout.depth // 8}")
    shape = (layout.height, layout.width, layout.samples)
    row_bytes = layout.segment_width * layout.samples * stored.itemsize
    num_across = -(-layout.width // layout.segment_width)
    image = np.empty(shape, stored.newbyteorder("="))
    for number, (offset, size) in enumerate(layout.segments):
        top, left = (
            number // num_across * layout.segment_height,
            number % num_across * layout.segment_width,
        )
        rows = layout.segment_height if layout.tiled else min(layout.segment_height, layout.height - top)
        content: bytes | memoryview = view[offset : offset + size]
        if layout.compression != PLAIN:
            content = _inflate(content, row_bytes * layout.segment_height)
        if len(content) < rows * row_bytes:
            raise DecodeError(
                f"truncated TIFF (strip or tile {number}: {len(content):,} of {rows * row_bytes:,} bytes)"
            )
        values = np.frombuffer(content, stored, rows * row_bytes // stored.itemsize)
        values = values.reshape(rows, layout.segment_width, layout.samples)
        if layout.predictor == 2 and layout.compression != PLAIN:
            values = np.add.accumulate(values, axis=1, dtype=image.dtype)
        target = image[top : top + rows, left : left + layout.segment_width]
        target[...] = values[: target.shape[0], : target.shape[1]]
    return image if layout.samples == 3 else image[:, :, 0]


def _inflate(content: bytes | memoryview, most: int) -> bytes:
    """The bytes of a zlib stream, whose own checksum is verified, if they are not more than `most`."""
    stream = zlib.decompressobj()
    try:
        values = stream.decompress(content, most)
        more = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise DecodeError(f"damaged TIFF ({error})") from error
    if more or not stream.eof:
        raise DecodeError("damaged TIFF (a strip or tile holds too much or too little)")
    return values


def _decode_lzw(data: bytes, layout: Layout) -> np.ndarray:
    """As `_decode_segments`, by libtiff, which gets a file of only what is needed: other tags it would complain of."""
    pieces = [data[offset : offset + size] for offset, size in layout.segments]
    offsets = np.cumsum([8, *map(len, pieces)]).tolist()
    start = offsets.pop()
    height, lists = (TILE_HEIGHT, TILE_OFFSETS) if layout.tiled else (ROWS_PER_STRIP, STRIP_OFFSETS)
    tags = {
        WIDTH: [layout.width],
        HEIGHT: [layout.height],
        BITS: [layout.depth] * layout.samples,
        COMPRESSION: [LZW],
        PHOTOMETRIC: [2 if layout.samples == 3 else 1],
        SAMPLES: [layout.samples],
        PREDICTOR: [layout.predictor],
        height: [layout.segment_height],
        lists: offsets,
        TILE_BYTES if layout.tiled else STRIP_BYTES: [len(piece) for piece in pieces],
    }
    if layout.tiled:
        tags[TILE_WIDTH] = [layout.segment_width]
    directory, behind = struct.pack(f"{layout.order}H", len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        field = struct.pack(f"{layout.order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            position = start + 2 + 12 * len(tags) + 4 + len(behind)
            behind += field
            field = struct.pack(f"{layout.order}I", position)
        directory += struct.pack(f"{layout.order}HHI", tag, 4, len(numbers)) + field
    header = data[:4] + struct.pack(f"{layout.order}I", start)
    return np.asarray(load_picture(b"".join([header, *pieces, directory, bytes(4), behind]), "TIFF"))
