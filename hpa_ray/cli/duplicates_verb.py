"""`duplicates`: images that are all but the same, in groups that `split` and data.conflict go by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, home, resolve, with_atlas
from hpa_ray.config import Config
from hpa_ray.duplicates import SIDE_PX, find_duplicates, hashes_of
from hpa_ray.duplicates.page import PICTURE_PX, duplicates_page
from hpa_ray.duplicates.tables import Report, groups_csv, pairs_csv
from hpa_ray.errors import InputError
from hpa_ray.ingest import ImageSource, OpenedSource, open_source
from hpa_ray.manifest import check_ceiling
from hpa_ray.progress import console
from hpa_ray.schema import Reject, Source, rejected_table
from hpa_ray.storage import join, write_bytes, write_parquet


def duplicates(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if not has_data(config):
        config = with_atlas(config)
    cfg = config.duplicates
    alone = {"groups": None, "image_size": SIDE_PX}  # groups of an earlier run would hide images
    opened = open_source(config.data.model_copy(update=alone))
    for note in opened.notes:
        console.say(f"note: {note}")
    _check(config, opened, opened.rejects)
    rows = pc.sort_indices(opened.table["image_id"]).to_numpy().astype(np.int64)  # shards are in random order
    with console.progress("duplicates", len(rows)) as show:
        hashes = hashes_of(
            opened.source,
            rows,
            num_workers=cfg.num_workers,
            on_rejects=lambda rejects: _check(config, opened, opened.rejects + rejects),
            on_progress=show,
        )
    read = rows[hashes.read_N]
    if not len(read):
        raise InputError(f"{_place(config)}: none of its images can be used - `hpa-ray check` tells why")
    hashes_NC, informative_NC = hashes.hashes_NC[hashes.read_N], hashes.informative_NC[hashes.read_N]
    found = find_duplicates(hashes_NC, informative_NC, cfg.max_distance)
    report = Report(found, opened.table.take(pa.array(read)), read, config.data.channels, cfg.max_distance)
    pictures: Source = opened.source
    if isinstance(pictures, ImageSource):
        pictures = replace(pictures, image_size=PICTURE_PX)
    return _write(config, report, pictures, opened.rejects + hashes.rejects)


def _check(config: Config, opened: OpenedSource, rejects: Sequence[Reject]) -> None:
    cfg = config.data
    known = opened.table.num_rows + len(opened.rejects)
    check_ceiling(cfg.images or "", rejects, known, on_error=cfg.on_error, max_rejected=cfg.max_rejected)


def _write(config: Config, report: Report, pictures: Source, rejects: list[Reject]) -> dict[str, Any]:
    cfg = config.duplicates
    output = cfg.output or str(home() / "duplicates")
    groups = join(output, "groups.csv")
    following = _next_command(config, groups)
    files = {"groups.csv": groups_csv(report), "pairs.csv": pairs_csv(report)}
    files["duplicates.html"] = duplicates_page(report, pictures, following, num_pictured=cfg.num_pictured)
    for name, text in files.items():
        write_bytes(join(output, name), text.encode())
    write_parquet(join(output, "rejected.parquet"), rejected_table(rejects))

    counts, say = report.counts(), console.say
    dark = counts["num_images"] - counts["num_compared"]
    say(f"images   {counts['num_images']:,} hashed, {dark:,} of them too dark to compare, {len(rejects):,} left out")
    say(f"pairs    {counts['num_pairs']:,} within {cfg.max_distance} bits in every stain")
    say(f"groups   {counts['num_groups']:,} of {counts['num_grouped']:,} images, largest: {counts['largest_group']:,}")
    say(f"labels   contradict in {counts['num_contradicting']:,} groups")
    say(f"sources  {counts['num_across']:,} groups have images of more than one")
    listed = len(report.found.a_P)
    if listed < counts["num_pairs"]:
        say(f"note: pairs.csv lists {listed:,} pairs; groups.csv is complete")
    say(f"written: {output}/groups.csv, pairs.csv, duplicates.html")
    say(f"next: {following}")
    return {"groups": groups, "output": output, "num_rejected": len(rejects), **counts}


def _next_command(config: Config, groups: str) -> str:
    cfg = config.data
    if cfg.shards:
        return f"hpa-ray train data.shards={cfg.shards} data.groups={groups}"
    extra = [f"data.extra={','.join(cfg.extra)}"] if cfg.extra else []
    words = [f"data.images={cfg.images}", f"data.labels={cfg.labels or 'CSV'}", *extra, f"data.groups={groups}"]
    return " ".join(["hpa-ray split", *words])


def _place(config: Config) -> str:
    return config.data.shards or config.data.images or ""
