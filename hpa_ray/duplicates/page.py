"""What was found -> duplicates.html, with pictures of the pairs that are most in need of a look. Before: tables."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from hpa_ray.duplicates.hashes import MIN_CONTRAST, NUM_BITS
from hpa_ray.duplicates.pairs import NEEDED
from hpa_ray.duplicates.tables import Report
from hpa_ray.ingest.stack import resize_plane
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.page import Block, Card, Cards, Code, Column, Grid, Section, Table, Text, Tile, render_page
from hpa_ray.schema import Source

# C stains, P pairs, S side in px

PICTURE_PX = 128
"""Side of a merged picture; the stains beside it have half of it."""
QUALITY = 82
"""Of JPEG. A pair takes 30 KB; PNG, which is made for flat colours, took ten times as much."""


def duplicates_page(report: Report, source: Source, next_command: str, *, num_pictured: int) -> str:
    """The page as text. What `source` can not read has no picture."""
    counts, found = report.counts(), report.found
    dark = counts["num_images"] - counts["num_compared"]
    cards = [
        Card("images", counts["num_images"], f"{dark:,} too dark to be compared" if dark else "all compared"),
        Card("pairs", counts["num_pairs"], f"at most {report.max_distance} of {NUM_BITS} bits in every stain"),
        Card(
            "groups", counts["num_groups"], f"{counts['num_grouped']:,} images, the largest {counts['largest_group']}"
        ),
        Card("contradicting", counts["num_contradicting"], "groups whose images have different labels"),
        Card("across sources", counts["num_across"], "groups with images of more than one source"),
    ]
    furthest = np.bincount(found.distances_PC.max(axis=1, initial=0), minlength=report.max_distance + 1)
    rows = [(bits, count) for bits, count in enumerate(furthest.tolist())]
    histogram = Table(
        ["bits", Column("pairs", bar=True)], rows, caption="Pairs by the bits that differ in their furthest stain"
    )
    overview: list[Block] = [Cards(cards), Text(_rule(report)), histogram, Code(next_command)]
    picked = pictured(report, num_pictured)
    pairs: list[Block] = [Text("No pair.")] if not len(found.a_P) else []
    if len(picked):
        pairs = [_pictures(report, source, picked)]
    title = "Pairs" if len(picked) == len(found.a_P) else f"Pairs ({len(picked):,} of {len(found.a_P):,})"
    return render_page("Near duplicates", [Section("What was found", overview), Section(title, pairs)])


def pictured(report: Report, num_pictured: int) -> np.ndarray:
    """(at most num_pictured,) numbers of pairs: contradicting labels first, then across sources, then the furthest."""
    furthest = report.found.distances_PC.max(axis=1, initial=0)
    return np.lexsort((-furthest, ~report.across_P(), ~report.contradicting_P()))[:num_pictured]


def _rule(report: Report) -> str:
    needed = min(NEEDED, len(report.channels))
    return f"""Each plane is described by {NUM_BITS} bits, the signs of its coarsest waves; brightness, compression and
        size hardly change them. Two images are taken for one if at most {report.max_distance} bits differ in each stain
        that shows anything in both of them ({MIN_CONTRAST:g} gray level of contrast at the least), and {needed} stains
        do. Images that hang together through others are one group, which `split` keeps in one part.

        Look at the pairs below: if some are not the same picture, a smaller duplicates.max_distance leaves them apart.
        A copy that was cropped, turned or moved by more than about one hundredth of its side is not found."""


def _pictures(report: Report, source: Source, picked: np.ndarray) -> Grid:
    found, ids, (codes, sets) = report.found, report.image_ids, report.label_codes()
    contradicting, source_N = report.contradicting_P(), report.source_N
    rows = np.unique(np.concatenate([found.a_P[picked], found.b_P[picked]]))
    strips = {
        row: picture for row in rows.tolist() if (picture := _picture(source, report.rows_N[row], report.channels))
    }
    tiles = []
    for pair in picked.tolist():
        ends = (int(found.a_P[pair]), int(found.b_P[pair]))
        bits = found.distances_PC[pair].tolist()
        told = zip(report.channels, bits, strict=True)
        lines = ["bits: " + ", ".join(f"{stain} {'dark' if bit < 0 else bit}" for stain, bit in told)]
        labels = [_names(sets[codes[row]]) if codes[row] >= 0 else "not known" for row in ends]
        if contradicting[pair]:
            lines += ["CONTRADICTING LABELS", *(f"{ids[row]}: {text}" for row, text in zip(ends, labels, strict=True))]
        else:
            lines.append(f"labels: {labels[0]}" if labels[0] == labels[1] else f"labels: {labels[0]} / {labels[1]}")
        if source_N[ends[0]] != source_N[ends[1]]:
            lines.append(f"sources: {source_N[ends[0]]} and {source_N[ends[1]]}")
        pictures = [strips[row] for row in ends if row in strips]
        tiles.append(Tile(pictures, f"{ids[ends[0]]}  |  {ids[ends[1]]}", lines))
    return Grid(tiles, tile_px=4 * PICTURE_PX + 20, caption=_caption(report.channels))


def _caption(channels: Sequence[str]) -> str:
    from hpa_ray.figures import CONTRAST_RULE

    return f"Of each image all stains merged, then each by itself: {', '.join(channels)}, row by row. {CONTRAST_RULE}"


def _picture(source: Source, row: int, channels: Sequence[str]) -> bytes | None:
    """All stains merged, and beside it each by itself, as a JPEG; None if the image can not be read (any more)."""
    from hpa_ray.figures.colour import merge_rgb, pseudo_colour, stretch  # late: it imports matplotlib

    pixels = source.read(np.array([row])).pixels_BCSS
    if not len(pixels):
        return None
    image = np.stack([resize_plane(plane, PICTURE_PX) for plane in pixels[0]])
    half = PICTURE_PX // 2
    canvas = np.zeros((PICTURE_PX, 2 * PICTURE_PX, 3), np.uint8)
    canvas[:, :PICTURE_PX] = merge_rgb(image, channels)
    for number, (plane, stain) in enumerate(zip(stretch(image), channels, strict=True)):
        small = np.asarray(Image.fromarray(pseudo_colour(plane, stain)).reduce(2))
        top, left = number // 2 * half, PICTURE_PX + number % 2 * half
        canvas[top : top + half, left : left + half] = small
    data = io.BytesIO()
    Image.fromarray(canvas).save(data, "JPEG", quality=QUALITY, subsampling=0)
    return data.getvalue()


def _names(labels: str) -> str:
    return ", ".join(f"{word} {CLASS_NAMES[int(word)]}" for word in labels.split()) or "none"
