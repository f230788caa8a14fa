"""The 2018 competition's files by kagglehub: what it takes is said first, what came is looked at last.

kagglehub continues a broken download only in its own cache folder, where it asks for the rest of the archive; with an
output folder it refuses to start again. So its cache is put inside the output folder and its content moved up.
"""

import importlib
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tarfile import TarError
from typing import Any, NamedTuple

import requests

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.known import TEST_IMAGES, TRAIN_IMAGES
from hpa_ray.manifest import list_folder, read_label_table
from hpa_ray.manifest.folder import FILE_NAME
from hpa_ray.storage import free_bytes, is_local

COMPETITION = "human-protein-atlas-image-classification"
PAGE = f"https://www.kaggle.com/competitions/{COMPETITION}"
CACHE_VARIABLE = "KAGGLEHUB_CACHE"
DOWNLOAD, ARRIVED = "download", "arrived"
"""Folder below the output that holds the download until it is complete, and the file that says that it is."""
NEEDED_BYTES = 2 * 14 * 2**30
"""The training part is 13 to 14 GB, as an archive and unpacked beside it; the test part comes on top."""
MAX_GROWTH = 10
"""Times the size of train.zip that its images may have: PNGs are compressed already."""
PAUSE_S = 5.0
"""Before a download that broke off goes on."""
TOKEN_STEPS = (
    "1. an account at kaggle.com; at https://www.kaggle.com/settings, under API, create a token",
    "2. give it as KAGGLE_API_TOKEN (the token, or a file that holds it) or in ~/.kaggle/access_token; the older "
    "kaggle.json goes to ~/.kaggle/kaggle.json (or the folder KAGGLE_CONFIG_DIR), its two values into KAGGLE_USERNAME "
    "and KAGGLE_KEY",
    f"3. in a browser, accept the rules at {PAGE}/rules",
    "4. run the same command again",
)


class Competition(NamedTuple):
    images: str
    labels: str
    num_images: int
    num_labelled: int


def explanation(output: str) -> list[str]:
    """What the download is, and what it takes."""
    free = free_bytes(output)
    return [
        f"competition {COMPETITION}: {len(STAINS) * TRAIN_IMAGES:,} PNG files of {TRAIN_IMAGES:,} training images and "
        f"{len(STAINS) * TEST_IMAGES:,} of {TEST_IMAGES:,} test images, 512 px",
        "13 to 14 GB for the training part, the test part on top, and as much again while it is unpacked",
        f"free at {output}: {'not known' if free is None else f'{free / 2**30:,.0f} GiB'}",
        f"it takes a Kaggle token, and the rules accepted in a browser: {PAGE}/rules",
    ]


def fetch_competition(output: str, *, max_attempts: int = 6, say: Callable[[str], None] = print) -> Competition:
    """Download and unpack; the same call goes on where it was stopped. Raises InputError."""
    folder = _check_output(output)
    if not (folder / "train.csv").exists() or (folder / DOWNLOAD).exists():
        hub = _kagglehub()
        for line in explanation(output):
            say(line)
        _check_token(hub)
        _check_disk(output)
        if not (folder / DOWNLOAD / ARRIVED).exists():
            came = Path(_download(hub, folder / DOWNLOAD, max_attempts, say))
            (folder / DOWNLOAD / ARRIVED).write_text(str(came.relative_to(folder / DOWNLOAD)))
        _move_up(folder)
    for part in ("train", "test"):
        _unpack(folder / f"{part}.zip", folder / part)
    return _look(folder)


def _check_output(output: str) -> Path:
    if not is_local(output):
        raise InputError(f"fetch.output = {output}: kagglehub writes to a disk only - give a folder of this machine")
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"fetch.output = {output}: is a file - give a folder")
    names = set(os.listdir(folder)) if folder.exists() else set()
    if names and not names & {DOWNLOAD, "train.csv"}:
        raise InputError(f"fetch.output = {output}: holds other files ({min(names)!r}) - give an empty or new folder")
    return folder


def _kagglehub() -> Any:
    try:
        return importlib.import_module("kagglehub")
    except ImportError as error:
        raise InputError(
            "fetch kaggle needs kagglehub, which is not installed - pip install 'hpa-ray[kaggle]', "
            "or in a checkout: uv sync --extra kaggle"
        ) from error


def _check_token(hub: Any) -> None:
    try:
        known = hub.config.get_kaggle_credentials()
    except ValueError as error:  # a kaggle.json that is none
        raise InputError(f"{error} - create it anew", *TOKEN_STEPS) from error
    if not known:
        raise InputError("fetch kaggle found no Kaggle token; nothing was asked for. What to do:", *TOKEN_STEPS)


def _check_disk(output: str) -> None:
    free = free_bytes(output)
    if free is not None and free < NEEDED_BYTES:
        raise InputError(
            f"fetch.output = {output}: has {free / 2**30:,.0f} GiB free, the download takes more than "
            f"{NEEDED_BYTES / 2**30:,.0f} while it is unpacked - free some or choose another folder"
        )


def _download(hub: Any, cache: Path, max_attempts: int, say: Callable[[str], None]) -> str:
    for attempt in range(1, max_attempts + 1):
        try:
            with _environment(CACHE_VARIABLE, str(cache)):
                return str(hub.competition_download(COMPETITION))
        except requests.HTTPError as error:
            raise _refusal(error) from error
        except hub.exceptions.DataCorruptionError as error:  # it has deleted the archive
            fault: Exception = error
        except (ValueError, zipfile.BadZipFile, zlib.error, TarError, EOFError) as error:  # no archive, or a bad one
            for archive in cache.rglob("*.archive"):
                archive.unlink()
            fault = error
        except requests.RequestException as error:
            fault = error
        reason = " ".join(str(fault).split())[:200]
        if attempt < max_attempts:
            say(f"attempt {attempt} of {max_attempts}: {reason}; going on in {PAUSE_S:g} s")
            time.sleep(PAUSE_S)
    raise InputError(f"the download broke off {max_attempts} times, at last by: {reason} - the same command goes on")


def _refusal(error: requests.HTTPError) -> InputError:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return InputError("Kaggle does not know the token (401). What to do:", *TOKEN_STEPS)
    if status == 403:
        return InputError(
            f"Kaggle refuses the files (403): accept the rules in a browser at {PAGE}/rules with the account of the "
            "token, then run the same command again"
        )
    return InputError(f"Kaggle answers with status {status} - try again later: {' '.join(str(error).split())[:200]}")


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _move_up(folder: Path) -> None:
    """Move what came to the output folder; a stop in between loses nothing."""
    download = (folder / DOWNLOAD).resolve()
    source = (download / (download / ARRIVED).read_text()).resolve()
    if not source.is_relative_to(download):
        raise InputError(f"{download / ARRIVED}: leads out of its folder - delete {download} and run the command again")
    for entry in sorted(source.iterdir()):
        os.replace(entry, folder / entry.name)
    shutil.rmtree(folder / DOWNLOAD)


def _unpack(archive: Path, folder: Path) -> None:
    """The older form of the competition's files: train.zip with the images in it.

    Nothing but images is taken out, by the last part of their names, so that no name leads elsewhere.
    """
    if not archive.exists() or folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with zipfile.ZipFile(archive) as file:
            images = {PurePosixPath(entry.filename).name: entry for entry in file.infolist()}
            images = {name: entry for name, entry in images.items() if re.fullmatch(FILE_NAME, name)}
            _check_growth(archive, sum(entry.file_size for entry in images.values()))
            for name, entry in images.items():
                with file.open(entry) as source, (temporary / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise InputError(f"{archive}: damaged ({error}) - delete it and run the same command again") from error
    os.replace(temporary, folder)
    archive.unlink()


def _check_growth(archive: Path, num_bytes: int) -> None:
    """Raises InputError if what is said to be in the archive can be no images, or has no room on the disk."""
    mib, free = num_bytes / 2**20, free_bytes(str(archive))
    if num_bytes > MAX_GROWTH * archive.stat().st_size:
        raise InputError(f"{archive}: would grow to {mib:,.0f} MiB, which images never do - delete it")
    if free is not None and num_bytes > free:
        raise InputError(f"{archive}: has {mib:,.0f} MiB of images, the disk {free / 2**20:,.0f} MiB free - free some")


def _look(folder: Path) -> Competition:
    images, labels = folder / "train", folder / "train.csv"
    if not images.is_dir() or not labels.is_file():
        names = ", ".join(sorted(os.listdir(folder))[:8])
        raise InputError(
            f"{folder}: no folder train and file train.csv among what came ({names}) - look at {PAGE}/data"
        )
    there = list_folder(str(images), key=str(images))
    return Competition(str(images), str(labels), there.num_images, len(read_label_table(str(labels)).image_ids))
