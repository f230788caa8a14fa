"""The page of a run: what it says is in the files, what is missing is left out, what is damaged is named."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_report import add_analysis, probabilities_for, small_truth, write_run

from hpa_ray.cli.main import main
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.metrics import score_predictions
from hpa_ray.report import report_page
from hpa_ray.report.compare import BLOCK, Compared, compare, shared_decisions
from hpa_ray.report.contents import Shown
from hpa_ray.report.files import read_run
from hpa_ray.report.gallery import SIDES_PX, fit, folded, gallery_blocks, in_turns
from hpa_ray.report.run_page import MAX_BYTES
from hpa_ray.report.scores_part import score_cards
from hpa_ray.report.words import how_ended, in_words

SECTIONS = [
    *("Result", "Curves", "Classes", "Precision and recall", "Calibration", "What occurs together", "Thresholds"),
    *("Errors", "Gallery", "Map of the images", "Data", "Data against device time", "Settings and machine"),
]


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tags:
            self.texts.setdefault(self.tags[-1][0], []).append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, atlas: Path) -> Path:
    """A run folder with everything in it. Do not change it."""
    return add_analysis(write_run(tmp_path_factory.mktemp("runs") / "one", "loss.name=asl"), atlas / "train")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return report_page([str(run)])


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "one"))


def test_the_sections_come_in_order_and_nothing_is_loaded(html: str) -> None:
    page = Parsed(html)
    assert page.texts["h2"] == SECTIONS
    assert len(html.encode()) < MAX_BYTES
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), tag
    assert all(len(attributes["alt"] or "") > 20 for attributes in page.of("img"))


def test_the_numbers_are_those_of_the_files(run: Path, html: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    shown = Parsed(html).texts["dd"]
    for name in ("macro_f1_tuned", "micro_f1_tuned", "map", "exact_match_tuned"):
        assert f"{summary[f'test_{name}']:.3f}" in shown
    assert any(f"constant {summary['test_floor_macro_f1']:.3f}" in text for text in shown)
    table = pq.read_table(run / "predictions_test.parquet").to_pylist()
    missed = [
        k
        for k in range(NUM_CLASSES)
        if any(k in row["truth"] for row in table)
        and not any(k in row["truth"] and k in row["labels"] for row in table)
    ]
    (text,) = [text for text in in_words(read_run(str(run))) if "right prediction" in text]
    assert text.startswith(f"{len(missed)} classes have no" if len(missed) > 1 else ("One" if missed else "Each"))
    assert "hpa-ray train run.name=one loss.name=asl" in html
    assert "loss.name" in Parsed(html).texts["td"]


def test_intervals_are_shown_where_they_are_known(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    assert "95 % interval" not in " ".join(in_words(read_run(str(copy))))
    summary["intervals"] = {"test_macro_f1_tuned": [0.111, 0.222], "macro_f1_tuned": [0.5, 0.6], "test_map": None}
    (copy / "summary.json").write_text(json.dumps(summary))
    assert "95 % interval 0.111 to 0.222" in in_words(read_run(str(copy)))[0]
    assert "95 %: 0.111 to 0.222" in score_cards(read_run(str(copy))).cards[0].note


def test_words_follow_the_numbers(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text())
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]

    def words(*, line: dict[str, float] | None = None, **changes: object) -> str:
        (copy / "summary.json").write_text(json.dumps(summary | changes))
        (copy / "metrics.jsonl").write_text("".join(json.dumps(one | (line or {})) + "\n" for one in lines))
        found = read_run(str(copy))
        return " ".join([how_ended(found), *in_words(found)])

    assert "Overfitting" not in words()
    assert "Overfitting" in words(line={"train_macro_f1": 0.9, "macro_f1": 0.3})
    assert "waited for data" not in words()
    assert "hpa-ray prepare" in words(line={"data_wait_pct": 40.0})
    assert "has learnt nothing" in words(test_macro_f1_tuned=0.01)
    assert "status is failed (OSError: disk)" in words(status="failed", reason="OSError: disk")
    assert "The best epoch is the last" in words(best_epoch=4)
    assert "The best epoch is the last" not in words(best_epoch=2)


FILES = [
    *("config.yaml", "summary.json", "metrics.jsonl", "per_class.csv", "per_class_test.csv", "predictions_val.parquet"),
    *("predictions_test.parquet", "environment.json", "analysis_test.json", "gallery_test.parquet"),
    *("embeddings_test.parquet",),
]


@pytest.mark.parametrize("missing", [FILES[::2], FILES[1::2]], ids=["one half", "the other"])
def test_files_that_are_missing_leave_their_sections_out(missing: list[str], copy: Path) -> None:
    for name in missing:
        (copy / name).unlink()
    assert Parsed(report_page([str(copy)])).texts["h2"] == SECTIONS


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_no_mistake(name: str, copy: Path) -> None:
    (copy / name).unlink()
    assert in_words(read_run(str(copy)))


def test_a_run_before_its_first_epoch_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {name: new}\n")
    html = report_page([str(tmp_path)])
    assert "has not finished an epoch" in html
    assert Parsed(html).texts["h2"] == SECTIONS
    with pytest.raises(InputError, match="no run folder"):
        report_page([str(tmp_path / "nowhere")])


def problem_of(folder: Path) -> str | None:
    try:
        read_run(str(folder))
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_named_or_read(name: str, data: st.DataObject, run: Path, tmp_path: Path) -> None:
    """Whatever a file holds: one line that names it, or values; never another error."""
    folder = tmp_path / "damaged"
    if not folder.exists():
        shutil.copytree(run, folder)
    content = (run / name).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "replace"]))
    if how == "cut":
        content = content[:at]
    elif how == "flip":
        content = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    else:
        content = data.draw(st.sampled_from([b"", b"[]", b"{", b"null", b"3", b"\xff\xfe", b"a: [", b'{"a": NaN}']))
    (folder / name).write_bytes(content)
    told = problem_of(folder)
    (folder / name).write_bytes((run / name).read_bytes())
    assert told is None or (name in told and "\n" not in told)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("summary.json", '{"intervals": {"map": "x"}}', "intervals: not names with two numbers each"),
        ("analysis_test.json", '{"num_images": "many"}', "num_images"),
        ("analysis_test.json", '{"num_images": 3, "confusions": [{"missed": 28}]}', "confusions.0.missed"),
        ("environment.json", '{"packages": []}', "packages"),
        ("per_class_test.csv", "class,f1\n0,0.5\n", "not a row for each of 28 classes"),
        ("metrics.jsonl", '{"loss": 1}\n', "a line has no epoch"),
        ("thresholds.json", '{"fixed": {"macro_f1": "good"}}', "fixed"),
        ("data.json", '{"parts": {"train": {"images": 3, "classes": [1]}}}', "parts.train.classes"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_in_one_line(name: str, content: str, told: str, copy: Path) -> None:
    (copy / name).write_text(content)
    with pytest.raises(InputError) as caught:
        report_page([str(copy)])
    assert re.fullmatch(rf"{re.escape(str(copy / name))}: .*{re.escape(told)}.* - .*", str(caught.value))


def test_a_score_that_is_no_number_is_told(copy: Path) -> None:
    (copy / "summary.json").write_text('{"test_map": "high"}')
    with pytest.raises(InputError, match=r"summary\.json: test_map is 'high', not a number"):
        report_page([str(copy)])


# ---- the gallery


def shown(run: Path) -> list[Shown]:
    return read_run(str(run)).gallery


def test_a_gallery_that_is_too_large_gets_smaller_and_then_shorter_and_says_so(run: Path) -> None:
    images = shown(run)
    order = in_turns(images)
    sizes = [sum(len(folded(one.picture, side, of="a")) * 4 // 3 + 700 for one in order) for side in SIDES_PX]
    assert sizes[0] > sizes[1] > sizes[2]
    for side, size in zip(SIDES_PX, sizes, strict=True):
        assert fit(order, size)[0] == side
        assert len(fit(order, size).pictures) == len(order)
    cut = fit(order, sizes[2] // 2)
    assert 0 < len(cut.pictures) < len(order)
    (block,) = gallery_blocks(images, budget=sizes[2] // 2, gradcam=None)
    assert f"{len(cut.pictures)} of {len(images)} images are shown" in block.caption  # type: ignore[union-attr]
    (block,) = gallery_blocks(images, budget=sizes[0], gradcam="grad-cam")
    assert "images are shown" not in block.caption  # type: ignore[union-attr]


def test_what_is_left_out_is_taken_from_all_classes_in_turn(run: Path) -> None:
    images = [one._replace(image_id=str(turn)) for turn in range(3) for one in shown(run)]
    order = in_turns(images)
    groups = len({(one.of, one.kind) for one in images})
    assert len({(one.of, one.kind) for one in order[:groups]}) == groups
    assert sorted(map(id, order)) == sorted(map(id, images))


def test_a_page_of_many_pictures_stays_below_its_limit(copy: Path) -> None:
    table = pq.read_table(copy / "gallery_test.parquet")
    pq.write_table(pa.concat_tables([table] * 10), copy / "gallery_test.parquet")
    html = report_page([str(copy)])
    assert MAX_BYTES * 0.8 < len(html.encode()) < MAX_BYTES
    assert "as the page stays below 5 MB" in html


def test_a_damaged_picture_is_named(run: Path) -> None:
    with pytest.raises(InputError, match="the picture of abc can not be used"):
        folded(b"\xff\xd8\xff nothing", 64, of="abc")
    strip = shown(run)[0].picture
    with pytest.raises(InputError, match="the picture of abc can not be used"):
        folded(strip[: len(strip) // 2], 64, of="abc")


# ---- comparison


def slow(first: np.ndarray, second: np.ndarray, target: np.ndarray, *, resamples: int) -> dict[str, np.ndarray]:
    """The same by repeating rows, with the same draws."""
    rng = np.random.default_rng(0)
    weights = np.concatenate(
        [
            rng.multinomial(len(target), np.full(len(target), 1 / len(target)), size=min(BLOCK, resamples - start))
            for start in range(0, resamples, BLOCK)
        ]
    )
    found: dict[str, list[float]] = {"macro_f1": [], "micro_f1": [], "exact_match": []}
    for weight in weights:
        rows = np.repeat(np.arange(len(target)), weight)
        before, after = (score_predictions(one[rows], target[rows]) for one in (first, second))
        for name, values in found.items():
            values.append(float(after[name] or 0) - float(before[name] or 0))
    return {name: np.quantile(values, (0.025, 0.975)) for name, values in found.items()}


def decisions(target: np.ndarray, *, skill: float, seed: int) -> np.ndarray:
    return probabilities_for(target, skill=skill, seed=seed) >= 0.3


def test_the_paired_bootstrap_is_that_of_repeated_rows() -> None:
    _, target = small_truth(40)
    first, second = (decisions(target, skill=skill, seed=seed) for skill, seed in ((3, 1), (6, 2)))
    found = compare(first, second, target, resamples=130)
    names = {"macro_f1": "macro F1", "micro_f1": "micro F1", "exact_match": "exact match"}
    for name, (low, high) in slow(first, second, target, resamples=130).items():
        gain = found.scores[names[name]]
        assert (gain.low, gain.high) == pytest.approx((low, high))
        whole = score_predictions(second, target)[name] - score_predictions(first, target)[name]  # type: ignore[operator]
        assert gain.value == pytest.approx(whole)


def test_a_model_does_not_differ_from_itself_and_a_better_one_does() -> None:
    _, target = small_truth(300)
    one = decisions(target, skill=3, seed=1)
    same: Compared = compare(one, one, target, resamples=100)
    assert {(gain.value, gain.low, gain.high) for gain in [*same.scores.values(), *same.f1_K]} == {(0, 0, 0)}
    wrong = np.random.default_rng(0).random(target.shape)
    better = compare(target ^ (wrong < 0.1), target ^ (wrong < 0.01), target, resamples=200)
    assert all(gain.low > 0 for gain in better.scores.values())


def test_equal_models_are_called_different_about_as_often_as_promised() -> None:
    """Of 40 pairs of equally good models, by chance about two have an interval without 0."""
    wrong = 0
    for seed in range(40):
        _, target = small_truth(200, seed=seed)
        first, second = (decisions(target, skill=4, seed=seed * 2 + n) for n in (0, 1))
        wrong += not compare(first, second, target, resamples=200, seed=seed).scores["micro F1"].is_noise
    assert wrong <= 7  # P(more) is below 1 in 500 at a true rate of 5 %


def test_images_meet_by_id_and_only_shared_ones_count(run: Path, copy: Path) -> None:
    path = copy / "predictions_test.parquet"
    table = pq.read_table(path)
    kept = table.take(np.random.default_rng(0).permutation(table.num_rows)[:50])
    pq.write_table(kept, path)
    decided = shared_decisions([read_run(str(run)), read_run(str(copy))])
    assert decided is not None
    assert (decided.part, len(decided.target_NK)) == ("test", 50)
    assert (decided.by_run[0] == decided.by_run[1]).all()
    other = kept.set_column(kept.column_names.index("truth"), "truth", pa.array([[k % 28] for k in range(50)]))
    pq.write_table(other, path)
    with pytest.raises(InputError, match="has other labels there than in"):
        shared_decisions([read_run(str(run)), read_run(str(copy))])
    foreign = kept.set_column(0, "image_id", pa.array([f"other{k}" for k in range(50)]))
    pq.write_table(foreign, path)
    assert shared_decisions([read_run(str(run)), read_run(str(copy))]) is None
    assert "can not be said" in report_page([str(run), str(copy)])


def test_a_comparison_names_what_differs(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "two", "loss.name=bce", "optim.lr=0.01", skill=7.0, seed=3)
    html = report_page([str(run), str(other)])
    page = Parsed(html)
    assert page.texts["h2"] == ["Result", "Curves", "Classes", "Settings that differ"]
    assert re.search(r"two is better than the first \(\+0\.\d+ macro F1, 95 % interval", html)
    cells = page.texts["td"]
    assert cells[cells.index("optim.lr") :][:3] == ["optim.lr", "0.001", "0.01"]
    assert "run.name" not in cells
    assert all(len(attributes["alt"] or "") > 20 for attributes in page.of("img"))


def test_a_cross_validation_shows_its_folds(tmp_path: Path) -> None:
    root = tmp_path / "cv"
    for fold in range(3):
        write_run(root / "folds" / str(fold), "run.name=cv", seed=fold)
    whole = write_run(tmp_path / "whole", "run.name=cv")
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(whole / name, root / name)
    shutil.copy(whole / "predictions_val.parquet", root / "predictions_oof.parquet")
    shutil.copy(whole / "per_class.csv", root / "per_class_oof.csv")
    summary = json.loads((whole / "summary.json").read_text())
    scores = {name: value for name, value in summary.items() if not name.startswith("test_")}
    (root / "summary.json").write_text(json.dumps(scores | {"kind": "crossval", "folds": 3, "part": "oof"}))
    (root / "thresholds.json").write_text(json.dumps({"thresholds": [0.5] * 28}))
    page = Parsed(report_page([str(root)]))
    assert page.texts["h1"] == ["Cross-validation cv"]
    assert page.texts["h2"][:2] == ["Result", "Folds"]
    assert [cell for cell in page.texts["td"] if cell.startswith("fold ")] == ["fold 1", "fold 2", "fold 3"]
    means = [json.loads((root / "folds" / str(k) / "summary.json").read_text())["map"] for k in range(3)]
    assert f"{np.mean(means):.3f}" in page.texts["td"]
    assert f"{np.std(means, ddof=1):.3f}" in page.texts["td"]


# ---- the verb


def test_the_verb_writes_the_page(run: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"report.run={copy}"]) == 0
    assert (copy / "report.html").read_text().startswith("<!doctype html>")
    output = tmp_path / "c.html"
    assert main(["report", f"report.run={run},{copy}", f"report.output={output}"]) == 0
    assert "Comparison of runs" in output.read_text()
    for words, told in (
        ([], "report needs report.run=FOLDER"),
        ([f"report.run={run},{copy}"], "needs report.output=FILE.html"),
        ([f"report.run={run}", f"report.output={tmp_path}/page"], "name a file that ends in .html"),
        ([f"report.run={run},{run}", f"report.output={output}"], "names a folder twice"),
        ([f"report.run={tmp_path}/nowhere"], "no run folder"),
    ):
        capsys.readouterr()
        assert main(["report", *words]) == 2
        assert told in capsys.readouterr().err


def test_neither_torch_nor_ray_is_imported(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from hpa_ray.cli.main import main; "
        f"assert main(['report', 'report.run={run}', 'report.output={tmp_path}/a.html']) == 0; "
        "print(sorted({'torch', 'ray', 'torchvision', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
