"""Which copies of an image `duplicates` finds, how often it takes two images for one, and how long the search takes.

    uv run benchmarks/duplicates.py FOLDER --images 3000 --real TRAIN_FOLDER ...
    uv run benchmarks/duplicates.py FOLDER --hashes 31072 1000000

FOLDER keeps the synthetic atlas. First, for the synthetic images and for each folder of real ones: copies of up to 400
images (re-encoded, resized, shifted, brighter, noisy) and the share of them that is found at each
duplicates.max_distance, then the pairs among the originals, which are false but for real duplicates; for the hash in
use and for the difference hash. Then the search over made-up hashes, crowded ones and planted copies among them.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.duplicates import SIDE_PX, find_duplicates, hash_images
from hpa_ray.ingest.stack import resize_plane
from hpa_ray.synth import draw_label_sets, write_atlas

# N images, C stains, S side in px, U hashes

DISTANCES = (2, 4, 6, 8, 10, 12, 14, 16)
NUM_COPIED = 400
ATLAS_PX = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=0, help="synthetic images; 0: none")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="folders of <Id>_<color>.png")
    parser.add_argument("--hashes", type=int, nargs="*", default=[], help="numbers of hashes to search")
    parser.add_argument("--distances", type=int, nargs="*", default=[8, 10], help="for --hashes")
    arguments = parser.parse_args()
    folders = list(arguments.real)
    if arguments.images:
        atlas = arguments.folder / f"atlas-{arguments.images}x{ATLAS_PX}px"
        if not (atlas / "train.csv").exists():
            labels = draw_label_sets(arguments.images, seed=0)
            write_atlas(atlas, labels, image_size=ATLAS_PX, seed=0, num_workers=2)
        folders.insert(0, atlas / "train")
    for folder in folders:
        weigh(folder)
    for number in arguments.hashes:
        for distance in arguments.distances:
            search(number, distance)


def weigh(folder: Path) -> None:
    """Recall of copies and pairs among the originals, for each hash."""
    paths = sorted(folder.glob("*_green.png"))
    ids = [path.name.removesuffix("_green.png") for path in paths]
    print(f"\n{folder}: {len(ids)} images", flush=True)
    originals = {name: ([], []) for name in HASHES}
    copies = {(name, kind): ([], []) for name in HASHES for kind in COPIES}
    seconds = 0.0
    every = max(1, len(ids) // NUM_COPIED)
    for number, image_id in enumerate(ids):
        image = np.stack([np.asarray(Image.open(folder / f"{image_id}_{stain}.png")) for stain in STAINS])
        small = shrink(image)
        for name, hashing in HASHES.items():
            start = time.perf_counter()
            append(originals[name], hashing(small[None]))
            seconds += (time.perf_counter() - start) * (name == "cosine")
        if number % every == 0:
            for kind, change in COPIES.items():
                changed = shrink(change(image))
                for name, hashing in HASHES.items():
                    append(copies[name, kind], hashing(changed[None]))
    print(f"hashing {SIDE_PX} px images: {1e6 * seconds / len(ids):.0f} us each")
    for name in HASHES:
        hashes, told = (np.concatenate(part) for part in originals[name])
        print(f"\n{name} hash; stains that say nothing: {(~told).mean(axis=0).round(4).tolist()}")
        print("bits             " + "".join(f"{distance:>8}" for distance in DISTANCES))
        for kind in COPIES:
            others, told_there = (np.concatenate(part) for part in copies[name, kind])
            furthest = furthest_bits(hashes[::every], told[::every], others, told_there)
            print(f"{kind:<17}" + "".join(f"{(furthest <= distance).mean():8.1%}" for distance in DISTANCES))
        a, b = np.triu_indices(len(ids), 1)
        furthest = furthest_bits(hashes[a], told[a], hashes[b], told[b])
        pairs = [int((furthest <= distance).sum()) for distance in DISTANCES]
        print("pairs of originals" + "".join(f"{count:8,}" for count in pairs)[1:] + f"  of {len(a):,}", flush=True)


def furthest_bits(hashes: np.ndarray, told: np.ndarray, others: np.ndarray, told_there: np.ndarray) -> np.ndarray:
    """(N,) the largest distance of any stain that tells something in both; 99 where fewer than two do."""
    both = told & told_there
    bits = np.where(both, np.bitwise_count(hashes ^ others), 0).max(axis=1)
    return np.where(both.sum(axis=1) >= 2, bits, 99)


def append(to: tuple[list[np.ndarray], list[np.ndarray]], parts: tuple[np.ndarray, np.ndarray]) -> None:
    for some, part in zip(to, parts, strict=True):
        some.append(part)


def shrink(image_CSS: np.ndarray) -> np.ndarray:
    return np.stack([resize_plane(plane, SIDE_PX) for plane in image_CSS])


def difference_hash(pixels_BCSS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours in the rows of a 9 x 8 thumbnail compared; what tells something is as in hash_images."""
    edges = np.arange(SIDE_PX + 1)

    def means(count: int) -> np.ndarray:
        cuts = np.linspace(0, SIDE_PX, count + 1)
        overlap = np.minimum(cuts[1:, None], edges[1:]) - np.maximum(cuts[:-1, None], edges[:-1])
        return np.clip(overlap, 0, None) * count / SIDE_PX

    grid = means(8) @ pixels_BCSS @ means(9).T
    bits = (grid[..., 1:] > grid[..., :-1]).reshape(*grid.shape[:2], 64)
    told = hash_images(pixels_BCSS)[1]
    return np.where(told, np.packbits(bits, axis=2).view(np.uint64)[..., 0], 0), told


def jpeg(image_CSS: np.ndarray, quality: int) -> np.ndarray:
    planes = []
    for plane in image_CSS:
        data = io.BytesIO()
        Image.fromarray(plane).save(data, "JPEG", quality=quality)
        planes.append(np.asarray(Image.open(data)))
    return np.stack(planes)


def resized(image_CSS: np.ndarray, side: int, rule: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(plane).resize((side, side), rule)) for plane in image_CSS])


def shifted(image_CSS: np.ndarray, px_of_512: int) -> np.ndarray:
    """Moved down and right; what comes in at the edge is the mirror image."""
    side = image_CSS.shape[-1]
    by = round(px_of_512 * side / 512)
    return np.pad(image_CSS, ((0, 0), (by, 0), (by, 0)), mode="reflect")[:, :side, :side]


def noisy(image_CSS: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(image_CSS[:, ::32, ::32].ravel()).normal(0, std, image_CSS.shape)
    return np.clip(image_CSS + noise, 0, 255).round().astype(np.uint8)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda image: image,
    "JPEG 85": lambda image: jpeg(image, 85),
    "JPEG 30": lambda image: jpeg(image, 30),
    "3/4 and back": lambda image: resized(resized(image, image.shape[-1] * 3 // 4), image.shape[-1]),
    "half": lambda image: resized(image, image.shape[-1] // 2, Image.Resampling.BOX),
    "x 1.3": lambda image: np.clip(image * 1.3, 0, 255).astype(np.uint8),
    "x 0.3": lambda image: (image * 0.3).astype(np.uint8),
    "gamma 0.7": lambda image: (255 * (image / 255) ** 0.7).astype(np.uint8),
    "noise 5": lambda image: noisy(image, 5),
    "noise 15": lambda image: noisy(image, 15),
    "shift 2 of 512": lambda image: shifted(image, 2),
    "shift 4": lambda image: shifted(image, 4),
    "shift 8": lambda image: shifted(image, 8),
    "shift 16": lambda image: shifted(image, 16),
}
HASHES = {"cosine": hash_images, "difference": difference_hash}


def search(number: int, distance: int) -> None:
    hashes, told = made_up(number)
    rng = np.random.default_rng(1)
    num_planted = number // 50
    planted = rng.choice(number, (2, num_planted), replace=False)
    flips = [sum(1 << bit for bit in rng.choice(64, distance, replace=False).tolist()) for _ in range(997)]
    hashes[planted[0]] = hashes[planted[1]] ^ np.array(flips, np.uint64)[rng.integers(0, 997, (num_planted, 4))]
    told[planted[0]] = told[planted[1]]
    hashes[~told] = 0
    start = time.perf_counter()
    found = find_duplicates(hashes, told, distance)
    seconds = time.perf_counter() - start
    lost = int((found.group_N[planted[0]] != found.group_N[planted[1]]).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{number:,} images, {distance} bits: {seconds:.1f} s, {found.num_pairs:,} pairs, "
        f"{lost} of {num_planted:,} planted pairs lost, largest group {found.group_sizes_N.max()}, peak {peak:.2f} GiB",
        flush=True,
    )


def made_up(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(U, 4) uint64 and bool. Stains of an image depend on each other, a tenth of the images lies close together."""
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(len(STAINS), 6, 64)).astype(np.float32)
    hashes = np.empty((number, len(STAINS)), np.uint64)
    for start in range(0, number, 20_000):
        count = min(20_000, number - start)
        strength = np.where(rng.random(count) < 0.1, 0.8, 0.15).astype(np.float32)
        layout = rng.normal(size=(count, 6)).astype(np.float32) * strength[:, None]
        signal = np.einsum("nf,cfk->nck", layout, shapes) + rng.normal(size=(count, len(STAINS), 64))
        hashes[start : start + count] = np.packbits(signal > 0, axis=2).view(np.uint64)[..., 0]
    told = np.ones(hashes.shape, bool)
    told[rng.random(number) < 0.03, STAINS.index("green")] = False
    return hashes, told


if __name__ == "__main__":
    main()
