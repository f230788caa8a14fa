"""The map: PCA as scikit-learn has it, the same each time; UMAP by seed, without a word of warning."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from hpa_ray.analysis import maps
from hpa_ray.analysis.maps import draw_map, pca_map


def groups(num: int, features: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(3, features)) * 4
    values: np.ndarray = (middle[np.arange(num) % 3] + rng.normal(size=(num, features))).astype(np.float32)
    return values


@pytest.mark.parametrize(("num", "features"), [(60, 8), (12, 40)])
def test_pca_is_that_of_scikit_learn(num: int, features: int) -> None:
    vectors = groups(num, features)
    found, oracle = pca_map(vectors), PCA(2, svd_solver="full").fit(vectors.astype(np.float64))
    expected = oracle.transform(vectors.astype(np.float64))
    for axis in range(2):
        largest = oracle.components_[axis][np.abs(oracle.components_[axis]).argmax()]
        np.testing.assert_allclose(found.points_N2[:, axis], expected[:, axis] * np.sign(largest), atol=1e-3)
    np.testing.assert_allclose(found.explained, oracle.explained_variance_ratio_, atol=1e-6)  # type: ignore[arg-type]


def test_the_order_of_the_images_does_not_turn_the_map() -> None:
    vectors = groups(30, 50)
    order = np.random.default_rng(1).permutation(30)
    np.testing.assert_allclose(pca_map(vectors[order]).points_N2, pca_map(vectors).points_N2[order], atol=1e-3)


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.ones((5, 4)), np.zeros((0, 4)), np.arange(4.0)[:, None]])
def test_directions_that_there_are_not_are_zero(vectors: np.ndarray) -> None:
    found = pca_map(vectors)
    assert found.points_N2.shape == (len(vectors), 2)
    assert (found.points_N2[:, 1] == 0).all()
    assert found.explained is not None
    assert found.explained[0] == pytest.approx(1 if vectors.shape == (4, 1) else 0)


def test_auto_says_why_it_is_no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    few = draw_map(groups(10, 4), method="auto")
    assert (few.method, "UMAP needs 16 images" in few.note) == ("pca", True)
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    without = draw_map(groups(40, 4), method="auto")
    assert (without.method, "hpa-ray[umap]" in without.note) == ("pca", True)
    assert draw_map(groups(40, 4), method="pca").note == ""
    with pytest.raises(ValueError, match=r"hpa-ray\[umap\]"):
        draw_map(groups(40, 4), method="umap")
