"""Label numbers -> sections of the page, with their figures. Before: explore/labels, folder. After: cli."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpa_ray import figures, page
from hpa_ray.explore.folder import FigureFolder
from hpa_ray.explore.labels import LabelNumbers
from hpa_ray.figures.style import class_label
from hpa_ray.known import TRAIN_IMAGES
from hpa_ray.labels import CLASS_NAMES, CLASS_TABLE

SETS_SHOWN = 20
PAIRS_SHOWN = 20


def label_sections(
    numbers: LabelNumbers, targets_by_source: Mapping[str, np.ndarray], folder: FigureFolder
) -> list[page.Section]:
    """Classes, label sets, what occurs together. `targets_by_source` holds the (N, 28) labels of each source."""
    counts = {name: targets.sum(axis=0, dtype=np.int64) for name, targets in targets_by_source.items()}
    sizes = {name: len(targets) for name, targets in targets_by_source.items()}
    targets = np.concatenate(list(targets_by_source.values()))
    several = max(numbers.per_image) > 1
    distribution = folder.chart(
        "class_distribution",
        figures.class_distribution(counts, sizes),
        "Images of each class, on a log scale, with the share of all "
        + ("images of the source" if len(counts) > 1 else f"{numbers.num_images:,} images")
        + ("; an image may have several classes, so the shares add up to more than 100%." if several else "."),
    )
    per_image = folder.chart(
        "labels_per_image", figures.labels_per_image(numbers.per_image), "Images by their number of classes."
    )
    sets = [
        (", ".join(class_label(k) for k in labels) or "none", len(labels), images, images / numbers.num_images)
        for labels, images in numbers.sets[:SETS_SHOWN]
    ]
    share = page.Column("share", ".2%")
    return [
        page.Section("Overview", [_cards(numbers)]),
        page.Section("Classes", [distribution, *_class_table(numbers), per_image]),
        page.Section(
            "Label sets",
            [
                page.Text(f"The {len(sets)} commonest of {len(numbers.sets):,} different sets of classes."),
                page.Table(["classes", "how many", page.Column("images", bar=True), share], sets),
            ],
        ),
        *_together(numbers, targets, folder),
    ]


def _cards(numbers: LabelNumbers) -> page.Cards:
    present = numbers.counts_K > 0
    one = numbers.per_image.get(1, 0)
    cards = [
        page.Card("images", numbers.num_images),
        page.Card("classes with images", f"{int(present.sum())} of {len(CLASS_NAMES)}"),
        page.Card(
            "labels", int(numbers.counts_K.sum()), f"{numbers.counts_K.sum() / numbers.num_images:.3f} per image"
        ),
        page.Card("images of one class only", f"{one / numbers.num_images:.1%}", f"{one:,} images"),
    ]
    if numbers.imbalance is not None:
        counts = np.where(present, numbers.counts_K, numbers.num_images + 1)
        most, least = int(numbers.counts_K.argmax()), int(counts.argmin())
        note = f"{CLASS_NAMES[most]} to {CLASS_NAMES[least]}"
        cards.append(page.Card("imbalance", f"{numbers.imbalance:,.0f} : 1", note))
    cards.append(page.Card("different label sets", len(numbers.sets)))
    return page.Cards(cards)


def _class_table(numbers: LabelNumbers) -> list[page.Block]:
    columns: list[str | page.Column] = ["class", "name", page.Column("images", bar=True), page.Column("share", ".2%")]
    columns += [page.Column("without another class", ","), "most often with"]
    rows: list[list[Any]] = []
    for k, name in enumerate(CLASS_NAMES):
        partner, count = int(numbers.partner_K[k]), int(numbers.counts_K[k])
        with_it = f"{class_label(partner)} ({numbers.both_KK[k, partner] / count:.0%})" if partner >= 0 else None
        rows.append([k, name, count, count / numbers.num_images, int(numbers.alone_K[k]), with_it])
    if numbers.is_competition:
        return [page.Table(columns, rows), page.Text("These are the labels of the 2018 competition's training images.")]
    columns.insert(4, page.Column("share in the competition", ".2%"))
    for row, (_, known) in zip(rows, CLASS_TABLE, strict=True):
        row.insert(4, known / TRAIN_IMAGES)
    return [page.Table(columns, rows)]


def _together(numbers: LabelNumbers, targets: np.ndarray, folder: FigureFolder) -> list[page.Section]:
    if (numbers.counts_K > 0).sum() < 2:
        return []
    pairs = [_pair_row(numbers, i, j) for i, j in numbers.pairs()[:PAIRS_SHOWN]]
    cooccurrence = folder.chart(
        "cooccurrence",
        figures.cooccurrence(targets),
        "Of the images of a row's class: how many have the column's class too (number), and which share of the row's "
        "class they are (colour, square root scale). White: none. On the diagonal all images of the class. Classes "
        "without images are left out; the others are grouped by compartment, in one order for every data set.",
    )
    correlation = folder.chart(
        "correlation",
        figures.correlation(targets),
        "Phi coefficient of each pair of classes (Pearson's correlation of having one and having the other): above 0 "
        "they are together more often than by chance, below 0 less often. Most pairs lie a little below 0, as an image "
        "has few classes. The scale ends where 99 of 100 pairs lie within. Order as above.",
    )
    columns: list[str | page.Column] = [
        "class A",
        "class B",
        page.Column("images with both", ","),
        page.Column("of A also B", ".1%"),
        page.Column("of B also A", ".1%"),
        page.Column("correlation", "+.3f"),
    ]
    caption = f"The {len(pairs)} strongest correlations. With few images they are uncertain."
    return [page.Section("What occurs together", [cooccurrence, correlation, page.Table(columns, pairs, caption)])]


def _pair_row(numbers: LabelNumbers, i: int, j: int) -> list[str | int | float | None]:
    both = int(numbers.both_KK[i, j])
    shares = [both / int(numbers.counts_K[k]) for k in (i, j)]
    return [class_label(i), class_label(j), both, *shares, float(numbers.phi_KK[i, j])]
