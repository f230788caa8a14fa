"""The map by UMAP, whose import alone takes 10 s or more."""

from importlib.util import find_spec

import numpy as np
import pytest

from hpa_ray.analysis.maps import draw_map


@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn is an extra")
def test_umap_keeps_groups_together_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(3, 16)) * 4
    vectors = (middle[np.arange(60) % 3] + rng.normal(size=(60, 16))).astype(np.float32)
    found, again = (draw_map(vectors, method="umap", seed=3) for _ in range(2))
    np.testing.assert_array_equal(found.points_N2, again.points_N2)
    assert (found.method, found.explained, found.points_N2.dtype) == ("umap", None, np.float32)
    middles = np.stack([found.points_N2[group::3].mean(axis=0) for group in range(3)])
    nearest = np.linalg.norm(found.points_N2[:, None] - middles, axis=2).argmin(axis=1)
    assert (nearest == np.arange(60) % 3).mean() > 0.95
