"""What keeps a training from starting or going on: runs, splits, folds, settings, files that turn out to be bad."""

import io
import json
import shutil
from pathlib import Path

import pytest
from bad_data import (
    ADVICE,
    STAINS,
    Data,
    done,
    files_below,
    first_images,
    flip_a_pixel_byte,
    prepared,
    refused,
    rejected,
    training,
)
from PIL import Image


@pytest.fixture
def data(atlas: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 12)


@pytest.fixture
def whole(atlas: Path, tmp_path: Path) -> Data:
    """All sixty images: enough for a training."""
    return first_images(atlas, tmp_path, 60)


@pytest.fixture(scope="module")
def shards(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change them."""
    return prepared(atlas, tmp_path_factory.mktemp("whole") / "shards")


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one finished epoch. Do not change it."""
    root = tmp_path_factory.mktemp("trained")
    done("train", f"data.shards={shards}", *training(root))
    return root / "runs" / "run"


def twenty_for_validation(data: Data) -> Path:
    parts = data.root / "split.csv"
    rows = [f"{name},{'val' if k < 20 else 'train'}\n" for k, name in enumerate(data.ids)]
    parts.write_text("Id,split\n" + "".join(rows))
    return parts


def test_training_from_files_names_the_bad_one_and_goes_on_when_it_is_mended(whole: Data) -> None:
    ids = whole.ids
    words = whole.command("train", f"data.split={twenty_for_validation(whole)}", "train.batch_size=1000")
    path = whole.images / f"{ids[40]}_green.png"
    good = path.read_bytes()
    path.write_bytes(flip_a_pixel_byte(good))
    line, advice = refused(*words)
    assert line.startswith(f"{path}: damaged PNG (checksum of chunk 'IDAT' at byte ")
    assert advice.endswith(f" images can not be used: {ADVICE}")
    run = whole.root / "runs" / "run"
    assert not run.exists()
    path.write_bytes(good)
    lost = whole.images / f"{ids[41]}_yellow.png"
    lost.rename(whole.root / "away.png")
    assert refused(*words) == [
        f"{whole.images}/{lost.name}: missing: yellow plane",
        f"1 of 60 images can not be used: {ADVICE}",
    ]
    (whole.root / "away.png").rename(lost)
    done(*words)  # a batch of 1,000 is the 40 images there are
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    assert refused(*words) == [
        f"{run}: there is a run of this name already - choose another run.name, or go on with it by run.resume=true"
    ]


def test_training_from_files_with_quarantine(whole: Data) -> None:
    ids = whole.ids
    # one found by its name, one met in training, one in validation
    missing, flipped, palette = (whole.images / f"{ids[k]}_green.png" for k in (41, 40, 2))
    missing.unlink()
    words = whole.command("train", f"data.split={twenty_for_validation(whole)}", "data.on_error=quarantine")
    assert refused(*words) == [
        f"{missing}: missing: green plane",
        "1 of 60 images can not be used, more than data.max_rejected=0.01 allows",
    ]
    run = whole.root / "runs" / "run"
    assert not run.exists()
    flipped.write_bytes(flip_a_pixel_byte(flipped.read_bytes()))
    buffer = io.BytesIO()
    Image.new("P", (64, 64)).save(buffer, "PNG")
    palette.write_bytes(buffer.getvalue())
    *lines, last = refused(*words, "data.max_rejected=0.018")  # the first one it meets is one too many
    assert [line.split(": ")[0] for line in lines] == [str(missing), str(flipped)]
    assert last == "2 of 60 images can not be used, more than data.max_rejected=0.018 allows"
    assert not (run / "model.safetensors").exists()
    done(*words, "data.max_rejected=0.06")  # under the same name: the run before had not finished an epoch
    names = {(ids[2], palette.name), (ids[40], flipped.name), (ids[41], missing.name)}
    assert {row[:2] for row in rejected(run)} == names


# ---- runs


def test_runs_that_are_there_and_runs_to_go_on_with(run: Path, shards: Path) -> None:
    words = ("train", f"data.shards={shards}", *training(run.parent.parent))
    before = files_below(run)
    there = "choose another run.name, or go on with it by run.resume=true"
    assert refused(*words) == [f"{run}: there is a run of this name already - {there}"]
    assert refused(*words, "run.resume=true", "optim.lr=0.5", "train.epochs=2") == [
        f"{run} was started with other settings - optim.lr: 0.001 there, 0.5 here; train.epochs: 1 there, 2 here: "
        "use those, or another run.name"
    ]
    unnamed = [word for word in words if not word.startswith("run.name")]
    assert refused(*unnamed, "run.resume=true") == ["run.resume=true needs run.name=NAME, the run to go on with"]
    assert files_below(run) == before


def test_a_run_whose_notes_or_checkpoint_are_damaged(run: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "run")
    copy = tmp_path / "runs" / "run"
    words = ("train", f"data.shards={shards}", *training(tmp_path), "run.resume=true")
    (checkpoint,) = (copy / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    (told,) = refused(*words)
    assert told.startswith(f"{checkpoint}: ")
    assert "delete it to go on from the one before" in told
    for text in ("{", "x", "\0"):
        (copy / "config.yaml").write_text(text)
        assert refused(*words) == [f"{copy}/config.yaml: damaged - choose another run.name"]


def test_a_run_that_can_not_be_evaluated_so(run: Path, shards: Path, tmp_path: Path) -> None:
    before = files_below(run)
    words = ("evaluate", f"evaluate.run={run}", f"evaluate.output={tmp_path}/out")
    assert refused(*words, "data.channels=green") == ["data.channels = green, the model takes red,green,blue,yellow"]
    assert refused(*words, "split.parts=0.5/0.5") == ["evaluate.part = test: the data has no images in it"]
    assert refused(*words, f"data.shards={tmp_path}")[0].startswith(f"data.shards = {tmp_path}: no index.json")
    assert refused(*words, f"evaluate.run={tmp_path}") == [
        f"{tmp_path}/model.safetensors: no such model - "
        "give a run folder that has finished an epoch, or a model.safetensors"
    ]
    assert files_below(run) == before
    assert not any(tmp_path.iterdir())


# ---- settings, splits, folds


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["data.images=/x"],
            "data.shards and data.images are both set - shards already hold the images, give one of them",
        ),
        (
            ["data.extra=/x"],
            "data.shards and data.extra are both set - shards already hold the images, give one of them",
        ),
        (["data.channels=pink"], f"command line: data.channels = 'pink' - name each stain once, from: {STAINS}"),
        (["data.channels=red,red"], f"command line: data.channels = 'red,red' - name each stain once, from: {STAINS}"),
        (
            ["split.parts=1/2/3"],
            "split.parts = 1/2/3 adds up to 6 rows, the table has 60: write 1/2/57 or 0.167/0.333/0.5",
        ),
        (
            ["split.parts=nonsense"],
            "split.parts = 'nonsense' - write counts (24000/3000/4072), shares (0.8/0.1/0.1) or folds (5 folds)",
        ),
        (["split.parts=5 folds"], "split.parts = '5 folds' - training needs train/val or train/val/test"),
        (["split.parts=99999999999 folds"], "split.parts = '99999999999 folds' - write at most 9999 folds"),
        (["split.parts=0.9/0.2"], "split.parts = 0.9/0.2 adds up to 1.1, shares must add up to 1: write 0.818/0.182"),
        (["split.parts=1"], "split.parts = 1 is one part: write two or more, such as 0.9/0.1"),
        (["split.parts=nan/1"], "split.parts = nan/1 - every part must be greater than 0: leave the others out"),
        (
            ["data.sample_fraction=0.001"],
            "data.sample_fraction = 0.001: of 48 training images none is left - use more",
        ),
        (
            ["data.sample_fraction=0"],
            "command line: data.sample_fraction = '0' - input should be greater than 0",
        ),
        (["train.use_gpu=true"], "train.use_gpu = true, but torch sees no GPU here"),
        (
            ["model.name=resnet5o"],
            "command line: model.name = 'resnet5o' - no architecture of this name - did you mean 'resnet50'? "
            "(torchvision's by name, timm's as timm/NAME)",
        ),
        (
            ["train.select=macro_f2"],
            "train.select = 'macro_f2': no score of this name - did you mean 'macro_f1'?",
        ),
        (
            ["train.sizes=16"],
            "train.sizes = 16: the last must be the side of the data, 32 px",
        ),
        (
            ["train.freeze_epochs=1"],
            "train.freeze_epochs needs model.weights - on features drawn at random the last layer learns nothing",
        ),
        (
            ["loss.weighting=invers"],
            "command line: loss.weighting = 'invers' - input should be 'none', 'inverse', 'sqrt_inverse', "
            "'effective_number' or 'gentle'",
        ),
    ],
)
def test_settings_that_do_not_fit_the_data(words: list[str], told: str, shards: Path, tmp_path: Path) -> None:
    import torch

    if "train.use_gpu=true" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert refused("train", f"data.shards={shards}", *training(tmp_path), *words) == [told]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_fraction_that_is_nearly_all_is_all(shards: Path, tmp_path: Path) -> None:
    words = ("train", f"data.shards={shards}", *training(tmp_path), "run.storage=" + str(tmp_path / "r"))
    parts = tmp_path / "split.csv"
    parts.write_text("Id,split\nx,train\n")  # stops after the fraction would have been drawn, before the training
    told = refused(*words, f"data.split={parts}", "data.sample_fraction=0.999")
    assert told == [f"{parts}: no image of the data is in its part 'train' or 'val'"]
    (told_of_steps,) = refused(*words, "data.sample_fraction=0.999", "optim.lr=1e30")
    assert told_of_steps.startswith("the loss is ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Id,split\nA,train\nB,\x1b[2J\n", r"part '\x1b[2J' - expected train, val, test"),
        ("Id,split\nA,train\nB,Train\n", "part 'Train' - expected train, val, test"),
        ("Id,part\nA,train\n", "no column 'split' - `hpa-ray split split.output=FILE` writes such a file"),
        ("Id,split\nB,val\n\nA,train\nA,val\n", "line 5: Id 'A' stands more than once - an image belongs to one part"),
        ("Id,split\nA,train\n", "no image of the data is in its part 'train' or 'val'"),
        ("Id,split,split\nA,train,val\n", "more than one column 'split' - keep one"),
        ("Id,fold\nA,0\nB,1\n", "part '0' - say which fold validates by data.fold"),
        ("", "the file is empty - expected a csv with the header Id"),
    ],
)
def test_a_split_that_does_not_fit(text: str, reason: str, data: Data) -> None:
    parts = data.root / "split.csv"
    first, second = data.ids[:2]
    parts.write_text(text.replace("A", first).replace("B", second))
    told = reason.replace("'A'", f"'{first}'").replace("FILE", str(parts))
    assert refused(*data.command("train", f"data.split={parts}")) == [f"{parts}: {told}"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Id,fold\nA,0\nB,1\n", "data.fold = 2: FILE has no such fold - it has 0, 1"),
        ("Id,split\nA,train\nB,val\n", "data.fold = 2: FILE has no such fold - it has train, val"),
        ("Id,fold\nA,2\nB,2\n", "FILE: every image of the data is in fold 2 - none is left to train on"),
        ("Id,part\nA,2\nB,1\n", "FILE: no column 'split' - `hpa-ray split split.output=FILE` writes such a file"),
        (None, "FILE: no such file"),
    ],
)
def test_folds_that_do_not_fit(text: str | None, reason: str, data: Data) -> None:
    folds = data.root / "folds.csv"
    if text is not None:
        folds.write_text(text.replace("A", data.ids[0]).replace("B", data.ids[1]))
    before = files_below(data.root)
    told = refused(*data.command("train", f"data.split={folds}", "data.fold=2"))
    assert told == [reason.replace("FILE", str(folds))]
    assert files_below(data.root) == before


def test_a_fold_without_a_table_of_folds(data: Data) -> None:
    before = files_below(data.root)
    (told,) = refused(*data.command("train", "data.fold=2", "split.parts=0.5/0.5"))
    assert "data.fold" in told
    assert "data.split" in told
    assert files_below(data.root) == before
