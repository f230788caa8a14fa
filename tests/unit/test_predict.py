"""Probabilities -> the competition's csv: the given order, no row without a label."""

import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpa_ray.labels import NUM_CLASSES, parse_labels
from hpa_ray.manifest import read_ids
from hpa_ray.predict.submission import labels_of, write_submission
from hpa_ray.storage import read_bytes

SHARES = st.floats(0, 1, width=32)
IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.\-]{0,8}\Z")


@settings(deadline=None, max_examples=100)
@given(
    probabilities=st.integers(0, 6).flatmap(lambda rows: arrays(np.float64, (rows, NUM_CLASSES), elements=SHARES)),
    thresholds=arrays(np.float64, NUM_CLASSES, elements=SHARES),
)
def test_classes_at_or_above_their_threshold_or_else_the_most_probable(
    probabilities: np.ndarray, thresholds: np.ndarray
) -> None:
    before = probabilities.copy()
    labels = labels_of(probabilities, thresholds)
    assert len(labels) == len(probabilities)
    for row, found in zip(probabilities.tolist(), labels, strict=True):
        above = [k for k in range(NUM_CLASSES) if row[k] >= thresholds[k]]
        assert found == (above or [row.index(max(row))])
    assert np.array_equal(probabilities, before)


def test_no_image_goes_without_a_label() -> None:
    probabilities = np.full((2, NUM_CLASSES), 0.01)
    probabilities[1, 27] = 0.02
    assert labels_of(probabilities, np.full(NUM_CLASSES, 0.5)) == [[0], [27]]
    assert labels_of(probabilities, np.full(NUM_CLASSES, np.inf)) == [[0], [27]]
    assert labels_of(probabilities, np.full(NUM_CLASSES, 0.01))[0] == list(range(NUM_CLASSES))


@settings(deadline=None, max_examples=60)
@given(
    ids=st.lists(IDS, min_size=1, max_size=15, unique=True),
    labels=st.dictionaries(IDS, st.sets(st.integers(0, NUM_CLASSES - 1), max_size=3).map(sorted), max_size=15),
    data=st.data(),
)
def test_every_id_has_its_row_in_the_given_order(
    ids: list[str], labels: dict[str, list[int]], data: st.DataObject
) -> None:
    known = data.draw(st.lists(st.sampled_from(ids), unique=True))
    labels |= {image_id: [k % NUM_CLASSES, 27] for k, image_id in enumerate(known)}
    uri = f"memory://{uuid.uuid4().hex}/submission.csv"
    num_filled = write_submission(uri, ids, labels)
    lines = read_bytes(uri).decode().splitlines()
    assert lines[0] == "Id,Predicted"
    rows = dict(line.split(",") for line in lines[1:])
    assert list(rows) == ids
    assert len(lines) == len(ids) + 1
    assert all(parse_labels(text) for text in rows.values())  # none is empty
    without = [image_id for image_id in ids if not labels.get(image_id)]
    assert num_filled == len(without)
    for image_id in set(ids) - set(without):
        assert rows[image_id] == " ".join(map(str, labels[image_id]))
    sets = Counter(" ".join(map(str, found)) for found in labels.values() if found)
    most = {text for text, count in sets.items() if count == max(sets.values())} or {"0"}
    assert {rows[image_id] for image_id in without} <= most
    assert len({rows[image_id] for image_id in without}) <= 1


def test_numpy_numbers_are_written_as_plain_ones(tmp_path: Path) -> None:
    uri = str(tmp_path / "submission.csv")
    write_submission(uri, ["a", "b"], {"a": np.array([3, 25], np.int8), "b": np.flatnonzero([0, 1])})
    assert Path(uri).read_bytes() == b"Id,Predicted\na,3 25\nb,1\n"


def test_the_real_sample_submission_keeps_its_order(real_data: Path, tmp_path: Path) -> None:
    ids = read_ids(str(real_data / "sample_submission.csv"))
    rng = np.random.default_rng(0)
    probabilities = rng.random((len(ids), NUM_CLASSES)) ** 8
    labels = labels_of(probabilities, np.full(NUM_CLASSES, 0.9))
    shuffled = rng.permutation(len(ids))
    uri = str(tmp_path / "submission.csv")
    assert write_submission(uri, ids, {ids[k]: labels[k] for k in shuffled}) == 0
    assert read_ids(uri) == ids
    rows = [line.split(",")[1] for line in Path(uri).read_text().splitlines()[1:]]
    assert [parse_labels(text) for text in rows] == labels


@pytest.mark.parametrize("found", [{}, {"x": []}])
def test_with_nothing_predicted_every_row_is_the_most_frequent_class(
    found: dict[str, list[int]], tmp_path: Path
) -> None:
    uri = str(tmp_path / "submission.csv")
    assert write_submission(uri, ["a", "b"], found) == 2
    assert Path(uri).read_text() == "Id,Predicted\na,0\nb,0\n"
