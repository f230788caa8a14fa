"""What is chosen, which addresses are asked for, and the pace of the asking."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hpa_ray.cli.main import main
from hpa_ray.errors import InputError
from hpa_ray.fetch import Manners, choose, class_gains, parse_address, parse_classes
from hpa_ray.fetch.download import MAX_ALIKE, MAX_UNIT_IMAGES, _Guard, _units
from hpa_ray.fetch.line import Line, Pace, Stopped
from hpa_ray.fetch.unit import MAX_REFUSALS, REFUSED, UNAVAILABLE, Failure, Unit, Wanted
from hpa_ray.labels import CLASS_TABLE
from hpa_ray.manifest import LabelTable, read_label_table

RARE = (8, 9, 10, 15, 17, 20, 24, 26, 27)


@pytest.fixture
def table(tmp_path: Path) -> LabelTable:
    """Two hundred images with one to three classes, the low numbers frequent."""
    return read_label_table(str(write_table(tmp_path / "labels.csv", seed=0)))


def write_table(path: Path, *, seed: int, shuffled: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(200):
        classes = np.minimum(rng.geometric(0.15, rng.integers(1, 4)) - 1, 27)
        rows.append(f"{10000 + k}_2_A1_{k},{' '.join(map(str, dict.fromkeys(classes.tolist())))}")
    if shuffled:
        rng.shuffle(rows)
    path.write_text("\n".join(["Id,Target", *rows]) + "\n")
    return path


def test_rare_are_the_classes_with_few_images_in_the_competition() -> None:
    assert parse_classes(["rare"]) == RARE
    assert all((CLASS_TABLE[k][1] < 400) == (k in RARE) for k in range(28))


def test_classes_are_numbers_and_words() -> None:
    assert parse_classes(["all"]) == tuple(range(28))
    assert parse_classes(["9", "8", "9"]) == (8, 9)
    assert parse_classes(["rare", "0"]) == (0, *RARE)


@pytest.mark.parametrize("words", [["28"], ["-1"], ["rares"], ["8", "x"], ["8.0"], []])
def test_other_words_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="give class numbers such as"):
        parse_classes(words)


def test_the_choice_is_a_function_of_the_table_alone(table: LabelTable, tmp_path: Path) -> None:
    again = read_label_table(str(write_table(tmp_path / "other.csv", seed=0, shuffled=True)))
    assert not again.image_ids.equals(table.image_ids)
    assert choose(again, RARE, 20).image_ids == choose(table, RARE, 20).image_ids


def test_a_larger_limit_only_adds_images(table: LabelTable) -> None:
    everything = choose(table, range(28), None)
    assert sorted(everything.image_ids) == sorted(table.image_ids.to_pylist())
    for limit in (1, 7, 100, 1000):
        assert choose(table, range(28), limit).image_ids == everything.image_ids[:limit]


def test_the_rarest_classes_come_first(table: LabelTable) -> None:
    choice = choose(table, range(28), None)
    counts = choice.targets.sum(axis=0)
    rarest = [min(counts[np.flatnonzero(row)]) for row in choice.targets]
    assert rarest == sorted(rarest)


def test_every_image_has_a_class_that_was_asked_for(table: LabelTable) -> None:
    choice = choose(table, (3, 11), None)
    given = dict(zip(table.image_ids.to_pylist(), table.labels.to_pylist(), strict=True))
    assert set(choice.image_ids) == {image_id for image_id, classes in given.items() if {3, 11} & set(classes)}
    for image_id, row in zip(choice.image_ids, choice.targets, strict=True):
        assert np.flatnonzero(row).tolist() == given[image_id]


def test_a_class_without_an_image_is_said(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("Id,Target\na_1,0\n")
    with pytest.raises(InputError, match="27 Rods & rings"):
        choose(read_label_table(str(tmp_path / "labels.csv")), (27,), None)


def test_the_real_table_of_the_external_images(real_data: Path) -> None:
    table = read_label_table(str(real_data / "HPAv18RBGY_wodpl.csv"))
    gained = {gain.number: gain.gained for gain in class_gains(choose(table, RARE, None).targets)}
    assert [gained[k] for k in RARE] == [164, 152, 154, 42, 236, 266, 106, 378, 116]
    first = choose(table, RARE, 42)
    assert first.targets[:, 15].all(), "class 15 has the fewest images"
    parse_address("https://host/{first}/{rest}_{color}.jpg").check_ids(table.image_ids.to_pylist())


def test_an_address_is_filled() -> None:
    address = parse_address("https://host/images/{first}/{rest}_{color}.jpg")
    assert address.url("10580_1610_C1_1", "red") == "https://host/images/10580/1610_C1_1_red.jpg"
    assert address.extension("text/html") == "jpg"
    assert (
        parse_address("http://host/{id}?stain={color}").url("a b/../c", "red") == "http://host/a%20b%2F..%2Fc?stain=red"
    )


@pytest.mark.parametrize(
    ("given", "found"),
    [("image/jpeg", "jpg"), ("image/png; charset=x", "png"), ("IMAGE/TIFF", "tif"), ("text/html", None), ("", None)],
)
def test_without_an_ending_the_content_type_names_the_format(given: str, found: str | None) -> None:
    assert parse_address("http://host/{id}/{color}").extension(given) == found


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("https://host/{id}_{colour}.jpg", "unknown field {colour}"),
        ("https://host/{id}_{0}.jpg", "unknown field {0}"),
        ("https://host/{id}.jpg", "no {color}"),
        ("https://host/{rest}_{color}.jpg", "neither {id} nor both"),
        ("https://host/{color}.jpg", "neither {id} nor both"),
        ("ftp://host/{id}_{color}.jpg", "no web address"),
        ("file:///etc/{id}_{color}", "no web address"),
        ("images/{id}_{color}.jpg", "no web address"),
        ("https:///{id}_{color}.jpg", "no web address"),
        ("https://{id}/{color}.jpg", "no web address"),
        ("https://me:secret@host/{id}_{color}.jpg", "user name"),
        ("https://host/{id_{color}.jpg", "fetch.url"),
        ("https://host/{id!r}_{color}.jpg", "without ! or :"),
        ("https://host/{id:>99}_{color}.jpg", "without ! or :"),
        ("https://host/{id.x}_{color}.jpg", "unknown field"),
        ("https://host/{}_{color}.jpg", "unknown field"),
        ("https://[host/{id}_{color}.jpg", "fetch.url"),
    ],
)
def test_a_pattern_that_can_not_work_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(InputError, match=r"^fetch\.url = ") as raised:
        parse_address(pattern)
    assert words in str(raised.value)
    assert len(raised.value.problems) == 1


def test_an_id_without_two_parts_is_refused() -> None:
    address = parse_address("https://host/{first}/{rest}_{color}.jpg")
    with pytest.raises(InputError, match="2 Ids such as 'whole'"):
        address.check_ids(["a_b", "whole", "end_"])


def test_threads_share_a_pace() -> None:
    pace, starts, lock = Pace(200.0), [time.monotonic()], threading.Lock()

    def ask() -> None:
        for _ in range(10):
            pace.wait()
            with lock:
                starts.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(starts) == 41
    assert starts[-1] - starts[0] >= 40 / 200  # the first request waits too: tasks follow each other


def test_a_stop_ends_all_waiting() -> None:
    pace = Pace(0.001)
    threading.Timer(0.05, pace.stop.set).start()
    with pytest.raises(Stopped):
        pace.wait()


def test_pauses_grow_to_a_limit() -> None:
    line = Line(Manners(backoff_s=1.0, max_pause_s=20.0), Pace(1e6), connections=1)
    try:
        for attempt, longest in enumerate([1, 2, 4, 8, 16, 20, 20], start=1):
            pauses = [line._pause(attempt, None) for _ in range(50)]
            assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert line._pause(1, 7.0) == 7.0
        assert line._pause(1, 3600.0) == 20.0
    finally:
        line.close()


@pytest.mark.parametrize(("requests_per_s", "size"), [(0.1, 1), (2.0, 5), (100.0, MAX_UNIT_IMAGES)])
def test_a_unit_takes_about_ten_seconds(requests_per_s: float, size: int) -> None:
    missing = [Wanted(str(k), ("red",)) for k in range(30)]
    units = list(_units(missing, requests_per_s))
    assert [image for unit in units for image in unit] == missing
    assert len(units[0]) == size


def outcome(*kinds: str, complete: int = 0) -> Unit:
    failures = [Failure(str(k), f"{k}_red.jpg", "why", kind, "http://host") for k, kind in enumerate(kinds)]
    return Unit(["x"] * complete, failures, 0, 0, {})


@pytest.mark.parametrize(
    ("kind", "most", "words"),
    [
        (REFUSED, MAX_REFUSALS, "does not want this"),
        ("timeout", MAX_ALIKE, "not well"),
        (UNAVAILABLE, MAX_ALIKE, "does fetch.url belong"),
    ],
)
def test_failures_in_a_row_end_the_work(kind: str, most: int, words: str) -> None:
    stopped = []
    guard = _Guard(0, lambda: stopped.append(True))
    guard.judge(outcome(*[kind] * (most - 1)))
    guard.judge(outcome("another"))
    guard.judge(outcome(*[kind] * (most - 1)))
    assert not stopped
    with pytest.raises(InputError, match=words):
        guard.judge(outcome(kind))
    assert stopped


def test_images_that_are_gone_end_nothing_once_one_has_come() -> None:
    guard = _Guard(0, lambda: None)
    guard.judge(outcome(complete=1))
    for _ in range(20):
        guard.judge(outcome(UNAVAILABLE, UNAVAILABLE))
    guard.judge(outcome(*["timeout"] * (MAX_ALIKE - 1)))
    guard.judge(outcome(complete=1))
    guard.judge(outcome(*["timeout"] * (MAX_ALIKE - 1)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "fetch needs fetch.labels=CSV"),
        (["fetch.labels={labels}"], "fetch needs fetch.output=FOLDER"),
        (["fetch.labels={labels}", "fetch.output=x", "fetch.classes=28"], "'28' is no class number"),
        (["fetch.labels={labels}", "fetch.output=x", "fetch.url=http://h/{id}"], "no {color}"),
        (["fetch.labels=none.csv", "fetch.output=x"], "no such file"),
        (["fetch.labels={labels}", "fetch.output=x", "fetch.requests_per_s=0"], "fetch.requests_per_s"),
    ],
)
def test_mistakes_are_one_line_each(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_table(tmp_path / "labels.csv", seed=0)
    assert main(["fetch", *(word.replace("{labels}", str(labels)) for word in words)]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1
