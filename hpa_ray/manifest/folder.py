"""One listing of an images folder -> which stains of which image are there, and in which format. After: manifest/build.

Held as arrays, not as a dictionary per image: 40 million files are 10 million images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.schema import ID_CHARACTERS
from hpa_ray.storage import list_files

EXTENSIONS = ("png", "tif", "tiff", "jpg", "jpeg")
"""Formats that can be read; of several versions of an image the first complete one of this order is taken."""
FILE_NAME = rf"^(?P<id>{ID_CHARACTERS})_(?P<stain>{'|'.join(STAINS)})\.(?P<extension>[A-Za-z0-9]+)$"


@dataclass(frozen=True)
class Folder:
    """N images of which there is at least one file, in X spellings of extensions, the preferred one first."""

    uri: str
    image_ids: pa.Array  # (N,) string
    stains_XN: np.ndarray  # uint8: bit s is set where the plane STAINS[s] is there with this extension
    extensions: tuple[str, ...]
    num_files: int
    num_bytes: int
    other_files: list[str]  # names that are no `<Id>_<color>.<ext>` of a known format

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    def find(self, image_ids: pa.Array) -> np.ndarray:
        """Position of each id in `image_ids`, -1 where there is no file of it; (M,) int64."""
        found = pc.index_in(image_ids, value_set=self.image_ids)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    def complete(self, channels: Sequence[str]) -> np.ndarray:
        """The first extension with which each image has all channels, -1 where there is none; (N,) int8."""
        wanted = sum(1 << STAINS.index(stain) for stain in channels)
        chosen = np.full(self.num_images, -1, np.int8)
        for number in reversed(range(len(self.extensions))):
            chosen[self.stains_XN[number] & wanted == wanted] = number
        return chosen

    def stains_of(self, image: int) -> dict[str, list[str]]:
        """Stain -> extensions of the files of one image."""
        return {
            stain: [self.extensions[x] for x in np.flatnonzero(self.stains_XN[:, image] >> s & 1)]
            for s, stain in enumerate(STAINS)
            if (self.stains_XN[:, image] >> s & 1).any()
        }


def list_folder(uri: str, *, key: str = "data.images") -> Folder:
    """Raises InputError if the folder is missing, empty, or holds no image file."""
    try:
        sizes = list_files(uri)
    except FileNotFoundError as error:
        raise InputError(f"{key} = {uri}: no such folder") from error
    except NotADirectoryError as error:
        raise InputError(f"{key} = {uri}: is a file - give the folder that holds the images") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{key} = {uri}: can not be listed ({' '.join(str(error).split())})") from error
    folder = folder_of(uri, sizes)
    if not folder.num_images:
        found = f"its {len(sizes)} files look like {sorted(sizes)[0]!r}" if sizes else "it holds no files"
        raise InputError(
            f"{key} = {uri}: no files named <Id>_<color>.png (or {', '.join(EXTENSIONS[1:])}), "
            f"color one of {', '.join(STAINS)}; {found}"
        )
    return folder


def folder_of(uri: str, sizes: Mapping[str, int]) -> Folder:
    """The images among the files of a listing, name -> bytes."""
    printable = [name for name in sizes if name.isascii() or _is_unicode(name)]
    names = pa.array(printable, pa.string())
    pieces = pc.extract_regex(names, FILE_NAME)
    extension = pieces.field("extension").dictionary_encode()
    spelled = extension.dictionary.to_pylist()
    known = [k for k, word in enumerate(spelled) if word is not None and word.lower() in EXTENSIONS]
    is_image = np.isin(extension.indices.fill_null(-1).to_numpy(zero_copy_only=False), known)
    mask = pa.array(is_image)
    # lower case before upper case, whatever order they are listed in
    order = sorted(known, key=lambda k: (EXTENSIONS.index(spelled[k].lower()), spelled[k].swapcase()))
    rank = np.zeros(len(spelled) + 1, np.int64)
    rank[order] = np.arange(len(order))

    ids = pieces.field("id").filter(mask).dictionary_encode()
    stains = pc.index_in(pieces.field("stain").filter(mask), value_set=pa.array(STAINS)).to_numpy(zero_copy_only=False)
    rows = rank[extension.indices.filter(mask).to_numpy(zero_copy_only=False)]
    stains_XN = np.zeros((len(order), len(ids.dictionary)), np.uint8)
    columns = ids.indices.to_numpy(zero_copy_only=False)
    for s in range(len(STAINS)):
        where = stains == s
        stains_XN[rows[where], columns[where]] |= np.uint8(1 << s)  # no file is listed twice
    other = sorted([*names.filter(pa.array(~is_image)).to_pylist(), *(sizes.keys() - set(printable))])
    extensions = tuple(spelled[k] for k in order)
    return Folder(uri, ids.dictionary, stains_XN, extensions, len(sizes), sum(sizes.values()), other)


def _is_unicode(name: str) -> bool:
    """A disk may hold names in any bytes; such a name is no image's."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
