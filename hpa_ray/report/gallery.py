"""Strips of pictures -> a gallery that fits into its share of the page. Before: report/files. After: errors_part."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.page import Block, Exhibit, Gallery, Text
from hpa_ray.report.contents import Shown
from hpa_ray.report.parts import class_name, class_names

GAP_PX = 2
SIDES_PX = (112, 88, 64)
"""Of one panel: as they come, and smaller where the page would be too large."""
MAX_PANELS = 12
MAX_PIXELS = 4_000_000
KINDS = {
    "best": "right and sure",
    "worst": "missed or wrong",
    "surprising": "most surprising",
    "label_error": "label to check",
}


class Fitted(NamedTuple):
    side_px: int
    pictures: list[bytes]
    """Of the first so many images, in the order in which they are left out last."""


def gallery_blocks(shown: Sequence[Shown], *, budget: int, gradcam: str | None) -> list[Block]:
    """The gallery in at most `budget` bytes of the page; what does not fit is said. Raises InputError for a damaged
    picture."""
    if not shown:
        return [Text("The run folder has no gallery; `hpa-ray analyze analyze.run=FOLDER` makes one.")]
    order = in_turns(shown)
    fitted = fit(order, budget)
    kept = sorted(order[: len(fitted.pictures)], key=shown.index)
    picture_of = {id(one): picture for one, picture in zip(order, fitted.pictures, strict=False)}
    tiles = [_tile(one, picture_of[id(one)]) for one in kept]
    what = f", and where the model looked ({gradcam})" if gradcam else ""
    caption = f"Each picture: the stains merged, then each stain by itself{what}. Brightness is stretched for display."
    if len(kept) < len(shown):
        caption += f" {len(kept)} of {len(shown)} images are shown, as the page stays below 5 MB."
    if fitted.side_px < SIDES_PX[0]:
        caption += f" The pictures are made smaller ({fitted.side_px} px) for the same reason."
    return [Gallery(tiles, ("class", "kind"), tile_px=250, caption=caption)]


def in_turns(shown: Sequence[Shown]) -> list[Shown]:
    """The first of every class and kind, then the second of each, and so on: what is left out takes from all."""
    turns: dict[tuple[int, str], int] = {}
    placed: list[tuple[int, int, Shown]] = []
    for one in shown:
        key = (one.of, one.kind)
        turns[key] = turns.get(key, -1) + 1
        placed.append((turns[key], len(placed), one))
    return [one for _, _, one in sorted(placed, key=lambda item: item[:2])]


def fit(order: Sequence[Shown], budget: int) -> Fitted:
    """All images at the largest side at which they fit, or at the smallest as many as do."""
    pictures: list[bytes] = []
    for side_px in SIDES_PX:
        pictures, used = [], 0
        for one in order:
            picture = folded(one.picture, side_px, of=one.image_id)
            used += len(picture) * 4 // 3 + 700  # base64, and the words of the tile
            if used > budget:
                break
            pictures.append(picture)
        if len(pictures) == len(order):
            return Fitted(side_px, pictures)
    return Fitted(SIDES_PX[-1], pictures)


def folded(strip: bytes, side_px: int, *, of: str) -> bytes:
    """A strip of square panels -> the panels in two rows, as JPEG: a phone is narrower than six panels.

    Raises InputError if it is no picture.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(strip), formats=("JPEG", "PNG"))
        if image.width * image.height > MAX_PIXELS or not image.height:
            raise ValueError(f"{image.width} x {image.height} px")
        image = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"gallery: the picture of {of} can not be used ({error}) - analyze the run again") from error
    side = image.height
    number = max(1, min(MAX_PANELS, round((image.width + GAP_PX) / (side + GAP_PX))))
    columns = -(-number // 2) if number > 2 else number
    rows = -(-number // columns)
    size = min(side, side_px)
    page = Image.new("RGB", (columns * (size + GAP_PX) - GAP_PX, rows * (size + GAP_PX) - GAP_PX), (255, 255, 255))
    for place in range(number):
        left = place * (side + GAP_PX)
        panel = image.crop((left, 0, left + side, side))
        if size < side:
            panel = panel.resize((size, size), Image.Resampling.BILINEAR)
        page.paste(panel, ((place % columns) * (size + GAP_PX), (place // columns) * (size + GAP_PX)))
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _tile(one: Shown, picture: bytes) -> Exhibit:
    name = CLASS_NAMES[one.of]
    kind = KINDS.get(one.kind, one.kind)
    truth = "labels not known" if one.truth is None else f"labels: {class_names(one.truth)}"
    lines = [
        f"{kind}; probability {one.probability:.2f}, threshold {one.threshold:.2f}",
        truth,
        f"predicted: {class_names(one.labels)}",
        one.image_id,
    ]
    alt = f"Stains of image {one.image_id}, {kind} of {name}; {truth}"
    return Exhibit(picture, alt, (class_name(one.of), kind), class_name(one.of), lines)
