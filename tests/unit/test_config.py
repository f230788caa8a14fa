"""The loader: values arrive with their types, later sources win, and every mistake is told with its source."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray.channels import STAINS
from hpa_ray.config import Config, config_keys, dump_config, load_config, recipe_names, type_name
from hpa_ray.errors import InputError


def problems(*words: str, text: str | None = None, folder: Path | None = None) -> list[str]:
    """What is told of these words and this YAML file, whose path is written as FILE."""
    file = None
    if text is not None:
        assert folder is not None
        file = str(folder / "keys.yaml")
        Path(file).write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(words, file=file)
    return [problem.replace(file, "FILE") if file else problem for problem in caught.value.problems]


def test_words_win_over_the_file_and_the_file_over_the_base(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("train: {epochs: 3, batch_size: 7}\ndata: {channels: [green, red]}\n")
    base = load_config(["train.epochs=2", "train.num_workers=0"])
    config = load_config(["train.batch_size=5", "run.name=x"], file=str(tmp_path / "keys.yaml"), base=base)
    assert (config.train.epochs, config.train.batch_size, config.train.num_workers) == (3, 5, 0)
    assert config.data.channels == ("green", "red")
    assert config.run.name == "x"


def test_dotted_keys_in_a_file_are_the_same_as_sections(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("train.epochs: 3\nrun: {}\n")
    assert load_config(file=str(tmp_path / "keys.yaml")).train.epochs == 3


@pytest.mark.parametrize("word", ["data.split=", "data.split=none", "data.split=null"])
def test_a_key_can_be_unset(word: str) -> None:
    assert load_config(["data.split=x.csv", word]).data.split is None


@pytest.mark.parametrize("word", ["data.channels=green", "data.channels=yellow,red", "data.channels= blue , green "])
def test_stains_as_a_word(word: str) -> None:
    assert set(load_config([word]).data.channels) <= set(STAINS)


def test_a_dumped_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(["data.images=ö\x1b b", "train.epochs=3", "data.channels=blue", "optim.lr=1e-5"])
    (tmp_path / "keys.yaml").write_text(dump_config(config))
    assert load_config(file=str(tmp_path / "keys.yaml")) == config


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str) -> None:
    assert load_config(recipe=name) != Config()


def test_every_key_has_a_type_a_meaning_and_a_default_that_is_valid() -> None:
    for key, field in config_keys().items():
        assert field.description, key
        assert type_name(field), key
    assert Config.model_validate(Config().model_dump()) == Config()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("epochs=3", "command line: unknown key 'epochs' - did you mean 'train.epochs'?"),
        ("train.epoch=3", "command line: unknown key 'train.epoch' - did you mean 'train.epochs'?"),
        ("data.on_eror=fail", "command line: unknown key 'data.on_eror' - did you mean 'data.on_error'?"),
        ("qqqqqq=1", "command line: unknown key 'qqqqqq' - `hpa-ray config keys` lists them"),
        ("=1", "command line: unknown key '' - `hpa-ray config keys` lists them"),
        ("train=3", "command line: 'train' is a section - write train.KEY=VALUE"),
        ("train", "command line: 'train' - write it as key=value"),
        ("train.epochs", "command line: 'train.epochs' - write it as key=value"),
        ("train.epochs=0", "command line: train.epochs = '0' - input should be greater than or equal to 1"),
        (
            "train.epochs=two",
            "command line: train.epochs = 'two' - "
            "input should be a valid integer, unable to parse string as an integer",
        ),
        ("train.epochs=", "command line: train.epochs = None - input should be a valid integer"),
        ("optim.lr=nan", "command line: optim.lr = 'nan' - input should be a finite number"),
        ("optim.lr=1e999", "command line: optim.lr = '1e999' - input should be a finite number"),
        ("data.on_error=warn", "command line: data.on_error = 'warn' - input should be 'fail' or 'quarantine'"),
        (
            "data.channels=pink,red",
            "command line: data.channels = 'pink,red' - name each stain once, from: red, green, blue, yellow",
        ),
        (
            "data.channels=red,red",
            "command line: data.channels = 'red,red' - name each stain once, from: red, green, blue, yellow",
        ),
        (
            "data.channels=,",
            "command line: data.channels = ',' - name each stain once, from: red, green, blue, yellow",
        ),
        (
            "run.name=../x",
            "command line: run.name = '../x' - string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'",
        ),
        (
            "run.seed=99999999999999999999",
            "command line: run.seed = '99999999999999999999' - input should be less than or equal to "
            "9223372036854775807",
        ),
    ],
)
def test_one_wrong_word(word: str, told: str) -> None:
    assert problems(word) == [told]


def test_mistakes_of_the_file_and_of_the_words_are_told_at_once_with_their_source(tmp_path: Path) -> None:
    told = problems(
        "data.image_size=4",
        "run.sead=1",
        "loose",
        text="train: {epochs: x, epoch: 3}\ndata: {channels: [1], images: 5}\nmodel: resnet\n",
        folder=tmp_path,
    )
    assert sorted(told) == sorted(
        [
            "FILE: train.epochs = 'x' - input should be a valid integer, unable to parse string as an integer",
            "FILE: unknown key 'train.epoch' - did you mean 'train.epochs'?",
            "FILE: data.channels = 1 - input should be a valid string",
            "FILE: data.images = 5 - input should be a valid string",
            "FILE: 'model' is a section - write model.KEY=VALUE",
            "command line: data.image_size = '4' - input should be greater than or equal to 8",
            "command line: unknown key 'run.sead' - did you mean 'run.seed'?",
            "command line: 'loose' - write it as key=value",
        ]
    )


@pytest.mark.parametrize(
    "text",
    [
        *("{", "a: b: c", "\t", "x: \0", "- 1\n  - 2\n: 3", "? [1]\n: 2\n", "!!python/object:os.system x"),
        *("x: !!timestamp foo", "x: !!bool foo", "x: !!int ''", "x: 2001-99-99", "x: !!float y", "[" * 5000),
    ],
)
def test_a_file_that_is_no_yaml(text: str, tmp_path: Path) -> None:
    (told,) = problems(text=text, folder=tmp_path)
    assert told.startswith("FILE: not valid YAML - ")
    assert "\n" not in told


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "3", "x" * 10_000])
def test_a_file_without_sections(text: str, tmp_path: Path) -> None:
    (told,) = problems(text=text, folder=tmp_path)
    assert told.startswith("FILE: expected sections of keys such as 'train: {epochs: 3}', found ")
    assert len(told) < 200


def test_a_file_that_holds_itself_or_grows_without_end_is_told_briefly(tmp_path: Path) -> None:
    nested = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
    )
    for text in ("a: &a\n  b: *a\n", nested + "train: {epochs: *m}\n"):
        assert all(len(told) < 300 for told in problems(text=text, folder=tmp_path))


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "bytes.yaml", ".", "bytes.yaml/x", "nul\0"):
        with pytest.raises(InputError) as caught:
            load_config(file=f"{tmp_path}/{name}")
        (told,) = caught.value.problems
        assert told.startswith(f"--config {tmp_path}/{name}: cannot be read (")


@pytest.mark.parametrize("name", ["nope", "../recipes/embedded", "", "a\0b", "x" * 5000])
def test_a_recipe_that_there_is_not(name: str) -> None:
    with pytest.raises(InputError, match=rf"no such recipe - there are: .*{recipe_names()[0]}"):
        load_config(recipe=name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(config_keys())), JSON, max_size=4), st.lists(st.text(), max_size=3))
def test_any_values_give_a_configuration_or_lines(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object], words: list[str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(values))
    try:
        config = load_config(words, file=str(file))
    except InputError as error:
        told = error.problems
    else:
        assert Config.model_validate(config.model_dump()) == config
        return
    assert told
    assert all(problem.strip() for problem in told)
