"""Settings that are right one by one and wrong together are told in one line each, all at once."""

import pytest

from hpa_ray.config import load_config, recipe_names
from hpa_ray.config.contradictions import contradictions


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.ema_decay=0.9", "train.swa_epochs=2"], "choose one average of the weights"),
        (["train.swa_epochs=3", "train.epochs=2"], "train.swa_epochs = 3, but train.epochs = 2"),
        (["train.swa_epochs=3", "train.patience=2"], "has no last epochs"),
        (["train.sizes=16,32", "train.epochs=1"], "train.sizes has 2 sides, but train.epochs = 1"),
        (["train.freeze_epochs=1"], "train.freeze_epochs needs model.weights"),
        (["loss.name=soft_f1", "loss.label_smoothing=0.1"], "loss.label_smoothing does nothing with"),
        (["loss.name=lovasz_hinge", "loss.weight_on=positives"], "loss.weight_on = positives does nothing with"),
        (["optim.schedule=one_cycle", "optim.warmup_steps=5"], "optim.warmup_steps does nothing with"),
        (["data.channels=green", "augment.stain_dropout=0.1"], "augment.stain_dropout does nothing with"),
        (["data.shards=a", "data.labels=b"], "data.shards and data.labels are both set"),
    ],
)
def test_a_contradiction_is_told(words: list[str], told: str) -> None:
    (problem,) = contradictions(load_config(words))
    assert told in problem
    assert "\n" not in problem


@pytest.mark.parametrize("recipe", recipe_names())
def test_recipes_hold_none(recipe: str) -> None:
    assert contradictions(load_config([], recipe=recipe)) == []


def test_all_are_told_at_once() -> None:
    words = ["train.freeze_epochs=1", "train.swa_epochs=30", "loss.name=soft_f1", "loss.label_smoothing=0.1"]
    assert len(contradictions(load_config(words))) == 3
