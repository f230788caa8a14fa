"""Calibration by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from hpa_ray.metrics import per_class, reliability, score


def drawn(seed: int, num_images: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too sure, and truth; some of each are exactly at the edges of bins."""
    rng = np.random.default_rng(seed)
    chance = rng.random((num_images, 5)) ** 3
    targets = (rng.random(chance.shape) < chance).astype(np.uint8)
    return np.where(rng.random(chance.shape) < 0.1, np.round(chance, 1), np.sqrt(chance)), targets


def test_by_hand() -> None:
    probabilities = np.array([[0.0, 0.2], [0.4, 0.5], [0.9, 1.0]])
    targets = np.array([[0, 1], [0, 1], [1, 1]])
    got = reliability(probabilities, targets, bins=2)
    assert got.edges.tolist() == [0.0, 0.5, 1.0]
    assert got.num_decisions.tolist() == [4, 2]  # 0.5 is in the lower bin
    assert got.confidence == pytest.approx([1.1 / 4, 0.95])
    assert got.observed == pytest.approx([0.5, 1.0])
    assert got.ece == pytest.approx((4 * (0.5 - 0.275) + 2 * 0.05) / 6)
    first, second = (0.4 + 0.1) / 3, (1.3 + 0.0) / 3
    assert got.ece_classes == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_diagram_is_that_of_scikit_learn(seed: int, adaptive: bool, bins: int) -> None:
    probabilities, targets = drawn(seed)
    got = reliability(probabilities, targets, bins=bins, adaptive=adaptive)
    strategy = "quantile" if adaptive else "uniform"
    observed, confidence = calibration_curve(targets.ravel(), probabilities.ravel(), n_bins=bins, strategy=strategy)
    filled = got.num_decisions > 0
    np.testing.assert_allclose(got.observed[filled], observed, atol=1e-12)
    np.testing.assert_allclose(got.confidence[filled], confidence, atol=1e-12)
    assert got.num_decisions.sum() == targets.size
    weighted = (got.num_decisions[filled] * np.abs(observed - confidence)).sum() / targets.size
    assert got.ece == pytest.approx(weighted)
    alone = [reliability(probabilities[:, [k]], targets[:, [k]], bins=bins, adaptive=adaptive).ece for k in range(5)]
    assert got.ece_classes == pytest.approx(np.mean(alone))


def test_scores_and_table_hold_it() -> None:
    probabilities, targets = drawn(1)
    assert score(probabilities, targets)["ece"] == pytest.approx(reliability(probabilities, targets).ece)
    assert per_class(probabilities, targets)["ece"].mean() == pytest.approx(
        reliability(probabilities, targets).ece_classes
    )


def test_what_is_calibrated_has_a_small_error_and_what_is_not_a_large_one() -> None:
    rng = np.random.default_rng(0)
    chance = rng.random((20_000, 3))
    targets = (rng.random(chance.shape) < chance).astype(np.uint8)
    assert reliability(chance, targets).ece < 0.01
    assert reliability(chance**3, targets).ece > 0.2


def test_bins_of_equal_mass_show_what_bins_of_equal_width_hide() -> None:
    """Of rare classes all probabilities are in the first bin of equal width, where too high and too low cancel out."""
    rng = np.random.default_rng(0)
    chance = rng.choice([0.001, 0.039], (50_000, 1))
    targets = (rng.random(chance.shape) < chance).astype(np.uint8)
    turned = 0.04 - chance
    assert reliability(turned, targets).ece < 0.005
    assert reliability(turned, targets, adaptive=True).ece > 0.03


def test_equal_probabilities_share_a_bin() -> None:
    got = reliability(np.full((10, 2), 0.25), np.zeros((10, 2)), adaptive=True)
    assert got.num_decisions.tolist() in ([20, 0], [0, 20])
    assert got.ece == pytest.approx(0.25)
    at_zero = reliability(np.zeros((10, 2)), np.zeros((10, 2)), adaptive=True)
    assert at_zero.num_decisions.tolist() == [20]


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="bins=0"):
        reliability(np.zeros((1, 1)), np.zeros((1, 1)), bins=0)
