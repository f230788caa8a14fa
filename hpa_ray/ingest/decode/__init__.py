"""Bytes of one image file -> one (H, W) uint8 plane. Before: storage. After: ingest/stack.

Imports no torch: every Ray worker that decodes would pay for it.
"""

from hpa_ray.ingest.decode.jpeg import JPEG_SIGNATURE, decode_jpeg
from hpa_ray.ingest.decode.plane import MAX_SIDE_PX, DecodeError, Plane
from hpa_ray.ingest.decode.png import PNG_SIGNATURE, decode_png
from hpa_ray.ingest.decode.tiff import TIFF_SIGNATURES, decode_tiff

__all__ = ["MAX_SIDE_PX", "DecodeError", "Plane", "decode_plane"]

EXPECTED = "expected a PNG, TIFF or JPEG of one stain"


def decode_plane(data: bytes, stain: str, *, white_level: int = 65535) -> Plane:
    """A gray or pseudo-coloured PNG, TIFF or JPEG -> the 8-bit gray plane of the stain (red, green, blue, yellow).

    The content decides, not a file name: the RGB pictures of 57_F11_1 are named .png and are JPEGs. 16-bit values up to
    white_level (1..65535) become 0..255; 8-bit ones stay as they are. Pixels are taken as stored: orientation, colour
    profile and gamma are ignored. Raises DecodeError for everything that is not surely one stain's whole picture.
    """
    if not data:
        raise DecodeError("the file is empty (0 bytes)")
    if data.startswith(PNG_SIGNATURE):
        return decode_png(data, stain, white_level)
    if data.startswith(JPEG_SIGNATURE):
        return decode_jpeg(data, stain, white_level)
    if data.startswith(TIFF_SIGNATURES):
        return decode_tiff(data, stain, white_level)
    raise DecodeError(f"not an image file that can be read, {EXPECTED}")
