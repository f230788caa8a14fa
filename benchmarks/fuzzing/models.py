"""Checkpoints and models: damaged, they must be told from what was written."""

import contextlib
import io
import json
import pickletools
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from fuzzing.case import Case, Target, Wrong, changed_tree, damaged, odd_text, odd_value
from hpa_ray.checkpoint.model_file import ModelCard, load_model, save_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import ModelConfig
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import build_model
from hpa_ray.model.checksum import CARD_KEY, CHECKSUM, with_checksum
from hpa_ray.model.weights import parse

SIDE = 8


class Checkpoint(Target):
    """The state a run goes on from."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        generator = torch.Generator().manual_seed(0)
        weights = {f"layer.{k}": torch.randn(5, 7, generator=generator) for k in range(4)}
        self.state: dict[str, Any] = {
            **{"epoch": 3, "note": "text", "list": [1, 2.5, None, True], "model": weights, "empty": {}},
            **{
                "half": torch.ones(3).bfloat16(),
                "long": torch.arange(9),
                "none": torch.empty(0),
                "one": torch.ones(()),
            },
            "optimizer": {"state": {0: {"step": torch.tensor(7.0), "exp_avg": weights["layer.0"].T}}, "lr": 1e-3},
        }
        self.run_folder = RunFolder(str(folder))
        self.run_folder.save_checkpoint(3, self.state)
        (self.path,) = (folder / "checkpoints").iterdir()
        self.content = self.path.read_bytes()

    def make(self, rng: Random) -> Case:
        if rng.random() < 0.5:
            return Case(damaged(rng, self.content), ("as written",))
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(entries)) if rng.random() < 0.5 else 0  # the first one is the pickle
            name, data = entries[at]
            action = rng.randrange(6)
            if action == 0 and len(entries) > 1:
                del entries[at]
            elif action == 1:
                entries.insert(0, (odd_text(rng)[:50].replace("\0", ""), data))
            elif action == 2 and name.endswith(".pkl"):
                entries[at] = (name, changed_pickle(rng, data))
            elif action == 3:
                entries[at] = (name, data * rng.choice((0, 2, 9)))
            else:
                entries[at] = (name, damaged(rng, data))
        buffer = io.BytesIO()
        packed = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
        with contextlib.suppress(UnicodeError), zipfile.ZipFile(buffer, "w", packed) as archive:
            for name, data in dict(entries).items():
                archive.writestr(zipfile.ZipInfo(name), data, packed)
        return Case(buffer.getvalue(), ("with right checksums",))

    def run(self, case: Case) -> None:
        self.path.write_bytes(case.content)
        if len(case.content) % 4 == 0:
            with contextlib.suppress(InputError):
                parse(case.content, "model.weights = x.pt")
        state = self.run_folder.load_checkpoint()
        if not isinstance(state, dict):
            raise Wrong(f"a state of {type(state)}")
        if case.words == ("as written",) and not same(state, self.state):
            raise Wrong("not the state that was written")


def changed_pickle(rng: Random, data: bytes) -> bytes:
    """Another name, number or operation somewhere in it."""
    places = [1]
    with contextlib.suppress(ValueError):  # damaged before
        places += [position for _, _, position in pickletools.genops(data) if position]
    at = rng.choice(places)
    names = (b"cos\nsystem\n", b"cbuiltins\neval\n", b"c__builtin__\nbytearray\n", b"ccollections\nCounter\n")
    other = rng.choice((*names, b"R", b"b", b"}", b"]", b"0", b"2", b"N", b"(", b"t", rng.randbytes(1)))
    return data[:at] + other + data[at:]


def same(one: Any, other: Any) -> bool:
    """Whether two states hold the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


class Model(Target):
    """model.safetensors, as it is written now or without its checksum."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = ModelConfig(name="mlp6")
        self.blank = {"channels": ("green",), "image_size": SIDE, "mean": [0.1], "std": [0.2], "seed": 0}
        model = build_model(self.config, num_classes=NUM_CLASSES, **self.blank)  # type: ignore[arg-type]
        self.card = ModelCard(
            channels=("green",),
            image_size=SIDE,
            model=self.config,
            run="run",
            epoch=3,
            thresholds=tuple(k / NUM_CLASSES for k in range(NUM_CLASSES)),
            config="model: {name: mlp6}\n",
        )
        self.state = model.state_dict()
        self.path = str(folder / "model.safetensors")
        save_model(self.path, model, self.card)
        self.content = Path(self.path).read_bytes()

    def make(self, rng: Random) -> Case:
        if rng.random() < 0.5:
            return Case(damaged(rng, self.content) if rng.random() < 0.8 else self.content, ("as written",))
        start = 8 + int.from_bytes(self.content[:8], "little")
        header, rest = json.loads(self.content[8:start]), self.content[start:]
        how = rng.choice(("as written", "without a checksum", "without a checksum", "with a new checksum"))
        card = json.loads(header["__metadata__"][CARD_KEY])
        if how != "as written":
            del card[CHECKSUM]
        if rng.random() < 0.5:
            if rng.random() < 0.5:
                card = changed_tree(rng, card)
            elif rng.random() < 0.5:
                card["model"] = {"name": rng.choice(("resnet18", "mlp6", "timm/x")), "pooling": odd_value(rng)}
            else:
                card["epoch"], card["run"] = rng.randrange(100), odd_text(rng)
            if how == "with a new checksum" and isinstance(card, dict):
                card = with_checksum(card, self.state)
            header["__metadata__"][CARD_KEY] = json.dumps(card)
        else:
            header["__metadata__"][CARD_KEY] = json.dumps(card)
            header = changed_tree(rng, header)
        text = json.dumps(header).encode(errors="replace")
        if rng.random() < 0.1:
            text = damaged(rng, text)
        return Case(len(text).to_bytes(8, "little") + text + rest, (how,))

    def run(self, case: Case) -> None:
        Path(self.path).write_bytes(case.content)
        if len(case.content) % 4 == 0:
            with contextlib.suppress(InputError):
                parse(case.content, "model.weights = x.safetensors")
        shipped = load_model(self.path)
        state = shipped.model.state_dict()
        if shipped.model.training or any(tensor.dtype != self.state[name].dtype for name, tensor in state.items()):
            raise Wrong("another model")
        is_same = shipped.card == self.card and same(dict(state), dict(self.state))
        if case.words == ("as written",) and not is_same:
            raise Wrong("not the model that was written")
