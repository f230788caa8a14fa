"""How long does it take to decode a file of one stain, against Pillow alone?

    uv run benchmarks/decode.py                        # synthetic images of 512 px, ten seconds
    uv run benchmarks/decode.py --real TRAIN_FOLDER

Pillow opens the file and gives the plane of the stain as an array. decode_plane also verifies the checksums of a PNG,
walks the segments of a JPEG, and looks at the other planes of an RGB picture. Every plane is saved here as a gray PNG
and as JPEGs in the colour of its stain. ms per file, ours / Pillow's: the shortest of several rounds that take turns.
"""

import argparse
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.ingest.decode import decode_plane
from hpa_ray.ingest.decode.plane import PLANES_OF_STAIN
from hpa_ray.synth import render_field

ROUNDS = 10
SYNTHETIC_PX = 512
QUALITIES = (50, 90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10, help="images of four stains")
    parser.add_argument("--real", type=Path, help="folder of <Id>_<color>.png, 8-bit gray; without: synthetic images")
    arguments = parser.parse_args()
    planes = real(arguments.real, arguments.images) if arguments.real else synthetic(arguments.images)
    print(f"{'ms per file':<22}{''.join(f'{stain:>24}' for stain in STAINS)}")
    report("gray PNG", {stain: [png(plane) for plane in planes[stain]] for stain in STAINS})
    for quality in QUALITIES:
        files = {stain: [coloured_jpeg(plane, stain, quality) for plane in planes[stain]] for stain in STAINS}
        report(f"RGB JPEG, quality {quality}", files)


def report(name: str, files: dict[str, list[bytes]]) -> None:
    cells = []
    for stain, contents in files.items():
        ours, pillow = shortest([partial(decode_plane, stain=stain), partial(open_plane, stain=stain)], contents)
        cells.append(f"{ours:.2f} / {pillow:.2f} = {ours / pillow:.2f}")
    print(f"{name:<22}{''.join(f'{cell:>24}' for cell in cells)}", flush=True)


def shortest(decoders: list[Callable[[bytes], object]], contents: list[bytes]) -> list[float]:
    """ms per file of each decoder."""
    seconds: list[list[float]] = [[] for _ in decoders]
    for _ in range(ROUNDS):
        for decode, times in zip(decoders, seconds, strict=True):
            start = time.perf_counter()
            for data in contents:
                decode(data)
            times.append(time.perf_counter() - start)
    return [1000 * min(times) / len(contents) for times in seconds]


def open_plane(data: bytes, stain: str) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    return np.asarray(image.getchannel(PLANES_OF_STAIN[stain][0]) if image.mode == "RGB" else image)


def synthetic(num_images: int) -> dict[str, list[np.ndarray]]:
    fields = [render_field([k % 16], seed=[k], image_size=SYNTHETIC_PX) for k in range(num_images)]
    return {stain: [field[channel] for field in fields] for channel, stain in enumerate(STAINS)}


def real(folder: Path, num_images: int) -> dict[str, list[np.ndarray]]:
    ids = sorted(path.name.removesuffix("_green.png") for path in folder.glob("*_green.png"))[:num_images]
    return {stain: [np.asarray(Image.open(folder / f"{name}_{stain}.png")) for name in ids] for stain in STAINS}


def png(plane: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(plane).save(data, "PNG")
    return data.getvalue()


def coloured_jpeg(plane: np.ndarray, stain: str, quality: int) -> bytes:
    picture = np.zeros((*plane.shape, 3), np.uint8)
    picture[..., PLANES_OF_STAIN[stain]] = plane[..., None]
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=quality)
    return data.getvalue()


if __name__ == "__main__":
    main()
