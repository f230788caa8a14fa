"""Embeddings -> a map: two numbers per image, so that alike images lie together. Before: embed. After: run, figures.

N images, F features.
"""

import warnings
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np

FEWEST_FOR_UMAP = 16
"""Below it UMAP has no neighbourhoods to speak of, and its start by eigenvectors fails below 4."""
UMAP_NEIGHBORS = 15


class Map(NamedTuple):
    points_N2: np.ndarray  # float32
    method: Literal["pca", "umap"]
    explained: tuple[float, float] | None  # shares of the variance, of pca
    note: str = ""
    """Why it is not the map that was asked for, or the better one."""


def draw_map(embedding_NF: np.ndarray, *, method: Literal["auto", "pca", "umap"], seed: int = 0) -> Map:
    """The map by the method asked for; auto: UMAP if it is installed, else PCA.

    Raises ValueError if umap is asked for and is not installed.
    """
    if method == "pca":
        return pca_map(embedding_NF)
    if find_spec("umap") is None:
        if method == "umap":
            raise ValueError("analyze.map = umap: needs the extra: pip install 'hpa-ray[umap]'")
        return pca_map(embedding_NF)._replace(note="the map is by PCA: UMAP comes with the extra hpa-ray[umap]")
    if len(embedding_NF) < FEWEST_FOR_UMAP:
        return pca_map(embedding_NF)._replace(
            note=f"the map is by PCA: UMAP needs {FEWEST_FOR_UMAP} images, here are {len(embedding_NF)}"
        )
    return umap_map(embedding_NF, seed=seed)


def pca_map(embedding_NF: np.ndarray) -> Map:
    """The two directions of most variance (Pearson 1901), by the singular vectors of the centred embeddings.

    The same images give the same map: the largest entry of each direction is positive. Directions that there are not,
    as of one image, are 0.
    """
    centred = embedding_NF.astype(np.float64)
    if not centred.size:
        return Map(np.zeros((len(centred), 2), np.float32), "pca", (0.0, 0.0))
    centred = centred - centred.mean(axis=0)
    total = float(np.square(centred).sum())
    # of the smaller of the two products of the matrix with itself: 2,048 features of 5,000 images take 2 s, not 20
    tall = len(centred) >= centred.shape[1]
    values, vectors = np.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    points_N2, explained = np.zeros((len(centred), 2)), [0.0, 0.0]
    for axis in range(min(2, len(values))):
        value = float(values[-1 - axis])
        if value <= 1e-12 * max(total, 1e-300):
            continue
        direction_F = vectors[:, -1 - axis] if tall else centred.T @ vectors[:, -1 - axis] / np.sqrt(value)
        direction_F = direction_F * np.sign(direction_F[np.abs(direction_F).argmax()])
        points_N2[:, axis] = centred @ direction_F
        explained[axis] = value / total
    return Map(points_N2.astype(np.float32), "pca", (explained[0], explained[1]))


def umap_map(embedding_NF: np.ndarray, *, seed: int = 0) -> Map:
    """UMAP (McInnes, Healy, Melville 2018, arXiv 1802.03426) by cosine distance; the same seed gives the same map.

    Distances between groups and their sizes mean little in it; who is whose neighbour does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorFlow that is not there, of threads that a seed forbids, of numba
        import umap

        model = umap.UMAP(
            n_neighbors=min(UMAP_NEIGHBORS, len(embedding_NF) - 1),
            metric="cosine",
            random_state=seed % 2**32,
            n_jobs=1,
        )
        points_N2 = model.fit_transform(np.ascontiguousarray(embedding_NF, np.float32))
    return Map(np.asarray(points_N2, np.float32), "umap", None)
