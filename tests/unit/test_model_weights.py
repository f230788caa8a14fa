"""Pretrained weights: by name, from files of every form, for other stains, classes and sizes; and what is refused."""

import io
import json
import urllib.error
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from hpa_ray.channels import STAINS
from hpa_ray.config.sections import ModelConfig
from hpa_ray.errors import InputError
from hpa_ray.model import Classifier, build_model
from hpa_ray.model.adapt import stem_filters, take_over
from hpa_ray.model.backbones import Backbone
from hpa_ray.model.own import IdentityBlock
from hpa_ray.model.weights import parse

State = dict[str, Tensor]
SMALL = "shufflenet_v2_x0_5"
"""1.4 million parameters."""
STEM, HEAD = "conv1.0.weight", ("fc.weight", "fc.bias")


pytestmark = pytest.mark.usefixtures("one_thread")


def make(
    name: str = SMALL,
    *,
    stains: int | Sequence[str] = 3,
    side: int = 32,
    seed: int = 0,
    load: bool = True,
    **keys: object,
) -> Classifier:
    channels = STAINS[:stains] if isinstance(stains, int) else stains
    cfg = ModelConfig.model_validate({"name": name, **keys})
    mean, std = [0.1] * len(channels), [0.2] * len(channels)
    return build_model(
        cfg, channels=channels, image_size=side, mean=mean, std=std, num_classes=28, seed=seed, load_weights=load
    )


def imagenet(name: str = SMALL, **options: object) -> State:
    """A state dict as torchvision publishes them, of random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        state: State = torchvision.models.get_model(name, weights=None, **options).state_dict()
        return {key: torch.rand_like(value) + 0.5 if "running" in key else value for key, value in state.items()}


def saved(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def error(path: Path | str, name: str = SMALL, **keys: object) -> str:
    with pytest.raises(InputError) as caught:
        make(name, weights=str(path), **keys)  # type: ignore[arg-type]
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith(f"model.weights = {path}")
    return told


def assert_taken(model: Classifier, state: State, *, but: Sequence[str] = HEAD) -> None:
    own = model.backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if key not in but)


# the forms of a file


def test_every_form_of_a_file_is_taken(tmp_path: Path) -> None:
    state = imagenet()
    contents = {
        "plain.pth": saved(state),
        "old.pth": saved(state, _use_new_zipfile_serialization=False),
        "wrapped.pt": saved({"state_dict": state, "epoch": 3, "arch": "x"}),
        "checkpoint.pt": saved({"model": {f"module.{key}": value for key, value in state.items()}, "step": 1}),
        "ddp.pth": saved({f"module.{key}": value for key, value in state.items()}),
        "compiled.pth": saved({f"_orig_mod.module.{key}": value for key, value in state.items()}),
        "averaged.pth": saved({"n_averaged": torch.tensor(3)} | {f"module.{key}": v for key, v in state.items()}),
        "plain.safetensors": save_safetensors(state),
        "ours.safetensors": save_safetensors(
            {"mean_C": torch.rand(3), "std_C": torch.rand(3)}
            | {f"backbone.{key}": value for key, value in state.items()}
        ),
        "half.pth": saved({key: value.half() if value.is_floating_point() else value for key, value in state.items()}),
    }
    fresh = make()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        model = make(weights=str(tmp_path / name))
        expected = {k: v.half().to(v.dtype) for k, v in state.items()} if name == "half.pth" else state
        assert_taken(model, expected)
        assert torch.equal(model.mean_C, fresh.mean_C), "normalisation is that of the data"
        assert all(torch.equal(model.backbone.state_dict()[key], fresh.backbone.state_dict()[key]) for key in HEAD)
    for name, value in make(weights="nowhere.pth", load=False).state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), "load_weights=False looks at no file"


def test_loading_leaves_the_random_state_and_needs_a_gradient(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(saved(imagenet()))
    before = torch.get_rng_state()
    model = make(weights=str(tmp_path / "w.pth"))
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.requires_grad for p in model.parameters())


class Unsafe:
    """Stands for code in a pickle."""


def test_what_can_not_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    assert "can not be read (no such file)" in error(tmp_path / "missing.pth")
    contents = {
        "code.pth": (saved({"model": Unsafe()}), "more than tensors and plain values"),
        "empty.pth": (b"", "not a file of weights"),
        "text.safetensors": (b"Not found, sorry", "not a file of weights"),
        "page.pth": (b"<html>" * 40, "neither of torch.save nor of safetensors"),
        "legacy.pth": (saved(imagenet(), _use_new_zipfile_serialization=False)[:9000], "not a file of weights"),
        "list.pth": (saved([1, 2, 3]), "no weights by name in it"),
        "numbers.pth": (saved({"a": 1.5}), "no weights by name in it"),
        "unnamed.pth": (saved({3: torch.zeros(2)}), "no weights by name in it"),
        "nothing.pth": (saved({}), "no weights by name in it"),
    }
    for name, (content, told) in contents.items():
        (tmp_path / name).write_bytes(content)
        assert told in error(tmp_path / name)
    (tmp_path / "weights.bin").write_bytes(saved(imagenet()))
    assert "must end in .pth, .pt, .safetensors" in error(tmp_path / "weights.bin")


@pytest.mark.parametrize("kind", ["pth", "old", "safetensors"])
def test_a_damaged_file_is_never_anything_but_an_input_error(kind: str) -> None:
    state = {"a.weight": torch.rand(4, 5), "a.bias": torch.rand(4)}
    whole = save_safetensors(state) if kind == "safetensors" else saved(
        state, _use_new_zipfile_serialization=kind == "pth"
    )  # fmt: skip
    generator, told = torch.Generator().manual_seed(0), set[str]()
    for _ in range(150):
        place, value = (int(torch.randint(0, end, (1,), generator=generator)) for end in (len(whole), 256))
        for content in (whole[:place], whole[:place] + bytes([value]) + whole[place + 1 :]):
            try:
                found = parse(content, "model.weights = file")
            except InputError as problem:
                told.add(str(problem))
            else:
                assert all(isinstance(tensor, Tensor) for tensor in found.tensors.values())
    assert told
    assert not any("\n" in message for message in told)


# what must fit


def test_what_does_not_fit_is_counted_and_the_first_is_named(tmp_path: Path) -> None:
    state, path = imagenet(), tmp_path / "w.pth"
    few = {key: value for key, value in state.items() if not key.startswith("stage4")}
    path.write_bytes(saved(few))
    missing = [k for k in state if k.startswith("stage4") and not k.endswith("num_batches_tracked")]
    told = error(path)
    assert f"do not fit {SMALL} ({len(missing)} missing; first {missing[0]}: nothing in the file, (" in told
    path.write_bytes(saved(state | {"more.weight": torch.zeros(2)}))
    assert "(1 unexpected; first more.weight: (2,) in the file, nothing in the model)" in error(path)
    path.write_bytes(saved(state | {"conv5.1.weight": torch.zeros(7)}))
    assert "(1 of another shape; first conv5.1.weight: (7,) in the file, (1024,) in the model)" in error(path)
    path.write_bytes(saved(imagenet("squeezenet1_1")))
    assert " missing, " in error(path)
    assert " unexpected; " in error(path)


def test_counters_and_the_last_layer_may_be_missing(tmp_path: Path) -> None:
    state = {k: v for k, v in imagenet().items() if not k.endswith("num_batches_tracked") and k not in HEAD}
    (tmp_path / "w.pth").write_bytes(saved(state))
    assert_taken(make(weights=str(tmp_path / "w.pth"), pooling="gem", dropout=0.1), state)


def test_a_last_layer_of_the_same_shape_is_taken(tmp_path: Path) -> None:
    state = imagenet(num_classes=28)
    (tmp_path / "w.pth").write_bytes(saved(state))
    assert_taken(make(weights=str(tmp_path / "w.pth"), dropout=0.3), state, but=())
    half = make(weights=str(tmp_path / "w.pth"), pooling="avgmax")
    assert_taken(half, state)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out(name: str, tmp_path: Path) -> None:
    state = imagenet(name, aux_logits=True, init_weights=True)
    (tmp_path / "w.pth").write_bytes(saved(state))
    model = make(name, side=96, weights=str(tmp_path / "w.pth"))
    assert_taken(model, {k: v for k, v in state.items() if not k.lower().startswith("aux")})


def test_files_of_densenet_and_vit_have_older_names(tmp_path: Path) -> None:
    dense = imagenet("densenet121")
    old = {k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.") if "denselayer" in k else k: v
           for k, v in dense.items()}  # fmt: skip
    assert old.keys() != dense.keys()
    (tmp_path / "d.pth").write_bytes(saved(old))
    assert_taken(
        make("densenet121", weights=str(tmp_path / "d.pth")), dense, but=("classifier.weight", "classifier.bias")
    )


def test_a_vision_transformer_takes_weights_of_another_image_size() -> None:
    def transformer(side: int) -> nn.Module:
        made: nn.Module = VisionTransformer(
            side, 16, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=28
        )
        return made

    ours, theirs = transformer(32), transformer(64).state_dict()
    theirs = {key: torch.rand_like(value) for key, value in theirs.items()}
    old = {k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v for k, v in theirs.items()}
    backbone = Backbone("vit_b_16", ours, "conv_proj", "heads.head")
    take_over(backbone, parse(saved(old), "file"), channels=STAINS[:3], yellow="red")
    changed = "encoder.pos_embedding"
    state = ours.state_dict()
    assert all(torch.equal(state[key], value) for key, value in theirs.items() if key != changed)
    assert state[changed].shape == (1, 1 + 4, 8)
    assert torch.equal(state[changed][:, 0], theirs[changed][:, 0]), "the class token has no place"
    wrong = parse(saved(theirs | {changed: torch.zeros(1, 12, 8)}), "file")
    with pytest.raises(InputError, match=rf"first {changed}: \(1, 12, 8\) in the file"):
        take_over(backbone, wrong, channels=STAINS[:3], yellow="red")


# the first convolution


RGB_FILTERS = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def adapted(channels: Sequence[str], yellow: str = "red", given: Sequence[str] | None = None) -> Tensor:
    filters = RGB_FILTERS if given is None or len(given) == 3 else RGB_FILTERS[:, : len(given)]
    return stem_filters(filters, given, channels, yellow, "file")


def test_filters_go_to_the_stain_of_their_colour() -> None:
    red, green, blue = RGB_FILTERS.unbind(1)
    mean, zero = RGB_FILTERS.mean(1), torch.zeros_like(red)
    assert torch.equal(adapted(("red", "green", "blue")), RGB_FILTERS)
    for rule, yellow, scale in (("red", red, 3 / 4), ("mean", mean, 3 / 4), ("zero", zero, 1)):
        expected = torch.stack([red, green, blue, yellow], 1) * scale
        assert torch.allclose(adapted(STAINS, rule), expected)
    assert torch.allclose(adapted(("blue", "green")), torch.stack([blue, green], 1) * 3 / 2)
    assert torch.allclose(adapted(("green", "yellow"), "zero"), torch.stack([green, zero], 1) * 3)
    for stain in STAINS:
        assert torch.allclose(adapted((stain,)), RGB_FILTERS.sum(1, keepdim=True))


def test_the_response_to_like_stains_keeps_its_size() -> None:
    for channels in (STAINS, ("red", "green", "blue"), ("blue", "green"), ("yellow",)):
        assert torch.allclose(adapted(channels, "mean").sum(1).sum(), RGB_FILTERS.sum(), rtol=0.35)
    gray = [adapted(channels, "mean").sum(1) for channels in (STAINS, ("red", "green", "blue"), ("green",))]
    assert torch.allclose(gray[0], gray[1] * 1.0, atol=1e-5)
    assert torch.allclose(gray[2], gray[1])


def test_a_model_of_ours_says_its_stains() -> None:
    first, second = RGB_FILTERS[:, 0], RGB_FILTERS[:, 1]
    assert torch.equal(adapted(("green", "blue"), given=("green", "blue")), RGB_FILTERS[:, :2])
    assert torch.equal(adapted(("blue", "green"), given=("green", "blue")), torch.stack([second, first], 1))
    wider = adapted(("green", "red", "blue"), given=("green", "blue"))
    assert torch.allclose(wider, torch.stack([first, (first + second) / 2, second], 1) * 2 / 3)
    assert torch.allclose(adapted(("blue",), given=("green", "blue")), second.unsqueeze(1) * 2)


def test_other_channels_that_have_no_names_are_refused() -> None:
    filters = torch.rand(5, 2, 1, 1)
    assert torch.equal(stem_filters(filters, None, ("green", "blue"), "red", "file"), filters)
    with pytest.raises(InputError, match=r"^file: its first convolution has 2 channels and does not say which - "):
        stem_filters(filters, None, STAINS, "red", "file")


@pytest.mark.parametrize("stem", ["red", "mean", "zero"])
def test_from_rgb_to_four_stains_by_the_file(stem: str, tmp_path: Path) -> None:
    state = imagenet()
    (tmp_path / "w.pth").write_bytes(saved(state))
    model = make(stains=4, weights=str(tmp_path / "w.pth"), stem=stem)
    assert_taken(model, state, but=(*HEAD, STEM))
    assert torch.equal(model.backbone.state_dict()[STEM], stem_filters(state[STEM], None, STAINS, stem, ""))


def test_fine_tuning_a_run_with_other_stains(tmp_path: Path) -> None:
    run = make(stains=("green", "yellow"), learned_gamma=True, seed=3)
    card = json.dumps({"channels": ["green", "yellow"], "run": "first"})
    state = {key: value.contiguous() for key, value in run.state_dict().items()}
    (tmp_path / "model.safetensors").write_bytes(save_safetensors(state, {"hpa_ray": card}))
    own = run.backbone.state_dict()
    same = make(stains=("green", "yellow"), seed=4, weights=str(tmp_path / "model.safetensors"))
    assert_taken(same, own, but=())
    other = make(stains=("yellow",), seed=4, weights=str(tmp_path / "model.safetensors"))
    assert_taken(other, own, but=(STEM,))
    assert torch.equal(other.backbone.state_dict()[STEM], own[STEM][:, 1:] * 2)


# the enhanced ResNet50


def test_weights_of_resnet50_keep_their_function_in_the_enhanced_one(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet50(weights=None)
    theirs.load_state_dict(imagenet("resnet50"))
    (tmp_path / "w.pth").write_bytes(saved(theirs.state_dict()))
    model = make("resnet50_enhanced", side=64, weights=str(tmp_path / "w.pth")).eval()
    theirs.fc = model.head
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval()((batch / 255 - 0.1) / 0.2)
        assert torch.allclose(model(batch), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert expected.std() > 0.01, "else this test would see nothing"

    blocks = [module for module in model.modules() if isinstance(module, IdentityBlock)]
    nn.init.normal_(blocks[3].conv_extra.weight)
    (tmp_path / "own.safetensors").write_bytes(save_safetensors(model.state_dict()))
    again = make("resnet50_enhanced", side=64, weights=str(tmp_path / "own.safetensors"), seed=9)
    assert_taken(again, model.backbone.state_dict(), but=())
    state = {key: value for key, value in model.state_dict().items() if ".layer1.1.conv_extra" not in key}
    (tmp_path / "part.safetensors").write_bytes(save_safetensors(state))
    assert "(1 missing; first layer1.1.conv_extra.weight" in error(tmp_path / "part.safetensors", "resnet50_enhanced")


# by name


def test_published_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(url: str, path: str, beginning: str | None, progress: bool) -> None:
        asked.append(url)
        assert url.endswith(f"-{beginning}.pth")
        Path(path).write_bytes(saved(imagenet()))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for name in ("IMAGENET1K_V1", "DEFAULT", "default"):
        assert_taken(make(weights=name), imagenet())
    assert asked == ["https://download.pytorch.org/models/shufflenetv2_x0.5-f707e7126e.pth"]
    (cached,) = (tmp_path / "hub" / "checkpoints").iterdir()
    cached.write_bytes(b"cut short")
    assert str(cached) in error("IMAGENET1K_V1")


@pytest.mark.parametrize(
    "problem", [urllib.error.URLError("no network"), TimeoutError(), RuntimeError("invalid hash value")]
)
def test_a_failed_download_names_the_address(
    problem: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: object, **options: object) -> None:
        raise problem

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    told = error("IMAGENET1K_V2", "resnet50_enhanced")
    assert "https://download.pytorch.org/models/resnet50-11ad3fa6.pth can not be downloaded (" in told
    assert told.endswith(" - download it elsewhere and give the file as model.weights")


def test_a_wrong_name_lists_the_right_ones() -> None:
    told = error("imagenet", "resnet50")
    assert "no weights of resnet50 - it has IMAGENET1K_V1, IMAGENET1K_V2; give one of them" in told
    assert "mlp6 has no published weights" in error("IMAGENET1K_V1", "mlp6")
    assert "must end in" in error("weights/resnet50.bin")


def test_weights_of_timm_are_adapted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    source = timm.create_model("resnet18")
    real, asked = timm.create_model, []

    def create(name: str, pretrained: bool = False, **options: object) -> object:
        if not pretrained:
            return real(name, **options)
        asked.append(name)
        return source

    monkeypatch.setattr(timm, "create_model", create)
    for weights, tag in (("default", "a1_in1k"), ("gluon_in1k", "gluon_in1k")):
        model = make("timm/resnet18", stains=4, weights=weights, stem="zero")
        assert asked.pop() == f"resnet18.{tag}"
        state = source.state_dict()
        assert_taken(model, state, but=(*HEAD, "conv1.weight"))
        stem = model.backbone.state_dict()["conv1.weight"]
        assert torch.equal(stem[:, :3], state["conv1.weight"])
        assert not stem[:, 3].any()
    assert "has default, a1_in1k," in error("nothing", "timm/resnet18")
    assert "has no published weights" in error("default", "timm/nfnet_f0")

    def fail(name: str, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise FileNotFoundError("no network")
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", fail)
    told = error("default", "timm/resnet18")
    assert "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors can not be downloaded" in told
