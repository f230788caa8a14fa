"""Near duplicates: what a hash survives, that the quick search finds what the plain one finds, and the groups."""

import io
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from hpa_ray.duplicates import buckets, find, find_duplicates, hash_images, hashes_of, pairs
from hpa_ray.duplicates.groups import Groups
from hpa_ray.duplicates.hashes import MIN_CONTRAST, MIN_SIDE_PX
from hpa_ray.duplicates.page import pictured
from hpa_ray.duplicates.pairs import distances, near_pairs
from hpa_ray.duplicates.tables import Report, groups_csv, pairs_csv
from hpa_ray.errors import InputError
from hpa_ray.ingest.stack import resize_plane
from hpa_ray.schema import MANIFEST_ROW, Images, Reject
from hpa_ray.synth import render_field

# N images, C stains, S side in px

STAINS = ("red", "green", "blue", "yellow")
ONE = np.uint64(1)


@pytest.fixture(scope="module")
def fields() -> np.ndarray:
    """Twelve synthetic fields of 128 px, (12, 4, 128, 128) uint8."""
    return np.stack([render_field([k], seed=(5, k), image_size=128) for k in range(12)])


def each_plane(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: np.stack([[change(plane) for plane in image] for image in images])


def jpeg(plane: np.ndarray) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(plane).save(data, "JPEG", quality=60)
    return np.asarray(Image.open(data))


def noisy(plane: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 4, plane.shape)
    return np.clip(plane + noise, 0, 255).astype(np.uint8)


def bits_apart(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, C), -1 where a stain shows nothing."""
    (a, told_a), (b, told_b) = hash_images(images), hash_images(others)
    both = np.arange(len(a)), np.arange(len(a), 2 * len(a))
    return distances(np.concatenate([a, b]), np.concatenate([told_a, told_b]), *both)


@pytest.mark.parametrize(
    ("change", "at_most"),
    [
        (lambda plane: plane, 0),
        (lambda plane: plane // 2, 3),
        (lambda plane: np.where(plane > 170, 255, plane * 1.5).astype(np.uint8), 4),
        (lambda plane: resize_plane(plane, 64), 2),
        (lambda plane: np.repeat(np.repeat(plane, 3, 0), 3, 1), 1),
        (lambda plane: resize_plane(plane, 96), 4),
        (jpeg, 5),  # what is faint is lost first; the search takes up to 8
        (noisy, 8),
        (lambda plane: np.roll(plane, 1, axis=1), 8),  # 4 of 512
    ],
)
def test_a_hash_survives_what_copies_go_through(
    fields: np.ndarray, change: Callable[[np.ndarray], np.ndarray], at_most: int
) -> None:
    bits = bits_apart(fields, each_plane(change)(fields))
    assert (bits >= 0).mean() > 0.9
    assert bits.max() <= at_most


def test_other_images_are_far_apart(fields: np.ndarray) -> None:
    hashes, told = hash_images(fields)
    a, b = np.triu_indices(len(fields), 1)
    assert distances(hashes, told, a, b).max(axis=1).min() > 20
    assert 22 < np.bitwise_count(hashes[a] ^ hashes[b])[(told[a] & told[b]).all(axis=1)].mean() < 36
    mirrored = bits_apart(fields, fields[..., ::-1])
    assert mirrored.max(axis=1).min() > 20


def test_each_bit_is_the_sign_of_one_wave() -> None:
    side = 64
    place = (np.arange(side) + 0.5) / side
    cosines = np.cos(np.pi * np.arange(10)[:, None] * place)
    weights = np.random.default_rng(0).choice([-0.6, 0.6], (10, 10))  # no coefficient near 0, where rounding decides
    background = 128 + cosines.T @ weights @ cosines
    waves_of_bit: dict[int, tuple[int, int]] = {}
    for down in range(10):
        for across in range(10):
            wave = 20 * np.outer(cosines[down], cosines[across])
            image = np.stack([background + wave, background - wave]).round().astype(np.uint8)
            with_it, against_it = hash_images(image[None])[0][0]
            changed = int(with_it ^ against_it)
            if changed and (down or across):
                assert changed.bit_count() == 1, (down, across)
                assert int(with_it) & changed, (down, across)
                waves_of_bit[changed] = (down, across)
    assert len(waves_of_bit) == 64
    assert max(down**2 + across**2 for down, across in waves_of_bit.values()) == 72


def test_hashes_do_not_depend_on_what_else_is_in_the_batch(fields: np.ndarray) -> None:
    hashes, told = hash_images(fields)
    order = np.random.default_rng(0).permutation(len(fields))
    again, told_again = hash_images(fields[order])
    assert (again == hashes[order]).all()
    assert (told_again == told[order]).all()
    one_stain, _ = hash_images(fields[:, 2:3])
    assert (one_stain[:, 0] == hashes[:, 2]).all()


def test_planes_without_contrast_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    black, gray = np.zeros((64, 64), np.uint8), np.full((64, 64), 200, np.uint8)
    noise = rng.integers(0, 6, (64, 64), np.uint8)
    halves = np.zeros((64, 64), np.uint8)
    halves[:32] = int(2 * MIN_CONTRAST) + 1
    hashes, told = hash_images(np.stack([black, gray, noise, halves])[None])
    assert told.tolist() == [[False, False, False, True]]
    assert hashes[0, :3].tolist() == [0, 0, 0]


def test_waves_that_an_image_lacks_do_not_hang_on_rounding() -> None:
    left = np.random.default_rng(0).integers(0, 256, (64, 32), np.uint8)
    symmetric = np.concatenate([left, left[:, ::-1]], axis=1)
    hashes, _ = hash_images(np.stack([symmetric, 255 - symmetric])[None])
    bits, inverted = hashes[0].tolist()
    assert not bits & inverted
    assert 25 < (bits | inverted).bit_count() < 40  # of the waves with an odd number of half periods there is none


def test_images_too_small_to_hash_are_refused() -> None:
    hash_images(np.zeros((1, 4, MIN_SIDE_PX, MIN_SIDE_PX), np.uint8))
    with pytest.raises(InputError, match="too small"):
        hash_images(np.zeros((1, 4, MIN_SIDE_PX - 1, MIN_SIDE_PX - 1), np.uint8))


def planted(seed: int, num_images: int, num_stains: int, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Random hashes, a third of them copies with about `distance` bits flipped a stain; some stains tell nothing."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (num_images, num_stains), np.uint64)
    for copy, of in rng.integers(0, num_images, (num_images // 3, 2)):
        for stain in range(num_stains):
            flipped = rng.choice(64, min(64, max(0, distance + rng.integers(-3, 2))), replace=False)
            flips = np.bitwise_or.reduce(ONE << flipped.astype(np.uint64)) if len(flipped) else np.uint64(0)
            hashes[copy, stain] = hashes[of, stain] ^ flips
    told = rng.random(hashes.shape) < 0.85
    return np.where(told, hashes, np.uint64(0)), told


def plain_search(hashes: np.ndarray, told: np.ndarray, distance: int) -> set[tuple[int, int]]:
    """The definition of a pair, all with all."""
    found = set()
    for a, b in combinations(range(len(hashes)), 2):
        both = told[a] & told[b]
        enough = both.sum() >= min(2, hashes.shape[1])
        if enough and all(bits.bit_count() <= distance for bits in (hashes[a, both] ^ hashes[b, both]).tolist()):
            found.add((a, b))
    return found


@pytest.mark.parametrize("num_stains", [1, 2, 3, 4])
@pytest.mark.parametrize("distance", [0, 1, 5, 8, 16])
@pytest.mark.parametrize("way", ["bands", "all with all"])
def test_the_search_finds_what_all_with_all_finds(
    num_stains: int, distance: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_banding_pays", lambda *_: way == "bands")
    hashes, told = planted(distance * 10 + num_stains, 150, num_stains, distance)
    found = [pair for a, b in near_pairs(hashes, told, distance) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    expected = plain_search(hashes, told, distance)
    assert expected
    assert sorted(found) == sorted(expected)  # each once


@pytest.mark.parametrize(("large", "block"), [(2, 4), (3, 64), (1000, 7)])
def test_crowded_buckets_and_small_blocks_change_nothing(
    large: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_banding_pays", lambda *_: True)
    monkeypatch.setattr(buckets, "LARGE_BUCKET", large)
    monkeypatch.setattr(buckets, "BLOCK", block)
    hashes, told = planted(1, 120, 2, 6)
    hashes &= np.uint64(0x00FF_00FF_00FF_00FF)  # half of the bits are the same everywhere
    found = [pair for a, b in near_pairs(hashes, told, 6) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert sorted(found) == sorted(plain_search(hashes, told, 6))


def test_many_images_are_searched_by_bands_and_nothing_is_lost() -> None:
    rng = np.random.default_rng(4)
    hashes = rng.integers(0, 2**64, (60_000, 4), np.uint64)
    of, copies = np.arange(500), np.arange(59_500, 60_000)
    flips = np.array([sum(1 << b for b in rng.choice(64, 8, replace=False).tolist()) for _ in range(500)], np.uint64)
    hashes[copies] = hashes[of] ^ flips[:, None]
    told = np.ones(hashes.shape, bool)
    told[::50, 1] = False
    hashes[~told] = 0
    assert pairs._banding_pays(60_000, 60_000**2 // 2, 2, 8)
    found = find_duplicates(hashes, told, 8)
    assert found.a_P.tolist() == of.tolist()
    assert found.b_P.tolist() == copies.tolist()


def test_groups_are_the_connected_parts() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 300, (2, 200))
    groups = Groups(300)
    groups.add(a[:90], b[:90])
    groups.add(a[90:], b[90:])
    expected = list(range(300))
    for _ in range(300):  # the smallest number spreads along the pairs until nothing changes
        for one, other in zip(a, b, strict=True):
            expected[one] = expected[other] = min(expected[one], expected[other])
    assert groups.root_N.tolist() == expected
    assert groups.sizes().tolist() == [expected.count(root) for root in expected]


def test_a_long_chain_is_one_group() -> None:
    order = np.random.default_rng(0).permutation(20_000)
    groups = Groups(20_000)
    groups.add(order[:-1], order[1:])
    assert not groups.root_N.any()


def test_copies_make_one_pair_less_than_there_are_of_them() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, (9, 4), np.uint64)
    hashes[[2, 5, 8]] = hashes[1]
    hashes[7] = hashes[1] ^ ONE
    found = find_duplicates(hashes, np.ones(hashes.shape, bool), 3)
    assert list(zip(found.a_P.tolist(), found.b_P.tolist(), strict=True)) == [(1, 2), (1, 5), (1, 7), (1, 8)]
    assert found.distances_PC.tolist() == [[0] * 4, [0] * 4, [1] * 4, [0] * 4]
    assert found.group_N.tolist() == [0, 1, 1, 3, 4, 1, 6, 1, 1]
    assert (found.num_pairs, found.num_compared) == (4, 9)


def test_dark_images_are_no_duplicates_of_each_other() -> None:
    hashes = np.tile(np.random.default_rng(0).integers(0, 2**64, (1, 4), np.uint64), (8, 1))
    told = np.zeros(hashes.shape, bool)
    told[4:6, 0] = True  # one stain alone: too little
    told[6:, :2] = True
    found = find_duplicates(np.where(told, hashes, np.uint64(0)), told, 8)
    assert list(zip(found.a_P.tolist(), found.b_P.tolist(), strict=True)) == [(6, 7)]
    assert found.distances_PC.tolist() == [[0, 0, -1, -1]]
    assert found.num_compared == 2
    only_red = find_duplicates(hashes[:, :1], told[:, :1], 8)
    assert only_red.group_sizes_N.tolist() == [1, 1, 1, 1, 4, 4, 4, 4]


def test_a_list_that_is_cut_short_still_counts_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes, told = planted(3, 150, 4, 5)
    hashes[140:] = hashes[3]
    told[140:] = told[3] = True
    whole = find_duplicates(hashes, told, 6)
    monkeypatch.setattr(find, "MAX_LISTED", 12)
    cut = find_duplicates(hashes, told, 6)
    assert len(cut.a_P) == 12 < len(whole.a_P) == whole.num_pairs == cut.num_pairs
    assert (cut.group_N == whole.group_N).all()


def test_nothing_to_compare() -> None:
    found = find_duplicates(np.zeros((3, 4), np.uint64), np.zeros((3, 4), bool), 8)
    assert (found.num_pairs, found.num_compared, found.group_sizes_N.tolist()) == (0, 0, [1, 1, 1])
    assert found.distances_PC.shape == (0, 4)


class Planes:
    """A source of given images, in memory; the rows of `damaged` can not be read."""

    channels = STAINS

    def __init__(self, images: np.ndarray, damaged: tuple[int, ...] = ()) -> None:
        self.images, self.damaged, self.image_size = images, damaged, images.shape[-1]

    def read(self, rows: np.ndarray) -> Images:
        good = rows[~np.isin(rows, self.damaged)]
        rejects = [Reject(int(row), f"i{row}", f"i{row}_red.png", "damaged") for row in rows if row in self.damaged]
        return Images(good, self.images[good], rejects)


def test_hashes_of_a_source_stand_in_the_order_of_the_rows(fields: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpa_ray.duplicates.read.TASK_IMAGES", (3, 3))
    rows = np.array([7, 2, 9, 4, 0, 11, 5])
    seen: list[int] = []
    done: list[int] = []
    result = hashes_of(
        Planes(fields, damaged=(4, 7)),
        rows,
        num_workers=0,
        on_rejects=lambda rejects: seen.append(len(rejects)),
        on_progress=done.append,
    )
    hashes, told = hash_images(fields)
    read = ~np.isin(rows, [4, 7])
    assert (result.read_N == read).all()
    assert (result.hashes_NC[read] == hashes[rows[read]]).all()
    assert (result.informative_NC[read] == told[rows[read]]).all()
    assert not result.informative_NC[~read].any()
    assert [reject.row for reject in result.rejects] == [4, 7]
    assert seen == [1, 2]
    assert done[-1] == 7


def test_too_many_rejects_end_the_hashing(fields: np.ndarray) -> None:
    def refuse(rejects: list[Reject]) -> None:
        raise InputError(f"{len(rejects)} damaged")

    with pytest.raises(InputError, match="1 damaged"):
        hashes_of(Planes(fields, damaged=(3,)), np.arange(12), num_workers=0, on_rejects=refuse)


def report_of(
    ids: list[str], labels: list[list[int] | None], sources: list[int], hashes: np.ndarray, told: np.ndarray
) -> Report:
    order = np.argsort(ids)
    columns = [ids, sources, ["png"] * len(ids), labels]
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, MANIFEST_ROW, strict=True)], schema=MANIFEST_ROW
    ).take(pa.array(order))
    return Report(find_duplicates(hashes[order], told[order], 8), table, order, STAINS, 8)


@pytest.fixture
def report() -> Report:
    """b1 = b2 (labels in another order), c0 ~ c1 (labels contradict, two sources), d0 = d1 (one label not known)."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (8, 4), np.uint64)
    hashes[2] = hashes[1]
    hashes[4] = hashes[3] ^ np.uint64(0b10110)
    hashes[6] = hashes[5]
    told = np.ones(hashes.shape, bool)
    told[4, 1] = False
    hashes[4, 1] = 0
    ids = ["a0", "b1", "b2", "c0", "c1", "d0", "d1", "e0"]
    labels = [[0], [25, 2], [2, 25], [1], [3], [4], None, [5]]
    return report_of(ids, labels, [0, 0, 0, 0, 1, 0, 0, 1], hashes, told)


def test_tables_and_counts(report: Report) -> None:
    assert groups_csv(report) == "Id,group\nb1,b1\nb2,b1\nc0,c0\nc1,c0\nd0,d0\nd1,d0\n"
    assert pairs_csv(report).splitlines() == [
        "a,b,distance_red,distance_green,distance_blue,distance_yellow,labels_a,labels_b,same_labels,source_a,source_b",
        "b1,b2,0,0,0,0,2 25,2 25,yes,0,0",
        "c0,c1,3,,3,3,1,3,no,0,1",
        "d0,d1,0,0,0,0,4,,,0,0",
    ]
    counts = {"num_images": 8, "num_compared": 8, "num_pairs": 3, "num_groups": 3, "num_grouped": 6}
    assert report.contradicting_P().tolist() == [False, True, False]
    assert report.across_P().tolist() == [False, True, False]
    assert report.counts() == counts | {"largest_group": 2, "num_contradicting": 1, "num_across": 1}


def test_pairs_that_need_a_look_are_pictured_first(report: Report) -> None:
    assert pictured(report, 10)[0] == 1  # the contradicting one
    assert len(pictured(report, 2)) == 2
    assert len(pictured(report, 0)) == 0


def test_what_is_found_does_not_depend_on_the_order_of_the_rows() -> None:
    hashes, told = planted(8, 200, 4, 6)
    ids = [f"i{number:03d}" for number in range(200)]
    labels: list[list[int] | None] = [[number % 28] for number in range(200)]
    straight = report_of(ids, labels, [0] * 200, hashes, told)
    order = np.random.default_rng(9).permutation(200)
    mixed = report_of([ids[k] for k in order], [labels[k] for k in order], [0] * 200, hashes[order], told[order])
    assert straight.found.num_pairs > 20
    assert groups_csv(mixed) == groups_csv(straight)
    assert pairs_csv(mixed) == pairs_csv(straight)
