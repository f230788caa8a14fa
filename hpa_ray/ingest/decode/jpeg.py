"""JPEG: 8-bit gray and RGB (stored as YCbCr or RGB).

The format has no checksums: a changed byte in the pixels goes unnoticed unless the decoder runs out of data.
"""

import re
import struct
from typing import NamedTuple

import numpy as np

from hpa_ray.ingest.decode.plane import DecodeError, Plane, check_size, colour_plane, gray_plane, load_picture

JPEG_SIGNATURE = b"\xff\xd8\xff"
SOI, EOI, SOS, DQT, DHT, DRI, APP0, APP14 = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE
FRAMES = {0xC0: "sequential", 0xC1: "sequential", 0xC2: "progressive"}
OTHER_FRAMES = {*range(0xC3, 0xD0)} - {DHT, 0xC8, 0xCC}
COMMENTS = {*range(0xE0, 0xF0), 0xFE} - {APP0, APP14}  # JFIF and Adobe say whether the planes are YCbCr or RGB
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The end of the data of a scan: not a stuffed 255, a restart or a filling byte."""
MAX_SCANS = 64
"""Each costs time for a whole image; encoders write about ten."""
FILLER = b"\xff\x00" * 8
"""libjpeg reads up to 8 bytes ahead. All ones are no code of any table: each symbol made of them costs 16 bits."""


class Jpeg(NamedTuple):
    """The parts of a JPEG that make the image."""

    content: bytes
    num_components: int


def decode_jpeg(data: bytes, stain: str, white_level: int) -> Plane:
    """Raises DecodeError for CMYK, 12-bit, lossless and arithmetic JPEGs, truncated or damaged bytes, huge sizes."""
    jpeg = read_segments(data)
    image = load_picture(jpeg.content, "JPEG")
    if jpeg.num_components == 3:
        return colour_plane(image, "JPEG", stain)
    return gray_plane(np.asarray(image), "JPEG", white_level)


def read_segments(data: bytes) -> Jpeg:
    """Walk the segments to the end of the image, leave out what is not needed for it. Raises DecodeError.

    libjpeg fills what is missing with gray and tells nobody. Of a JPEG of one scan the end is therefore replaced by a
    few bytes that no decoder of the whole image can use up: Pillow then finds it truncated. Others must hold a scan
    for every bit of every coefficient.
    """
    parts = [bytes((0xFF, SOI))]
    components: list[int] = []
    missing: dict[tuple[int, int], int] = {}  # component, coefficient -> lowest bit so far, 0 when complete
    num_scans = 0
    position = 2
    while True:
        start = position
        while data[position : position + 2] == b"\xff\xff":  # filling bytes
            position += 1
        if position + 2 > len(data):
            raise DecodeError(f"truncated JPEG (ends after {len(data):,} bytes)")
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise DecodeError(f"damaged JPEG (no segment at byte {start})")
        if marker == EOI:
            break
        length = int.from_bytes(data[position + 2 : position + 4].ljust(2, b"\xff"), "big")  # cut: longer than the file
        body, end = data[position + 4 : position + 2 + length], position + 2 + length
        if length < 2:
            raise DecodeError(f"damaged JPEG (segment {marker:#x} at byte {start})")
        if end > len(data):
            raise DecodeError(f"truncated JPEG (ends after {len(data):,} bytes)")
        segment = data[position:end]
        if marker in FRAMES and not components:
            components = _read_frame(body)
            missing = {(component, k): 99 for component in components for k in range(64)}
        elif marker in OTHER_FRAMES:
            raise DecodeError("lossless or arithmetic JPEG - save it as a baseline JPEG")
        elif marker == SOS and components:
            num_scans += 1
            found = MARKER.search(data, end)
            if found is None:
                raise DecodeError(f"truncated JPEG (ends after {len(data):,} bytes)")
            single = _read_scan(body, components, missing)
            if single and num_scans > 1:
                raise DecodeError("damaged JPEG (a scan too many)")
            segment, end = data[position : found.start()], found.start()
        elif marker not in {DQT, DHT, DRI, APP0, APP14} | COMMENTS:
            raise DecodeError(f"damaged JPEG (segment {marker:#x} at byte {start})")
        if marker not in COMMENTS:
            parts.append(segment)
        position = end
        if num_scans > MAX_SCANS:
            raise DecodeError(f"JPEG of more than {MAX_SCANS} scans")
    if not num_scans:
        raise DecodeError("damaged JPEG (holds no pixels)")
    if any(missing.values()):
        raise DecodeError(f"truncated JPEG (ends after {num_scans} scans, more are needed)")
    parts.append(FILLER if single else bytes((0xFF, EOI)))
    return Jpeg(b"".join(parts), len(components))


def _read_frame(body: bytes) -> list[int]:
    """Ids of the components of an image of a sensible size. Raises DecodeError."""
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise DecodeError("damaged JPEG (its header)")
    depth, height, width, num = struct.unpack_from(">BHHB", body)
    check_size(width, height, "JPEG")
    if depth != 8:
        raise DecodeError(f"{depth}-bit JPEG, expected 8 bits")
    if num == 4:
        raise DecodeError("CMYK JPEG - save it as gray or RGB")
    components = list(body[6::3])
    if num not in (1, 3) or len(set(components)) < num:
        raise DecodeError(f"JPEG of {num} components, expected gray or RGB")
    return components


def _read_scan(body: bytes, components: list[int], missing: dict[tuple[int, int], int]) -> bool:
    """Cross out what the scan brings; True if it is all of the image at once. Raises DecodeError."""
    if len(body) < 4 or len(body) != 4 + 2 * body[0] or not body[0]:
        raise DecodeError("damaged JPEG (header of a scan)")
    *_, first, last, bits = body
    ids = list(body[1:-3:2])
    if not set(ids) <= set(components) or first > last or last > 63:
        raise DecodeError("damaged JPEG (header of a scan)")
    missing.update({(component, k): bits & 15 for component in ids for k in range(first, last + 1)})
    return len(ids) == len(components) and (first, last, bits) == (0, 63, 0)
