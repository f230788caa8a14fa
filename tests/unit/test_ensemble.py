"""Several models as one, views of an image, and chunks: what is combined, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import RESNET18, small_model

from hpa_ray.augment.symmetry import SquareSymmetry
from hpa_ray.checkpoint.model_file import ModelCard, ShippedModel, load_model, save_model
from hpa_ray.config import InferenceConfig
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.predict import Chunks, Ensemble, Given, Member, ensemble_of, infer, open_ensemble
from hpa_ray.predict.infer import precision_of
from hpa_ray.predict.views import NUM_VIEWS, pooled, view
from hpa_ray.schema import Images
from hpa_ray.storage import write_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

STAINS = ("red", "green", "blue", "yellow")
CPU = torch.device("cpu")


class Pictures:
    """A source of random images."""

    image_size, channels = 32, STAINS

    def __init__(self, num_images: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (num_images, 4, 32, 32), np.uint8)

    def read(self, rows: np.ndarray) -> Images:
        return Images(rows, self.pixels[rows], [])


def card_of(name: str, threshold: float = 0.5, **changes: Any) -> ModelCard:
    facts = {"channels": STAINS, "image_size": 32, "model": RESNET18, "run": name, "epoch": 1, "config": ""}
    return ModelCard.model_validate({**facts, "thresholds": (threshold,) * NUM_CLASSES, **changes})


def member(name: str, seed: int = 0, threshold: float = 0.5, **changes: Any) -> Member:
    card = card_of(name, threshold, **changes)
    model = small_model([0.4] * len(card.channels), [0.3] * len(card.channels), seed=seed).eval()
    return Member(name, name, ShippedModel(model, card), np.asarray(card.thresholds))


def probabilities_of(ensemble: Ensemble, source: Pictures) -> np.ndarray:
    return infer(Given(ensemble), source, np.arange(len(source.pixels)), batch_size=3).probabilities_NK


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_an_ensemble_of_views_is_what_each_model_says_of_each_view(pool: str) -> None:
    source, members = Pictures(7), [member("a", 1), member("b", 2)]
    cfg = InferenceConfig(tta="dihedral", tta_pool=pool, combine="weighted", weights=(3, 1))
    found = probabilities_of(ensemble_of(members, cfg), source)
    images = torch.from_numpy(source.pixels)
    turned = [image for k in range(4) for one in [images.rot90(k, (2, 3))] for image in (one, one.flip(3))]
    expected = np.zeros_like(found)
    for one, weight in zip(members, (0.75, 0.25), strict=True):
        with torch.inference_mode():
            views = np.stack([one.shipped.model(image).double().sigmoid().numpy() for image in turned])
        expected += weight * (views.max(axis=0) if pool == "max" else views.mean(axis=0))
    assert np.abs(found - expected).max() < 1e-6


def test_one_model_without_views_is_bit_for_bit_itself() -> None:
    source, one = Pictures(5), member("a")
    found = infer(Given(ensemble_of([one], InferenceConfig())), source, np.arange(5), batch_size=5)
    with torch.inference_mode():
        logits = one.shipped.model(torch.from_numpy(source.pixels)).numpy().astype(np.float64)
    assert np.array_equal(found.probabilities_NK, np.exp(-np.logaddexp(0, -logits)))
    assert np.array_equal(found.chosen_NK, found.probabilities_NK >= 0.5)


def test_the_views_are_the_eight_symmetries() -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    symmetry = SquareSymmetry(flip=True, quarter_turn=True).train()
    drawn = {symmetry(images, torch.full((2,), seed)).numpy().tobytes() for seed in range(8)}
    assert {view(images, number).contiguous().numpy().tobytes() for number in range(NUM_VIEWS)} == drawn
    assert len(drawn) == NUM_VIEWS
    assert view(images, 0) is images


def test_embeddings_come_with_their_rows() -> None:
    source, one = Pictures(7), member("a")
    found = infer(Given(ensemble_of([one], InferenceConfig()), embeddings=True), source, np.arange(7), batch_size=3)
    with torch.inference_mode():
        _, expected = one.shipped.model.with_embedding(torch.from_numpy(source.pixels))
    assert found.embeddings_NF.shape == (7, 512)
    assert np.abs(found.embeddings_NF - expected.numpy()).max() < 1e-5


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from(["mean", "or"]))
def test_labels_of_several(num_members: int, seed: int, combine: str) -> None:
    rng = np.random.default_rng(seed)
    threshold_MK, probability_MBK = rng.random((num_members, NUM_CLASSES)), rng.random((num_members, 6, NUM_CLASSES))
    members = tuple(
        Member(str(k), str(k), ShippedModel(None, card_of(str(k))), threshold_K)  # type: ignore[arg-type]
        for k, threshold_K in enumerate(threshold_MK)
    )
    whole = ensemble_of(members, InferenceConfig(combine=combine))
    probability_BK, chosen_BK = whole.combined(probability_MBK)
    assert np.allclose(probability_BK, probability_MBK.mean(axis=0))
    if combine == "mean":
        assert np.allclose(whole.thresholds_K, threshold_MK.mean(axis=0))
        assert np.array_equal(chosen_BK, probability_BK >= whole.thresholds_K)
    else:
        each = [set(zip(*np.nonzero(p >= t), strict=True)) for p, t in zip(probability_MBK, threshold_MK, strict=True)]
        assert set(zip(*np.nonzero(chosen_BK), strict=True)) == set().union(*each)


def test_models_that_take_other_images_are_named() -> None:
    odd = member("odd", channels=("green",))
    with pytest.raises(InputError, match="odd: takes green at 32 px, the other models take red"):
        ensemble_of([member("a"), odd, member("b")], InferenceConfig())
    large = member("large", image_size=64)
    with pytest.raises(InputError, match="large: takes red,green,blue,yellow at 64 px"):
        ensemble_of([member("a"), member("b"), large], InferenceConfig())


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        ({"weights": (1, 2)}, "inference.weights does nothing without inference.combine=weighted"),
        ({"combine": "weighted", "weights": (1,)}, "inference.weights has 1 weights for 2 models: give one for each"),
        ({"combine": "weighted"}, "a: has no summary.json with macro_f1_tuned"),
    ],
)
def test_weights_that_are_none(
    cfg: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=reason):
        ensemble_of([member("a"), member("b")], InferenceConfig(**cfg))


def test_weights_by_validation_scores_are_told(tmp_path: Path) -> None:
    for name, score in (("a", 0.6), ("b", 0.2)):
        one = member(name)
        save_model(f"{tmp_path}/{name}/model.safetensors", one.shipped.model, one.shipped.card)
        write_bytes(f"{tmp_path}/{name}/summary.json", f'{{"macro_f1_tuned": {score}}}'.encode())
    said: list[str] = []
    runs = [f"{tmp_path}/a", f"{tmp_path}/b/model.safetensors"]
    whole = open_ensemble(runs, InferenceConfig(combine="weighted"), said.append)
    assert whole.weight_M == pytest.approx((0.75, 0.25))
    assert said == ["weights by macro_f1_tuned of each model's validation part: a 0.750, b 0.250"]
    assert whole.name == "a+b"


def test_a_name_is_cut_at_whole_names() -> None:
    members = [member(f"run-{k:02d}-{'x' * 20}") for k in range(1)] * 1
    names = [members[0]._replace(name=f"run-{k:02d}-{'x' * 20}") for k in range(9)]
    name = ensemble_of(names, InferenceConfig()).name
    assert name == "+".join(one.name for one in names[:3]) + "+6 more"


def test_a_checksum_tells_models_apart(tmp_path: Path) -> None:
    one, other = member("a", seed=0), member("a", seed=1)
    save_model(f"{tmp_path}/model.safetensors", one.shipped.model, one.shipped.card)
    read_back = one._replace(shipped=load_model(str(tmp_path)))
    assert read_back.checksum == one.checksum != other.checksum
    assert member("a", threshold=0.4).checksum != one.checksum


def test_auto_precision_on_a_cpu_is_fp32_whatever_was_trained_in() -> None:
    assert precision_of("auto", "bf16", CPU) == torch.float32
    assert precision_of("bf16", "fp32", CPU) == torch.bfloat16
    config = member("a", config="train: {precision: fp16}")
    assert config.precision == "fp16"
    for text in ("", "- 1", "{", "train: 3"):
        assert member("a", config=text).precision == "auto"


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 9), st.data())
def test_chunks_have_the_same_batches_whichever_are_missing(
    num_rows: int, chunk_images: int, batch_size: int, data: st.DataObject
) -> None:
    rows = np.arange(0, 3 * num_rows, 3)
    whole = Chunks(rows, chunk_images, batch_size, ())
    wanted = tuple(sorted(data.draw(st.sets(st.integers(0, whole.num_chunks - 1)))))
    chunks = Chunks(rows, chunk_images, batch_size, wanted)
    items = [chunks[number] for number in range(len(chunks))]
    for chunk in wanted:
        own = [item.rows_B for item in items if item.epoch == chunk]
        assert len(own) == chunks.batches_of(chunk)
        assert np.array_equal(np.concatenate(own), rows[chunk * chunk_images : (chunk + 1) * chunk_images])
        assert all(0 < len(part) <= batch_size for part in own)
    assert {item.epoch for item in items} == set(wanted)


def test_pooling() -> None:
    views = np.random.default_rng(0).random((8, 3, 5))
    assert np.array_equal(pooled(views, "max"), views.max(axis=0))
    assert np.allclose(pooled(views, "mean"), views.mean(axis=0))
    assert np.array_equal(pooled(views[:1], "mean"), views[0])
