"""Mistakes in words, keys and configuration files: exit code 2, a line each, all at once, before anything is done."""

from pathlib import Path

import pytest
import yaml
from bad_data import CELL, FUZZ, Data, call, done, files_below, first_images, refused
from hypothesis import given
from hypothesis import strategies as st

from hpa_ray.config import config_keys, recipe_names


@pytest.fixture
def data(atlas: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 12)


def test_words_that_are_no_command() -> None:
    making = "synth, fetch, check, explore, duplicates, split, prepare"
    verbs = (
        f"{making}, doctor, bench, train, crossval, tune, ablate, evaluate, analyze, predict, export, report, config"
    )
    assert call("trian")[2] == [f"hpa-ray: unknown verb 'trian' - there are: {verbs}"]
    assert call("\x1b[2Jx")[0] == 2
    assert call("train", "--confg", "x")[2] == [
        "hpa-ray: unrecognized arguments: --confg x - `hpa-ray --help` shows how it is used"
    ]
    assert call("train", "--config", "a.yaml", "--recipe", "embedded")[2] == [
        "hpa-ray: argument --recipe: not allowed with argument --config - `hpa-ray --help` shows how it is used"
    ]
    recipes = ", ".join(recipe_names())
    assert refused("train", "--recipe", "nope") == [f"--recipe nope: no such recipe - there are: {recipes}"]
    assert refused("train", "epochs") == ["command line: 'epochs' - write it as key=value"]
    assert refused("fetch", "kagle") == ["command line: 'kagle' - write it as key=value"]
    assert refused("train", "train.num_workers=0", "data.images=\x1b]0;x\x07") == [
        "no data: give data.shards=FOLDER, or data.images=FOLDER with data.labels=CSV"
    ]


def test_mistakes_of_file_and_words_come_together_and_before_anything_is_done(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("train: {epochs: 0}\ndata: {image_sise: 5}\n")
    for verb in ("fetch", "check", "explore", "duplicates", "split", "prepare", "train", "evaluate", "predict"):
        told = refused(verb, "--config", str(file), "train.batch_size=1", f"run.storage={tmp_path}/runs", "x")
        assert sorted(told) == sorted(
            [
                f"{file}: train.epochs = 0 - input should be greater than or equal to 1",
                f"{file}: unknown key 'data.image_sise' - did you mean 'data.image_size'?",
                "command line: train.batch_size = '1' - input should be greater than or equal to 2",
                "command line: 'x' - write it as key=value",
            ]
        )
    assert list(tmp_path.iterdir()) == [file]
    (told,) = refused("train", "--config", str(tmp_path))
    assert told.startswith(f"--config {tmp_path}: cannot be read (")


NO_INTEGER = "input should be a valid integer, unable to parse string as an integer"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("prepare.sizes=nonsense", f"'nonsense' - {NO_INTEGER}"),
        ("prepare.sizes=128,64.5", f"'64.5' - {NO_INTEGER}"),
        ("prepare.sizes=128,4", "'4' - input should be greater than or equal to 8"),
        ("prepare.sizes=128x256", f"'128x256' - {NO_INTEGER}"),
        ("data.white_level=12 bit", f"'12 bit' - {NO_INTEGER}"),
        ("data.white_level=4095.5", f"'4095.5' - {NO_INTEGER}"),
        ("data.white_level=12", "'12' - input should be greater than or equal to 255"),
        ("data.white_level=65536", "'65536' - input should be less than or equal to 65535"),
        ("data.fold=-1", "'-1' - input should be greater than or equal to 0"),
        ("data.fold=first", f"'first' - {NO_INTEGER}"),
        ("data.conflict=last", "'last' - input should be 'first', 'union' or 'drop'"),
        ("data.on_error=ignore", "'ignore' - input should be 'fail' or 'quarantine'"),
        ("data.max_rejected=5%", "'5%' - input should be a valid number, unable to parse string as a number"),
        ("split.extra=val", "'val' - input should be 'train' or 'all'"),
        ("duplicates.max_distance=25", "'25' - input should be less than or equal to 24"),
        ("explore.samples_per_class=0", "'0' - input should be greater than or equal to 1"),
        ("storage.concurrency=0", "'0' - input should be greater than or equal to 1"),
        ("storage.concurrency=many", f"'many' - {NO_INTEGER}"),
        ("storage.max_attempts=0", "'0' - input should be greater than or equal to 1"),
        ("storage.timeout_s=-1", "'-1' - input should be greater than 0"),
        ("storage.timeout_s=inf", "'inf' - input should be a finite number"),
        ("storage.anonymous=perhaps", "'perhaps' - input should be a valid boolean, unable to interpret input"),
        ("fetch.limit=0", "'0' - input should be greater than or equal to 1"),
        ("fetch.requests_per_s=0", "'0' - input should be greater than 0"),
    ],
)
def test_values_that_a_key_can_not_have(word: str, reason: str, data: Data) -> None:
    before = files_below(data.root)
    for words in (data.command("prepare", word), data.command("prepare", word, "--dry-run"), ("config", "show", word)):
        assert refused(*words) == [f"command line: {word.split('=')[0]} = {reason}"]
    assert files_below(data.root) == before


def test_a_misspelt_key_is_suggested() -> None:
    for wrong, right in (("data.white_levle", "data.white_level"), ("storage.endpont", "storage.endpoint")):
        told = refused("config", "show", f"{wrong}=1")
        assert told == [f"command line: unknown key '{wrong}' - did you mean '{right}'?"]


def test_credentials_are_never_told(tmp_path: Path) -> None:
    """A key of digits is a number in YAML, and as such refused."""
    file = tmp_path / "my.yaml"
    file.write_text("storage: {secret_key: 48151623, session_token: 42421337}\n")
    told = refused("check", "--config", str(file))
    assert [line.split(" = ")[0] for line in told] == [
        f"{file}: storage.secret_key",
        f"{file}: storage.session_token",
    ]
    assert not any(secret in line for line in told for secret in ("48151623", "42421337"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fetch"], "fetch needs fetch.labels=CSV, such as HPAv18RBGY_wodpl.csv (or `hpa-ray fetch kaggle`)"),
        (["fetch", "fetch.labels=x.csv"], "fetch needs fetch.output=FOLDER"),
        (["fetch", "kaggle"], "fetch kaggle needs fetch.output=FOLDER"),
        (["synth"], "synth needs synth.output=FOLDER"),
        (["check", "data.shards=x"], "check needs data.images=FOLDER or data.labels=CSV, or both"),
        (["duplicates", "data.labels=x.csv"], "no images: give data.images=FOLDER"),
        (
            ["duplicates", "data.images=x", "data.shards=x"],
            "data.shards and data.images are both set - shards already hold the images, give one of them",
        ),
        (
            ["explore", "data.images=x", "data.shards=x"],
            "data.shards and data.images are both set - shards already hold the images, give one of them",
        ),
        (["prepare", "data.images=x", "data.labels=x"], "prepare needs prepare.output=FOLDER"),
        (
            ["prepare", "data.images=x", "prepare.output=y"],
            "prepare needs data.images=FOLDER and data.labels=CSV",
        ),
        (
            ["split", "data.labels=x", "data.extra=y"],
            "data.extra joins further sources to those of data.images=FOLDER - give that too",
        ),
        (["train", "run.resume=true"], "run.resume=true needs run.name=NAME, the run to go on with"),
        (["evaluate"], "evaluate needs evaluate.run=RUN_FOLDER (or a model.safetensors)"),
        (["predict", "predict.run=x"], "predict needs predict.run=RUN_FOLDER and predict.output=FOLDER"),
    ],
)
def test_what_a_verb_can_not_do_without(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(*words) == [told]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("fetch.classes=99", "fetch.classes: '99' is no class number (0 to 27)"),
        ("fetch.classes=rae", "fetch.classes: 'rae' is no class number (0 to 27)"),
        ("fetch.url=here", "fetch.url = here: is no web address"),
        ("fetch.url=https://h/{id}.jpg", "fetch.url = https://h/{id}.jpg: has no {color}"),
        ("fetch.url=https://h/{color}.jpg", "fetch.url = https://h/{color}.jpg: has neither {id} nor both"),
        ("fetch.url=https://h/{name}", "fetch.url = https://h/{name}: unknown field {name} - there are {id}, {first}"),
        ("fetch.url=https://h/{id", "fetch.url = https://h/{id: "),
        ("fetch.labels=nowhere.csv", "nowhere.csv: no such file"),
    ],
)
def test_a_fetch_that_can_not_be(word: str, told: str, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.root)
    before = files_below(data.root)
    words = ("fetch", f"fetch.labels={data.labels}", "fetch.url=https://h/{id}_{color}.jpg", word)
    for more in (["fetch.output=fetched"], ["--dry-run"]):
        (line,) = refused(*words, *more)
        assert line.removeprefix(f"{data.root}/").startswith(told)
    assert files_below(data.root) == before


@pytest.mark.parametrize("how", ["--dry-run", "prepare.dry_run=true"])
def test_a_dry_run_of_prepare_writes_nothing(how: str, data: Data) -> None:
    (data.images / f"{data.ids[2]}_blue.png").unlink()
    before = files_below(data.root)
    said = done(*data.command("prepare", how, "prepare.sizes=16,32"))
    assert said[0].startswith("prepare would write 11 images at 16 px and 32 px: 2 shards, ")
    assert f"can not be used  {data.images}/{data.ids[2]}_blue.png: missing: blue plane" in said
    assert said[-1] == f"nothing was written to {data.shards}"
    assert refused(*data.command("prepare", how, f"data.labels={data.root}/no.csv")) == [
        f"{data.root}/no.csv: no such file"
    ]
    assert files_below(data.root) == before
    assert not data.shards.exists()


@pytest.mark.parametrize("verb", ["split", "explore", "duplicates"])
def test_a_dry_run_of_a_verb_that_has_none_writes_nothing(verb: str, data: Data) -> None:
    before = files_below(data.root)
    assert any("--dry-run" in line for line in refused(*data.command(verb, "--dry-run")))
    assert files_below(data.root) == before


def test_no_data_at_all_is_the_embedded_atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPA_RAY_HOME", str(tmp_path))
    words = ("check", "synth.num_images=20", "synth.image_size=32", "synth.num_workers=1", "--strict")
    said = done(*words)
    assert said[0].startswith("no data given: drawing the embedded synthetic atlas of 20 images in ")
    assert "usable  20 images" in said
    assert said[-1] == "problems  0"
    before = files_below(tmp_path)
    assert done(*words)[0].startswith("no data given: using the embedded synthetic atlas in ")
    assert files_below(tmp_path) == before


# ---- anything at all


@FUZZ
@given(
    st.binary(max_size=40) | st.text(st.sampled_from("abdt:{}[]&*!?-'\" \n\t#|>%@.01x"), max_size=30).map(str.encode)
)
def test_any_bytes_as_a_configuration(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    assert call("config", "show", "--config", str(file))[0] in (0, 2)


WORDS = st.one_of(
    CELL,
    st.builds("{}={}".format, st.sampled_from(sorted(config_keys())), CELL | st.integers() | st.floats()),
    st.sampled_from(["--strict", "--dry-run", "--help", "--", "-1", "--recipe", "--config"]),
)


@FUZZ
@given(st.lists(WORDS, max_size=4))
def test_any_words(words: list[str]) -> None:
    assert call("config", *words)[0] in (0, 2)
    assert call(*words, "data.image_size=1")[0] in (0, 2)


def test_the_words_of_a_dumped_configuration_are_one_line_each(tmp_path: Path) -> None:
    said = done("config", "show", "data.images=a\nb\x1b[2J")
    assert yaml.safe_load("\n".join(said))["data"]["images"] == "a\nb\x1b[2J"
