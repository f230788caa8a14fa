"""Fixtures for every test: a home folder of its own, small real data, the real-data folder beside the checkout."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"  # a local Ray would otherwise write a token into the user's home
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # read when ray is imported, which some tests do before it is started
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hpa_ray.synth import draw_label_sets, write_atlas

SHARED = Path(__file__).parents[2] / "shared" / "hpa"


@pytest.fixture(autouse=True, scope="session")
def hpa_ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of a test lands in the home folder of the user."""
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("HPA_RAY_HOME")
    os.environ["HPA_RAY_HOME"] = str(home)
    yield home
    if before is None:
        del os.environ["HPA_RAY_HOME"]
    else:
        os.environ["HPA_RAY_HOME"] = before


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real label tables and images; it is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("the folder shared/hpa with real data is not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty synthetic images of 64 px in competition form: train/ and train.csv. Do not change it."""
    folder = tmp_path_factory.mktemp("atlas")
    write_atlas(folder, draw_label_sets(60, seed=3), image_size=64, seed=3, num_workers=1)
    return folder


@pytest.fixture(scope="session")
def shards(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The atlas as shards of 32 px. Do not change them."""
    from hpa_ray.cli.main import main

    folder = tmp_path_factory.mktemp("small") / "shards"
    words = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32"]
    assert main(["prepare", *words, f"prepare.output={folder}", "prepare.num_workers=0"]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models so small that threads would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gray_png() -> Callable[..., bytes]:
    """Bytes of a PNG of random gray values; side in px, Pillow mode."""
    import io

    from PIL import Image

    def make(side: int = 64, mode: str = "L", seed: int = 0) -> bytes:
        values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
        image = Image.fromarray(values if mode == "RGB" else values[:, :, 0])
        if mode == "I;16":
            image = Image.fromarray(values[:, :, 0].astype(np.uint16) * 257)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    return make
