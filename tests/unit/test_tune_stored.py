"""A study read back from its files: the same answer, the same page, and clear words where a file is not as it was."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_study import SPACE
from test_tune_page import whole_study

from hpa_ray.checkpoint.results import class_lists, prediction_table
from hpa_ray.cli.main import main
from hpa_ray.config import dump_config, load_config
from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_NAMES, NUM_CLASSES
from hpa_ray.report import report_page
from hpa_ray.storage import write_parquet
from hpa_ray.tune.answer import find_answer
from hpa_ray.tune.stored import FACTS, Facts, stored_study
from hpa_ray.tune.study import GRACE_CLASSES, StudyFolder
from hpa_ray.tune.words import in_words

WORDS = ["run.name=study", "train.epochs=2", "tune.grace_epochs=1", "tune.trials=17", "tune.floor=0"]


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return whole_study(3.0)


@pytest.fixture(scope="module")
def study(known: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `tune` would leave of it. Do not change it."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    stored = StudyFolder(str(folder))
    stored.folder.write_text("config.yaml", dump_config(load_config(WORDS)))
    tree = [dimension._asdict() for dimension in SPACE]
    stored.folder.write_text("space.yaml", yaml.safe_dump(tree, sort_keys=False))
    facts = Facts(
        rare=np.flatnonzero(known["rare_K"]).tolist(),
        unit="GPU",
        units_per_trial=1.0,
        command="hpa-ray tune",
        reproduce=["r"],
    )
    stored.folder.write_json(FACTS, facts.model_dump())
    for trial in known["trials"]:
        stored.add(trial)
        run = stored.run_folder(trial.number)
        run.write_metrics([line | {"wall_s": 30.0 * line["epoch"]} for line in trial.lines])
        if trial.is_over:
            stored.finish(trial)
        if trial.number in known["class_ap"]:
            values = known["class_ap"][trial.number]
            rows = [f"{k},{CLASS_NAMES[k]},{'' if np.isnan(ap) else repr(float(ap))}" for k, ap in enumerate(values)]
            run.write_text(GRACE_CLASSES, "\n".join(["class,name,average_precision", *rows]) + "\n")
        if trial.final_of is not None:
            decided, probability_NK = known["predictions"][trial.final_of, trial.seed]
            ids = [f"image{n:04d}" for n in range(len(decided))]
            table = prediction_table(
                ids, probability_NK, class_lists(decided), "", thresholds=np.full(NUM_CLASSES, 0.5),
                truth=class_lists(known["targets_NK"]),
            )  # fmt: skip
            write_parquet(run.path("predictions_test.parquet"), table)
    return folder


def test_the_answer_is_that_of_the_study(study: Path, known: dict[str, Any]) -> None:
    found = stored_study(str(study)).answer
    expected = find_answer(**known)
    assert found.winner == expected.winner
    assert [trial._replace(lines=()) for trial in found.trials] == [t._replace(lines=()) for t in expected.trials]
    assert found.effects == expected.effects
    assert found.importance == expected.importance
    assert [final.overall for final in found.finals] == [final.overall for final in expected.finals]
    assert [final.rare for final in found.finals] == [final.rare for final in expected.finals]
    assert in_words(found)[:2] == in_words(expected)[:2]


def test_the_page_of_a_study_has_its_sections_and_loads_nothing(study: Path, tmp_path: Path) -> None:
    assert main(["report", f"report.run={study}", f"report.output={tmp_path}/study.html"]) == 0
    html = (tmp_path / "study.html").read_text()
    heads = re.findall(r"<h2>([^<]*)</h2>", html)
    expected = ["Answer", "Finals", "What the choices do", "Trials", "Failures", "What was searched", "Do it again"]
    assert heads == expected
    assert in_words(stored_study(str(study)).answer)[0][:60] in html
    assert not re.search(r'(src|href)="(https?:|//|\./)', html)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.html"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (FACTS, None),
        (FACTS, b'{"rare": [99]}'),
        ("space.yaml", b"- {key: 3}"),
        ("space.yaml", b"{"),
        ("trials/0003/outcome.json", b"[]"),
        ("trials/0001/metrics.jsonl", b"x"),
        ("trials/0017/predictions_test.parquet", b"PAR1"),
    ],
)
def test_a_damaged_study_is_named(name: str, content: bytes | None, study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "copy"))
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        report_page([str(copy)])
    assert name in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_study_is_not_compared_with_a_run(study: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {name: new}\n")
    with pytest.raises(InputError, match="is a study"):
        report_page([str(study), str(tmp_path)])
    assert json.loads((study / FACTS).read_text())["unit"] == "GPU"
