"""Chosen images -> rows of schema.GALLERY_ROW with their pictures. Before: examples, label_errors, gradcam. After: run.

A strip of six pictures of STRIP_PX is about 10 KB, so that six of each of 28 classes are below 2 MB, and a page that
holds them as base64 text below 3 MB. B images, C stains, S side in px, s side of a heat map.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from hpa_ray.analysis.embed import Viewer
from hpa_ray.analysis.examples import Kind
from hpa_ray.analysis.gradcam import Method, Place, find_place, grad_cam
from hpa_ray.schema import GALLERY_ROW

STRIP_PX = 112
GAP_PX = 2
JPEG_QUALITY = 80
CHUNK = 16
"""Images whose pixels are held at once."""


class Shown(NamedTuple):
    """An image of the gallery, but for its picture."""

    row: int  # of the manifest
    kind: Kind
    of: int
    probability: float
    threshold: float
    truth: list[int]
    labels: list[int]


def gallery(viewer: Viewer, shown: Sequence[Shown], *, gradcam: bool) -> tuple[pa.Table, Method | None]:
    """The rows in their order, without those whose images can not be read, and how the heat maps were made.

    Only these images are read, each once in a chunk.
    """
    rows: list[dict[str, Any]] = []
    method: Method | None = None
    place: Place | None = None
    source = viewer.data.source
    for start in range(0, len(shown), CHUNK):
        chunk = shown[start : start + CHUNK]
        images = source.read(np.unique([one.row for one in chunk]))
        at = {int(row): position for position, row in enumerate(images.rows_B)}
        chunk = [one for one in chunk if one.row in at]
        if not chunk:
            continue
        pixels_BCSS = images.pixels_BCSS[[at[one.row] for one in chunk]]
        heats: Sequence[np.ndarray | None] = [None] * len(chunk)
        if gradcam:
            given = viewer.images(pixels_BCSS, np.array([one.row for one in chunk]))
            classes_B = torch.tensor([one.of for one in chunk], device=viewer.device)
            place = place or find_place(viewer.model, given, classes_B)
            cam = grad_cam(viewer.model, given, classes_B, at=place)
            heats, method = list(cam.maps_Bss), cam.method
        ids = viewer.data.ids(np.array([one.row for one in chunk]))
        for one, image_id, image_CSS, heat_ss in zip(chunk, ids, pixels_BCSS, heats, strict=True):
            fields = {"image_id": image_id, "class": one.of, "picture": strip(image_CSS, source.channels, heat_ss)}
            fields |= {name: value for name, value in one._asdict().items() if name in GALLERY_ROW.names}
            rows.append(fields)
    return pa.Table.from_pylist(rows, schema=GALLERY_ROW), method


def strip(image_CSS: np.ndarray, channels: Sequence[str], heat_ss: np.ndarray | None) -> bytes:
    """A JPEG: stains merged (where there are several), each stain in its colour, the heat map over the protein stain.

    Contrast is stretched for display, see figures/colour. Without a heat map its picture is left out.
    """
    from hpa_ray.figures import merge_rgb, overlay  # matplotlib takes half a second
    from hpa_ray.figures.colour import pseudo_colour, stretch

    small_CSS = np.stack([_resized(plane) for plane in image_CSS])
    bright_CSS = stretch(small_CSS)
    pictures = [merge_rgb(small_CSS, channels)] if len(channels) > 1 else []
    pictures += [pseudo_colour(plane, stain) for plane, stain in zip(bright_CSS, channels, strict=True)]
    if heat_ss is not None:
        below = bright_CSS[channels.index("green") if "green" in channels else 0]
        pictures.append(overlay(below, heat_ss))
    wide = np.full((STRIP_PX, len(pictures) * (STRIP_PX + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        left = number * (STRIP_PX + GAP_PX)
        wide[:, left : left + STRIP_PX] = picture
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _resized(plane_SS: np.ndarray) -> np.ndarray:
    """By a filter without negative lobes: what overshoots at an edge would be taken for the brightest of the plane."""
    return np.asarray(Image.fromarray(plane_SS).resize((STRIP_PX, STRIP_PX), Image.Resampling.HAMMING))
