"""Names of runs, images and files."""

import re
from pathlib import Path
from random import Random

from fuzzing.case import TEXTS, Case, Target, Wrong, odd_text
from fuzzing.tables import ID, image_id
from hpa_ray.check.page import check_page
from hpa_ray.check.report import Report
from hpa_ray.config import load_config
from hpa_ray.manifest import folder_of
from hpa_ray.progress import console, one_line
from hpa_ray.schema import Reject
from hpa_ray.storage import join

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Names(Target):
    """Names of runs and of files, which become parts of paths and of pages."""

    def make(self, rng: Random) -> Case:
        """words: the name of a run, then those of files."""
        run = f"run-{rng.randrange(100)}.{rng.choice('abc_-.')}" if rng.random() < 0.4 else self._name(rng)
        endings = ("", "_red.png", "_green.tif", "_blue.JPEG", "_yellow.jpg", "_red.png.x", "_pink.png")
        files = [self._name(rng) + rng.choice(endings) for _ in range(rng.choice((1, 3, 9)))]
        if rng.random() < 0.8:  # as a disk can have them
            files = [name.replace("/", "").replace("\0", "")[:255] for name in files]
        return Case(b"", (run, *files))

    def _name(self, rng: Random) -> str:
        return rng.choice((odd_text(rng), image_id(rng), rng.choice(TEXTS)[:40] + rng.choice(TEXTS)[:40]))

    def run(self, case: Case) -> None:
        run, *files = case.words
        self._list(files)
        self._show(files)
        found = load_config([f"run.name={run}"]).run.name
        if found is not None and (found != run or not RUN_NAME.fullmatch(run)):
            raise Wrong(f"run.name is {found!r}")

    def _list(self, names: list[str]) -> None:
        listing = dict.fromkeys(names, 7)
        folder = folder_of("/images", listing)
        files = []
        for number, name in enumerate(folder.image_ids.to_pylist()):
            if not ID.fullmatch(name) or Path(join("/images", f"{name}_red.png")).parent != Path("/images"):
                raise Wrong(f"image id {name!r}")
            files += [f"{name}_{stain}.{end}" for stain, ends in folder.stains_of(number).items() for end in ends]
        if sorted(files + folder.other_files) != sorted(listing):
            raise Wrong("a file is neither an image's nor another one")

    def _show(self, names: list[str]) -> None:
        rejects = [Reject(-1, name, name, f"damaged PNG ({name})") for name in names]
        report = Report("/images/" + names[0], None, rejects=rejects, other_files=names, table_problems=names)
        page = check_page([report], names)
        for name in names:
            if re.search("[<>]", name) and name in page:
                raise Wrong(f"{name!r} stands in the page as it is")
        if "\x1b" in page:
            raise Wrong("the page holds control characters")
        for name in names:
            console.say(name)
            if not one_line(name).isprintable():
                raise Wrong(f"{name!r} is not printed in one line")
