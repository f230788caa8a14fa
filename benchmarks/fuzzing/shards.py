"""Shards with their index, manifest and checksums: damaged, they must be told from what was written."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzzing.case import Case, Target, Wrong, changed_tree, damaged
from fuzzing.pictures import saved
from hpa_ray.channels import STAINS
from hpa_ray.config import DataConfig
from hpa_ray.ingest import prepare
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import multi_hot_column, open_images
from hpa_ray.shards import open_shards
from hpa_ray.shards.seal import sealed

SIDE = 8


class Shards(Target):
    """A folder of shards of which one file is damaged, as it is written now or as an earlier version wrote it."""

    num_images = 70  # in two shards

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        images = folder / "images"
        images.mkdir(exist_ok=True)
        noise = np.random.default_rng(0)
        names = [f"image-{k:02d}" for k in range(self.num_images)]
        for name in names:
            for stain in STAINS:
                plane = noise.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
                (images / f"{name}_{stain}.png").write_bytes(saved(Image.fromarray(plane), "PNG"))
        rows = [f"{name},{k % NUM_CLASSES} {k * 7 % NUM_CLASSES}\n" for k, name in enumerate(names)]
        labels = self.write("labels.csv", ("Id,Target\n" + "".join(rows)).encode())
        output = str(folder / "shards")
        manifest = open_images(DataConfig(images=str(images), labels=labels))
        prepare(manifest, output=output, channels=STAINS, sizes={SIDE: output}, shard_bytes=1, num_workers=0)
        index = json.loads((folder / "shards" / "index.json").read_text())
        del index["checksum"]
        index["fingerprint"] = "of any folder"  # it tells where the images were
        (folder / "shards" / "index.json").write_text(json.dumps(sealed(index)))
        self.files = {path.name: path.read_bytes() for path in sorted(Path(output).iterdir())}
        self.names = sorted(name for name in self.files if name != "rejected.parquet")
        self.source, self.table = open_shards(output, STAINS)
        self.pixels = self.source.read(np.arange(self.num_images)).pixels_BCSS
        self.count = 0

    def make(self, rng: Random) -> Case:
        """words: the damaged file, and `as written`, `with a new checksum` or the version it is stored in."""
        name = rng.choice((*self.names, "index.json", "index.json"))
        how = rng.choice(("as written", "as written", "with a new checksum", "version 2", "version 1"))
        content = self.files[name]
        if name != "index.json":
            return Case(damaged(rng, content), (name, how))
        index = self._index(how)
        if rng.random() < 0.5:
            index = changed_tree(rng, index)
            if how == "with a new checksum" and isinstance(index, dict):
                index.pop("checksum", None)
                with contextlib.suppress(ValueError):
                    index = sealed(index)
            return Case(json.dumps(index).encode(errors="replace"), (name, how))
        return Case(damaged(rng, json.dumps(index, indent=2).encode()), (name, how))

    def run(self, case: Case) -> None:
        name, how = case.words
        self.count += 1
        place = self.folder / f"copy-{self.count}"  # a name of its own: what is mapped once is not looked at again
        place.mkdir()
        try:
            files = {**self.files, name: case.content}
            if name != "index.json":
                files["index.json"] = json.dumps(self._index(how, files)).encode()
            for file, content in files.items():
                if content is self.files.get(file):
                    os.link(self.folder / "shards" / file, place / file)
                else:
                    (place / file).write_bytes(content)
            self._read(str(place), how == "as written")
        finally:
            for path in place.iterdir():
                path.unlink()
            place.rmdir()

    def _read(self, place: str, as_written: bool) -> None:
        source, table = open_shards(place, STAINS)
        rows = np.random.default_rng(self.count).permutation(table.num_rows)
        pixels = source.read(rows).pixels_BCSS
        targets = multi_hot_column(table["labels"].combine_chunks())
        if pixels.dtype != np.uint8 or pixels.shape != (table.num_rows, 4, source.image_size, source.image_size):
            raise Wrong(f"pixels of shape {pixels.shape}")
        if targets.shape != (table.num_rows, NUM_CLASSES) or table["source"].to_numpy().min(initial=0) < 0:
            raise Wrong(f"targets of shape {targets.shape}")
        if as_written:
            same = [source.index == self.source.index, table.equals(self.table)]
            if not all(same) or not np.array_equal(pixels, self.pixels[rows]):
                raise Wrong(f"not what was written (index and manifest: {same})")

    def _index(self, how: str, files: dict[str, bytes] | None = None) -> Any:
        """The index as it is, with the checksums of changed files, or as versions 1 and 2 had it."""
        index = json.loads(self.files["index.json"])
        if how == "as written":
            return index
        if how.startswith("version"):
            index["version"] = int(how[-1])
            late = ["manifest_sha256", "checksums_sha256", "checksum"]
            for field in late + ["white_level", "sources"] * (index["version"] == 1):
                del index[field]
            return index
        for field, name in (("manifest_sha256", "manifest.arrow"), ("checksums_sha256", "checksums.arrow")):
            index[field] = hashlib.sha256((files or self.files)[name]).hexdigest()
        del index["checksum"]
        return sealed(index)
