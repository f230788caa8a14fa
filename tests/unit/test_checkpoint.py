"""What is stored of a run comes back whole, runs nothing when it is loaded, and is refused by name when damaged."""

import io
import json
import pickle
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from small_model import RESNET18, small_model

from hpa_ray.channels import STAIN_ORDER, STAINS
from hpa_ray.checkpoint.model_file import ModelCard, load_model, save_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES, VOCABULARY
from hpa_ray.model import Classifier
from hpa_ray.storage import list_files

THRESHOLDS = tuple(float(k) / NUM_CLASSES for k in range(NUM_CLASSES))
CARD = ModelCard(
    channels=("green", "red"),
    image_size=32,
    model=RESNET18,
    run="tidy-run",
    epoch=3,
    thresholds=THRESHOLDS,
    config="model: {name: resnet18}\n",
)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def model() -> Classifier:
    model = small_model([0.1, 0.2], [0.3, 0.4], seed=5)
    with torch.no_grad():  # one training step's worth of state: statistics of batch norm, a head that is not zero
        for _ in range(2):
            model(torch.randint(0, 256, (4, 2, 32, 32), dtype=torch.uint8))
    return model.eval()


@pytest.fixture(scope="module")
def shipped(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shipped") / "model.safetensors"
    save_model(str(path), model, CARD)
    return path


# model file


@pytest.mark.parametrize("place", ["file", "folder", "store"])
def test_a_loaded_model_gives_identical_logits(model: Classifier, shipped: Path, place: str) -> None:
    uri = {"file": str(shipped), "folder": str(shipped.parent), "store": f"memory://{uuid.uuid4().hex}"}[place]
    if place == "store":
        save_model(f"{uri}/model.safetensors", model, CARD)
    loaded = load_model(uri)
    images = torch.randint(0, 256, (5, 2, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model(images))
    assert loaded.card == CARD
    assert not loaded.model.training
    state = model.state_dict()
    assert loaded.model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())


def test_other_software_can_read_the_model(model: Classifier, shipped: Path) -> None:
    with safe_open(str(shipped), framework="pt") as file:
        assert set(file.keys()) == set(model.state_dict())
        card = json.loads(file.metadata()["hpa_ray"])
    assert card["vocabulary"] == VOCABULARY
    assert card["stain_order"] == STAIN_ORDER
    assert card["channels"] == ["green", "red"]
    assert card["thresholds"] == list(THRESHOLDS)
    assert {"format", "version", "image_size", "model", "run", "epoch", "config"} < card.keys()


def test_saving_leaves_the_model_as_it_was(model: Classifier, tmp_path: Path) -> None:
    other = small_model([0.1, 0.2], [0.3, 0.4], seed=6).train()
    save_model(str(tmp_path / "model.safetensors"), other, CARD)
    assert other.training
    assert all(parameter.requires_grad for parameter in other.parameters())


def pickle_files(path: Path) -> Iterator[bytes]:
    """Files that make `path` when a careless program loads them."""
    for protocol in (0, 2, 4):
        yield pickle.dumps(Bomb(path), protocol)
    for new_form in (True, False):
        buffer = io.BytesIO()
        torch.save(
            {"backbone.fc.bias": torch.zeros(28), "x": Bomb(path)}, buffer, _use_new_zipfile_serialization=new_form
        )
        yield buffer.getvalue()


def test_the_bomb_of_these_tests_works(tmp_path: Path) -> None:
    path = tmp_path / "proof"
    for content in pickle_files(path):
        if b"torch" in content or content[:2] == b"PK":
            torch.load(io.BytesIO(content), weights_only=False)["x"].close()
        else:
            pickle.loads(content).close()
        path.unlink()  # raises if loading made no file


def test_a_pickle_in_place_of_a_model_is_refused_and_not_run(tmp_path: Path) -> None:
    for content in pickle_files(tmp_path / "proof"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors: not a model file"):
            load_model(str(tmp_path))
    assert not (tmp_path / "proof").exists()


def test_a_damaged_model_is_refused(shipped: Path, tmp_path: Path) -> None:
    content = shipped.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    huge = struct.pack("<Q", 2**60) + content[8:]
    cuts = [content[:length] for length in (0, 7, 8, 100, 8 + header_bytes, len(content) // 2, len(content) - 1)]
    for damaged in [*cuts, huge, content + b"\0", content[8:], b"{}" * 50]:
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.safetensors: not a model file"):
            load_model(str(tmp_path))


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such model"):
        load_model(str(tmp_path))
    with pytest.raises(InputError, match=r"none\.safetensors: no such model"):
        load_model(str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"version": 3, "what": "is new"}, "its version is 3"),
        ({"vocabulary": "hpa-35"}, "its vocabulary is 'hpa-35'"),
        ({"stain_order": "hpa-bgry"}, "its stain order is 'hpa-bgry'"),
        ({"model": {"name": "resnet34"}}, "the weights do not fit resnet34"),
        ({"model": {"name": "vgg"}}, "no architecture of this name"),
        ({"channels": STAINS}, "the weights do not fit"),
        ({"thresholds": [0.5]}, "thresholds"),
        ({"thresholds": None}, "thresholds"),
        ({"new_field": 1}, "new_field"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    model: Classifier, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    card = json.dumps(json.loads(CARD.model_dump_json()) | change)
    tensors = model.state_dict() if "weights" in reason else {"w": torch.zeros(1)}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"hpa_ray": card})
    with pytest.raises(InputError, match=reason) as caught:
        load_model(str(tmp_path))
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


def test_a_model_of_version_1_is_read(model: Classifier, tmp_path: Path) -> None:
    """It held the name of the architecture where now all settings of the model are."""
    card = json.loads(CARD.model_dump_json()) | {"version": 1, "architecture": "resnet18"}
    del card["model"]
    tensors = dict(model.state_dict())
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"hpa_ray": json.dumps(card)})
    loaded = load_model(str(tmp_path))
    assert loaded.card == CARD
    images = torch.randint(0, 256, (2, 2, 32, 32), dtype=torch.uint8)
    assert torch.equal(loaded.model(images), model(images))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"hpa_ray": "{"}, {"hpa_ray": "[]"}])
def test_weights_without_a_card_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors", metadata)
    with pytest.raises(InputError, match="not a model file of this program"):
        load_model(str(tmp_path))


def test_a_card_needs_every_field_without_a_default() -> None:
    content = json.loads(CARD.model_dump_json())
    assert ModelCard.model_validate_json(CARD.model_dump_json()) == CARD
    for field in ("channels", "image_size", "model", "run", "epoch", "thresholds", "config"):
        with pytest.raises(ValueError, match=field):
            ModelCard.model_validate({name: value for name, value in content.items() if name != field})


# checkpoints


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def state_of(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "model": {"w": torch.full((3,), float(epoch))}, "note": "text", "list": [1, 2.5, None]}


def test_without_a_checkpoint_there_is_nothing_to_resume(folder: RunFolder) -> None:
    assert folder.load_checkpoint() is None


def test_only_the_two_newest_checkpoints_are_kept(folder: RunFolder) -> None:
    for epoch in range(1, 13):  # past ten: the order is by number, not by name
        folder.save_checkpoint(epoch, state_of(epoch))
        names = sorted(list_files(folder.path("checkpoints")))
        assert names == [f"epoch-{kept:04d}.pt" for kept in range(max(1, epoch - 1), epoch + 1)]
        state = folder.load_checkpoint()
        assert state is not None
        assert (state["epoch"], state["note"], state["list"]) == (epoch, "text", [1, 2.5, None])
        assert torch.equal(state["model"]["w"], torch.full((3,), float(epoch)))


def test_epochs_of_five_digits_are_newer_than_those_of_four(folder: RunFolder) -> None:
    for epoch in (9_999, 10_000, 10_001):
        folder.save_checkpoint(epoch, state_of(epoch))
    assert sorted(list_files(folder.path("checkpoints"))) == ["epoch-10000.pt", "epoch-10001.pt"]


def test_the_state_of_a_real_optimizer_comes_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    folder = RunFolder(str(tmp_path))
    folder.save_checkpoint(1, {"model": layer.state_dict(), "optimizer": optimizer.state_dict()})
    state = folder.load_checkpoint()
    assert state is not None
    again = torch.optim.AdamW(layer.parameters(), lr=0.5)
    again.load_state_dict(state["optimizer"])
    assert again.param_groups[0]["lr"] == 0.1
    assert torch.equal(again.state[layer.weight]["exp_avg"], optimizer.state[layer.weight]["exp_avg"])


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_left(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    for epoch in (1, 2):
        folder.save_checkpoint(epoch, state_of(epoch))
    newest = tmp_path / "checkpoints" / "epoch-0002.pt"
    content = newest.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[:length] for length in (0, 1, 2, 10, 100, len(content) // 2, len(content) - 1)]
    damaged += [b"text", b"PK\3\4", b"{}", b"\x80\x02}q\0.", bytes(1000), rng.bytes(1000), b"\x80\x04" + rng.bytes(50)]
    weights = content.index(struct.pack("<f", 2.0) * 3)
    damaged.append(content[:weights] + b"\1" + content[weights + 1 :])  # torch alone would take these weights
    for data in damaged:
        newest.write_bytes(data)
        with pytest.raises(InputError, match=r"epoch-0002\.pt: not a checkpoint .* delete it"):
            folder.load_checkpoint()
    newest.unlink()
    state = folder.load_checkpoint()
    assert state is not None
    assert state["epoch"] == 1


def test_any_damage_is_refused_or_makes_no_difference(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.save_checkpoint(1, state_of(1))
    path = tmp_path / "checkpoints" / "epoch-0001.pt"
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(len(content), size=rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            state = folder.load_checkpoint()
        except InputError:
            num_refused += 1
            continue
        assert repr(state) == repr(state_of(1))  # the damage was between the entries of the archive
    assert num_refused > 100


def test_a_checkpoint_that_holds_no_state_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.save_checkpoint(1, [torch.zeros(2)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="it holds a list"):
        folder.load_checkpoint()


def test_a_pickle_in_place_of_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.save_checkpoint(1, state_of(1))
    for content in pickle_files(tmp_path / "proof"):
        (tmp_path / "checkpoints" / "epoch-0001.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"epoch-0001\.pt"):
            folder.load_checkpoint()
    assert not (tmp_path / "proof").exists()


def test_what_a_killed_write_leaves_is_no_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    folder.save_checkpoint(1, state_of(1))
    (tmp_path / "checkpoints" / "epoch-0002.pt.0123.tmp").write_bytes(b"cut")
    state = folder.load_checkpoint()
    assert state is not None
    assert state["epoch"] == 1


# the other files of a run


def test_metrics_are_a_line_per_epoch(folder: RunFolder) -> None:
    lines: list[dict[str, Any]] = []
    for epoch in range(3):
        lines.append({"epoch": epoch, "loss": 1 / (epoch + 1)})
        folder.write_metrics(lines)
        assert [json.loads(line) for line in folder.read_text("metrics.jsonl").splitlines()] == lines
    with pytest.raises(ValueError, match="JSON"):
        folder.write_metrics([*lines, {"epoch": 3, "loss": float("nan")}])
    assert len(folder.read_text("metrics.jsonl").splitlines()) == 3


def test_a_run_exists_once_its_configuration_does(folder: RunFolder) -> None:
    assert not folder.exists()
    folder.write_json("summary.json", {"epochs": 1})
    assert not folder.exists()
    folder.write_text("config.yaml", "run: {}\n")
    assert folder.exists()
    assert folder.read_json("summary.json") == {"epochs": 1}
