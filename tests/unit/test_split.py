"""Splits: sizes, class shares, groups, and independence of the row order, on the real and on small label tables."""

import csv
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from iterstrat.ml_stratifiers import IterativeStratification

from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_TABLE, multi_hot, parse_labels
from hpa_ray.manifest import keys as keys_module
from hpa_ray.manifest.split import (
    Parts,
    classes_missing,
    deal_extra,
    fold_rows,
    parse_parts,
    part_sizes,
    split_rows,
)

REAL_TABLE = Path(__file__).parents[2] / ".." / "shared" / "hpa" / "train.csv"
derandomized = settings(derandomize=True, deadline=None, max_examples=80)


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, list[str]]:
    if not REAL_TABLE.exists():
        pytest.skip("the real label table ../shared/hpa/train.csv is absent")
    with REAL_TABLE.open() as file:
        rows = list(csv.DictReader(file))
    return multi_hot([parse_labels(row["Target"]) for row in rows]), [row["Id"] for row in rows]


def atlas_like(num_rows: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Labels as frequent as in the atlas, drawn independently; some rows have none."""
    shares = np.array([count for _, count in CLASS_TABLE]) / 31_072
    targets = (np.random.default_rng(seed).random((num_rows, len(shares))) < shares).astype(np.uint8)
    return targets, keys_of(num_rows)


def keys_of(num_rows: int) -> list[str]:
    return [f"image-{row:05d}" for row in range(num_rows)]


def mean_deviation(targets: np.ndarray, part_of: np.ndarray, shares: list[float]) -> float:
    """Mean over parts and classes of |images of the class - wanted| / wanted."""
    wanted = np.outer(shares, targets.sum(axis=0))
    found = np.stack([targets[part_of == j].sum(axis=0, dtype=int) for j in range(len(shares))])
    return float((np.abs(found - wanted) / wanted).mean())


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Targets and counts that add up to their rows."""
    counts = draw(st.lists(st.integers(1, 15), min_size=2, max_size=5))
    shape = (sum(counts), draw(st.integers(1, 5)))
    return draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))), counts


# sizes


@derandomized
@given(tables(), st.integers(0, 3))
def test_counts_are_met_exactly(table: tuple[np.ndarray, list[int]], seed: int) -> None:
    targets, counts = table
    part_of = split_rows(targets, counts, keys=keys_of(len(targets)), seed=seed)
    assert part_of.dtype == np.int16
    assert np.bincount(part_of, minlength=len(counts)).tolist() == counts


@derandomized
@given(st.lists(st.integers(1, 100), min_size=2, max_size=6), st.integers(200, 5000))
def test_shares_are_met_within_a_row(weights: list[int], num_rows: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    try:
        sizes = part_sizes(shares, num_rows)
    except InputError:
        assert min(shares) * num_rows < 1
        return
    assert sum(sizes) == num_rows
    assert all(abs(size - share * num_rows) < 1 for size, share in zip(sizes, shares, strict=True))


@derandomized
@given(tables(), st.integers(20, 60), st.integers(0, 3))
def test_counts_are_met_exactly_by_bulk(table: tuple[np.ndarray, list[int]], times: int, seed: int) -> None:
    few, counts = table
    targets = np.tile(few, (times, 1))
    counts = [count * times for count in counts]
    part_of = split_rows(targets, counts, keys=keys_of(len(targets)), seed=seed)
    assert np.bincount(part_of, minlength=len(counts)).tolist() == counts


def test_sizes_hold_where_every_class_wants_the_last_row() -> None:
    targets = multi_hot([[k] for k in range(10) for _ in range(2)])
    part_of = split_rows(targets, [18, 2], keys=keys_of(20), seed=0)
    assert np.bincount(part_of).tolist() == [18, 2]
    assert len(classes_missing(targets, part_of, 2)[1]) == 8


@pytest.mark.parametrize("label_sets", [[[]], [[0]], [[0, 1], [2]]])
def test_parts_are_spread_over_the_ids(label_sets: list[list[int]]) -> None:
    targets = multi_hot(label_sets * (2000 // len(label_sets)))  # ids may follow date or plate: none may fill a part
    part_of = split_rows(targets, [0.8, 0.2], keys=keys_of(2000), seed=0)
    assert np.bincount(part_of).tolist() == [1600, 400]
    assert part_of[:1000].sum() == pytest.approx(200, abs=40)


# classes


@derandomized
@given(st.lists(st.integers(0, 20), min_size=2, max_size=8), st.integers(2, 5), st.integers(0, 3))
def test_folds_of_single_labels_differ_by_one_image(counts: list[int], num_folds: int, seed: int) -> None:
    labels = [[k] for k, count in enumerate(counts) for _ in range(count)] + [[]] * num_folds
    targets = multi_hot(labels)
    fold_of = fold_rows(targets, num_folds, keys=keys_of(len(labels)), seed=seed)
    per_fold = np.stack([targets[fold_of == fold].sum(axis=0, dtype=int) for fold in range(num_folds)])
    assert (per_fold.max(axis=0) - per_fold.min(axis=0)).max() <= 1
    assert np.bincount(fold_of).tolist() == part_sizes([1 / num_folds] * num_folds, len(labels))


def test_the_odd_image_of_a_class_goes_to_any_fold() -> None:
    targets = multi_hot([[0]] * 30 + [[k] for k in range(1, 28)])  # 57 rows: the first two of five folds are longer
    folds = [fold_rows(targets, 5, keys=keys_of(57), seed=seed)[30:] for seed in range(20)]
    assert np.bincount(np.concatenate(folds)).min() > 0.8 * 20 * 27 / 5


@pytest.mark.parametrize("num_images", [3, 4, 5, 11])
def test_a_rare_class_comes_into_small_parts(num_images: int) -> None:
    targets = multi_hot([[0]] * 200 + [[0, 27]] * num_images)
    for seed in range(5):
        part_of = split_rows(targets, [0.8, 0.1, 0.1], keys=keys_of(len(targets)), seed=seed)
        assert set(part_of[targets[:, 27] > 0]) == {0, 1, 2}


def test_rarer_class_does_not_take_the_images_a_common_one_needs() -> None:
    # both images with class 1 would go to the large part, and leave one image of class 2 for two parts
    targets = multi_hot([[0]] * 200 + [[1, 2]] * 2 + [[2]])
    for seed in range(5):
        part_of = split_rows(targets, [0.8, 0.1, 0.1], keys=keys_of(len(targets)), seed=seed)
        assert set(part_of[targets[:, 2] > 0]) == {0, 1, 2}


def test_classes_missing_names_part_and_class() -> None:
    targets = multi_hot([[0], [0, 3], [0, 5], [5]])
    assert classes_missing(targets, np.array([0, 0, 1, 1]), 2) == {0: [5], 1: [3]}
    assert classes_missing(targets, np.array([0, 0, 0, 0]), 2) == {1: [0, 3, 5]}
    assert classes_missing(targets[:1], np.array([0]), 1) == {}


def test_real_table_in_the_counts_of_the_preset(real: tuple[np.ndarray, list[str]]) -> None:
    targets, keys = real
    part_of = split_rows(targets, parse_parts("24000/3000/4072"), keys=keys, seed=0)
    assert np.bincount(part_of).tolist() == [24_000, 3_000, 4_072]
    assert classes_missing(targets, part_of, 3) == {}


@pytest.mark.parametrize("parts", [[0.8, 0.1, 0.1], [0.2] * 5])
def test_real_table_is_stratified_as_well_as_by_the_reference(real: tuple[np.ndarray, list[str]], parts: Parts) -> None:
    targets, keys = real
    sizes = part_sizes(parts, len(targets))
    shares = [size / len(targets) for size in sizes]
    ours, reference, drawn = [], [], []
    for seed in range(3):
        start = time.process_time()
        part_of = split_rows(targets, parts, keys=keys, seed=seed)
        assert time.process_time() - start < 2
        assert np.bincount(part_of).tolist() == sizes
        assert classes_missing(targets, part_of, len(parts)) == {}
        ours.append(mean_deviation(targets, part_of, shares))
        theirs = IterativeStratification(targets.astype(bool), np.array(shares), np.random.RandomState(seed))
        reference.append(mean_deviation(targets, theirs, shares))
        drawn.append(mean_deviation(targets, np.random.default_rng(seed).permutation(part_of), shares))
    assert np.mean(ours) <= 1.1 * np.mean(reference)
    assert np.mean(ours) < 0.3 * np.mean(drawn)


def test_label_sets_have_the_same_shares_too() -> None:
    targets, keys = atlas_like(20_000)
    _, sets = np.unique(np.packbits(targets, axis=1), axis=0, return_inverse=True)
    part_of = split_rows(targets, [0.7, 0.2, 0.1], keys=keys, seed=0)
    drawn = np.random.default_rng(0).permutation(part_of)
    sizes = np.bincount(sets)
    for part, share in enumerate([0.7, 0.2, 0.1]):
        ours, at_random = (
            np.abs(np.bincount(sets[dealt == part], minlength=len(sizes)) - share * sizes)[sizes >= 30]
            for dealt in (part_of, drawn)
        )
        assert ours.mean() < 0.5 * at_random.mean()  # one by one it is as at random


def test_more_classes_than_a_word_has_bits() -> None:
    targets = np.zeros((600, 70), dtype=np.uint8)
    rng = np.random.default_rng(0)
    targets[np.arange(600), rng.integers(0, 3, 600) * 30] = 1  # classes 0, 30, 60
    targets[::60, 69] = 1
    part_of = split_rows(targets, [0.5, 0.3, 0.2], keys=keys_of(600), seed=0)
    assert np.bincount(part_of[targets[:, 69] > 0]).tolist() == [5, 3, 2]
    for k in (0, 30, 60):
        wanted = targets[:, k].sum() * np.array([0.5, 0.3, 0.2])
        assert np.bincount(part_of[targets[:, k] > 0]) == pytest.approx(wanted, abs=1.5)


@pytest.mark.parametrize("parts", [[0.8, 0.1, 0.1], [0.9995, 0.0005]])
def test_two_hundred_thousand_rows_take_no_time(parts: Parts) -> None:
    targets, keys = atlas_like(200_000)
    ids = pa.array(keys)
    start = time.process_time()
    part_of = split_rows(targets, parts, keys=ids, seed=0)
    assert time.process_time() - start < 4  # one by one it takes twice that
    assert np.bincount(part_of).tolist() == part_sizes(parts, 200_000)
    assert classes_missing(targets, part_of, len(parts)) == {}
    wanted = np.outer(parts, targets.sum(axis=0))
    found = np.stack([targets[part_of == part].sum(axis=0, dtype=int) for part in range(len(parts))])
    assert (np.abs(found - wanted) <= 2 + 0.001 * wanted).all()


# groups


@derandomized
@given(tables(), st.integers(0, 3), st.data())
def test_groups_never_cross_and_no_part_is_empty(
    table: tuple[np.ndarray, list[int]], seed: int, data: st.DataObject
) -> None:
    targets, counts = table
    groups = data.draw(hnp.arrays(np.int64, len(targets), elements=st.integers(0, len(targets))))
    if len(set(groups)) < len(counts):
        with pytest.raises(InputError, match="groups of rows"):
            split_rows(targets, counts, keys=keys_of(len(targets)), seed=seed, groups=groups)
        return
    part_of = split_rows(targets, counts, keys=keys_of(len(targets)), seed=seed, groups=groups)
    assert all(len(set(part_of[groups == group])) == 1 for group in groups)
    assert set(part_of) == set(range(len(counts)))


def test_real_table_in_groups_keeps_shares_and_sizes(real: tuple[np.ndarray, list[str]]) -> None:
    targets, keys = real
    groups = np.random.default_rng(0).integers(0, 12_000, size=len(targets))  # 2.6 rows each, up to about 12
    part_of = split_rows(targets, [0.8, 0.1, 0.1], keys=keys, seed=0, groups=groups)
    assert len(np.unique(np.stack([groups, part_of]), axis=1).T) == len(np.unique(groups))
    assert np.bincount(part_of) == pytest.approx([24_858, 3_107, 3_107], abs=10)
    assert classes_missing(targets, part_of, 3) == {}
    random_parts = np.random.default_rng(1).choice(3, size=12_000, p=[0.8, 0.1, 0.1])[groups]
    shares = [0.8, 0.1, 0.1]
    assert mean_deviation(targets, part_of, shares) < 0.3 * mean_deviation(targets, random_parts, shares)


def test_big_groups_go_where_they_fit() -> None:
    single = np.arange(100)
    for seed in range(5):
        targets, keys = np.zeros((100, 1), dtype=np.uint8), keys_of(100)
        groups = np.where(single < 50, 0, single)
        part_of = split_rows(targets, [50, 50], keys=keys, seed=seed, groups=groups)
        assert np.bincount(part_of).tolist() == [50, 50]  # had the single rows come first, no part could take the group

        # after the group with class 0, part 0 has 4 rows left; it needs class 1 most, but not in a group of 5
        targets = multi_hot([[0]] * 8 + [[1]] + [[]] * 4 + [[1]] * 2 + [[]] * 5)
        groups = np.where(single < 8, 0, np.where(single < 13, 1, single))[:20]
        part_of = split_rows(targets, [12, 8], keys=keys[:20], seed=seed, groups=groups)
        assert np.bincount(part_of).tolist() == [12, 8]


def test_rows_in_groups_are_spread_like_the_others() -> None:
    targets, keys = atlas_like(6000)
    groups = np.where(np.arange(6000) < 3000, np.arange(6000) // 5, np.arange(6000))
    part_of = split_rows(targets, [0.8, 0.1, 0.1], keys=keys, seed=0, groups=groups)
    assert np.bincount(part_of).tolist() == [4800, 600, 600]
    assert np.bincount(part_of[:3000]) == pytest.approx([2400, 300, 300], abs=30)  # dealt first, not to the first


def test_one_group_of_half_the_rows_changes_no_sizes() -> None:
    targets, keys = atlas_like(20_000)
    groups = np.maximum(np.arange(20_000), 9_999)
    part_of = split_rows(targets, [0.6, 0.2, 0.2], keys=keys, seed=0, groups=groups)
    assert np.bincount(part_of).tolist() == [12_000, 4_000, 4_000]
    assert set(part_of[:10_000]) == {0}
    assert mean_deviation(targets, part_of, [0.6, 0.2, 0.2]) < 0.1


@derandomized
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 5)), min_size=1, max_size=30), st.booleans())
def test_extra_rows_join_train_or_nothing(rows: list[tuple[int, bool, int]], grouped: bool) -> None:
    groups = np.array([100 * group - 7 for _, _, group in rows])
    is_extra = np.array([extra for _, extra, _ in rows])
    parts = np.array([-1 if extra else part for part, extra, _ in rows], dtype=np.int16)
    dealt = deal_extra(parts, groups if grouped else None, is_extra, train=1)
    assert dealt.dtype == np.int16
    for row, part in enumerate(dealt):
        if not is_extra[row]:
            assert part == parts[row]
            continue
        main_parts = set(parts[(groups == groups[row]) & ~is_extra].tolist())
        assert part == (-1 if grouped and main_parts - {1} else 1)


def test_main_rows_without_a_part_bar_nobody() -> None:
    parts, is_extra = np.array([-1, -1, 0, -1]), np.array([False, True, False, True])
    assert deal_extra(parts, np.array([5, 5, 6, 6]), is_extra, train=2).tolist() == [-1, 2, 0, -1]
    assert deal_extra(parts[:0], parts[:0], is_extra[:0], train=2).tolist() == []
    with pytest.raises(ValueError, match=r"\(3,\)"):
        deal_extra(parts, np.array([5, 5, 6]), is_extra, train=2)


# order and seed


@pytest.mark.parametrize("grouped", [False, True])
def test_part_of_an_image_does_not_depend_on_row_order(grouped: bool) -> None:
    targets, keys = atlas_like(1000)
    groups = np.arange(1000) // 3 if grouped else None
    part_of = split_rows(targets, [0.7, 0.2, 0.1], keys=keys, seed=1, groups=groups)
    order = np.random.default_rng(5).permutation(1000)
    shuffled = split_rows(
        targets[order],
        [0.7, 0.2, 0.1],
        keys=[keys[row] for row in order],
        seed=1,
        groups=None if groups is None else np.array([f"group {-group}" for group in groups[order]]),  # other names
    )
    np.testing.assert_array_equal(shuffled, part_of[order])


def test_keys_may_be_an_arrow_column() -> None:
    targets, keys = atlas_like(1000)
    expected = fold_rows(targets, 5, keys=keys, seed=0)
    column = pa.array(["x", *keys]).slice(1)
    for same in (column, pa.chunked_array([column[:300], column[300:]]), column.cast(pa.large_string())):
        np.testing.assert_array_equal(fold_rows(targets, 5, keys=same, seed=0), expected)


def test_keys_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, keys = atlas_like(200)
    hashes = keys_module._hashes
    monkeypatch.setattr(keys_module, "_hashes", lambda ids: hashes(ids) % np.uint64(7))
    part_of = fold_rows(targets, 3, keys=keys, seed=0)
    order = np.random.default_rng(5).permutation(200)
    shuffled = fold_rows(targets[order], 3, keys=[keys[row] for row in order], seed=0)
    np.testing.assert_array_equal(shuffled, part_of[order])
    with pytest.raises(InputError, match="'image-00007' occurs more than once"):
        fold_rows(targets, 3, keys=[*keys[:199], "image-00007"], seed=0)


def test_seed_decides() -> None:
    targets, keys = atlas_like(1000)
    first, again, other = (fold_rows(targets, 5, keys=keys, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


# words


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("24000/3000/4072", [24_000, 3_000, 4_072]),
        ("0.8/0.1/0.1", [0.8, 0.1, 0.1]),
        (" 0.9 / 0.1 ", [0.9, 0.1]),
        ("5 folds", [0.2] * 5),
        ("2 folds", [0.5, 0.5]),
    ],
)
def test_parts_are_read(text: str, parts: Parts) -> None:
    assert parse_parts(text) == parts
    assert {type(part) for part in parse_parts(text)} == {type(part) for part in parts}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "shares"),
        ("many", "24000/3000/4072"),
        ("0.8/x", "24000/3000/4072"),
        ("five folds", "5 folds"),
        ("1 folds", "2 folds or more"),
        ("31072", "two or more"),
        ("0.8//0.2", "shares"),
        ("0.8/0.1", r"adds up to 0\.9, .* write 0\.889/0\.111"),
        ("0.8/1000", "must add up to 1"),
        ("0.9/0.1/0", "greater than 0"),
        ("10/0", "greater than 0"),
        ("1.1/-0.1", "greater than 0"),
        ("nan/0.5", "greater than 0"),
        ("inf/0.5", "greater than 0"),
    ],
)
def test_nonsense_is_refused_in_one_line(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        parse_parts(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "num_rows", "named"),
    [
        ([24_000, 3_000, 4_000], 31_072, r"31000 rows, the table has 31072: write 24000/3000/4072 or 0\.774/"),
        ([80, 10, 10], 31_072, r"or 0\.8/0\.1/0\.1"),
        ([24_000, 3_000, 4_072], 100, r"31072 rows, the table has 100: write 0\.772/"),
        ([0.99, 0.01], 20, "without a row"),
        (parse_parts("50 folds"), 30, "50 folds of 30 rows .* at most 30 parts"),
    ],
)
def test_parts_that_do_not_fit_the_table_are_refused(parts: Parts, num_rows: int, named: str) -> None:
    for call in (
        lambda: part_sizes(parts, num_rows),
        lambda: split_rows(np.zeros((num_rows, 2), dtype=np.uint8), parts, keys=keys_of(num_rows), seed=0),
    ):
        with pytest.raises(InputError, match=named):
            call()


def test_rows_that_do_not_belong_together_are_refused() -> None:
    targets, keys = atlas_like(10)
    with pytest.raises(ValueError, match="9 keys"):
        split_rows(targets, [0.5, 0.5], keys=keys[:9], seed=0)
    with pytest.raises(ValueError, match=r"groups \(3,\)"):
        split_rows(targets, [0.5, 0.5], keys=keys, seed=0, groups=np.zeros(3))
    with pytest.raises(InputError, match="'image-00001' occurs more than once"):
        split_rows(targets, [0.5, 0.5], keys=[*keys[:9], "image-00001"], seed=0)
    with pytest.raises(InputError, match="2 parts but only 1 groups"):
        split_rows(targets, [0.5, 0.5], keys=keys, seed=0, groups=np.zeros(10))
    for num_folds in (1, 11):
        with pytest.raises(InputError, match="use 2 to 10 folds"):
            fold_rows(targets, num_folds, keys=keys, seed=0)
