"""What sections of a report share: figures that live in the page alone, and number formats. After: report sections."""

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.page import Figure

NAMED = 5

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def chart(drawing: "Drawing", caption: str, *, alt: str, title: str = "") -> Figure:
    """As SVG, sharp at any size; nothing lies beside the page."""
    from hpa_ray import figures  # late: it imports matplotlib

    return Figure(figures.figure_svg(drawing), caption, title, alt)


def photo(png: bytes, caption: str, *, alt: str, width_px: int) -> Figure:
    """A picture of the run folder, as JPEG of at most 1.5 times the width at which it is shown. Raises InputError."""
    try:
        image: Image.Image = Image.open(io.BytesIO(png), formats=("PNG",))
        image.thumbnail((width_px * 3 // 2, width_px * 6))
        image = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"figures of the run: {alt} can not be used ({error}) - delete the file") from error
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return Figure(buffer.getvalue(), caption, "", alt, width_px=width_px)


def number(value: float | None, spec: str = ".3f") -> str | None:
    return None if value is None else f"{value:{spec}}"


def span(pair: tuple[float, float] | None) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}" if pair is not None else ""


def class_name(k: int) -> str:
    return f"{k} {CLASS_NAMES[k]}"


def class_names(numbers: "tuple[int, ...] | list[int]") -> str:
    """The first few by name."""
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return (", ".join(CLASS_NAMES[k] for k in numbers[:NAMED]) or "none") + more


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def word(value: Any) -> str:
    """A setting as it would be typed."""
    if value is None:
        return "(unset)"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
