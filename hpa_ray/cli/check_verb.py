"""`check`: what is there, what is wrong with it, what preparing it would take."""

from typing import Any

import pyarrow as pa

from hpa_ray.check import Report, check_source
from hpa_ray.check.page import check_page
from hpa_ray.check.report import HPA_MEAN
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, home, plan_lines, resolve, shard_folders, with_atlas
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.ingest.plan import plan
from hpa_ray.manifest import ImageSet, LabelTable, Manifest, check_extra, image_sets, list_folder, read_label_table
from hpa_ray.progress import console
from hpa_ray.schema import rejected_table
from hpa_ray.storage import join, write_bytes, write_json, write_parquet

SHOWN = 5
"""Files named for each kind of problem."""


def check(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if not has_data(config):
        config = with_atlas(config)
    cfg = config.data
    if not (cfg.images or cfg.labels):
        raise InputError("check needs data.images=FOLDER or data.labels=CSV, or both")
    places = image_sets(cfg) if cfg.images else [ImageSet("", cfg.labels)]
    for place in places[1:]:  # mistakes first: decoding the first source takes minutes
        check_extra(*place)
        list_folder(place.images, key="data.extra")
    label_tables = [None if place.labels is None else read_label_table(place.labels) for place in places]
    reports, tables = [], []
    for number, (place, labels) in enumerate(zip(places, label_tables, strict=True)):
        report, table = _check_one(config, number, place, labels)
        reports.append(report)
        tables.append(table)
        _say_report(report)
    lines = _plan_lines(config, places, tables)
    for line in lines:
        console.say(line)
    result = _as_json(reports, lines)
    if output := config.check.output:
        write_json(join(output, "check.json"), result)
        write_bytes(join(output, "check.html"), check_page(reports, lines).encode())
        rejects = [reject for report in reports for reject in report.rejects]
        write_parquet(join(output, "rejected.parquet"), rejected_table(rejects))
        console.say(f"written: {output}/check.html, {output}/check.json, {output}/rejected.parquet")
    num_problems = sum(report.num_problems for report in reports)
    console.say(f"problems  {num_problems:,}")
    if num_problems and (invocation.strict or config.check.strict):
        raise InputError(f"{num_problems} problems, listed above")
    return result


def _check_one(
    config: Config, number: int, place: ImageSet, labels: LabelTable | None
) -> tuple[Report, pa.Table | None]:
    with console.progress("check", 0) as show:  # its total is known once the folder is listed
        return check_source(
            place,
            labels,
            number=number,
            channels=config.data.channels,
            white_level=config.data.white_level,
            decode=config.check.decode,
            num_workers=config.check.num_workers or 0,
            on_progress=lambda done, total: show(done, total=total),
        )


def _plan_lines(config: Config, places: list[ImageSet], tables: list[pa.Table | None]) -> list[str]:
    """Size and time of a `prepare` at data.image_size (or prepare.sizes); none without images."""
    if not config.check.decode or tables[0] is None or not tables[0].num_rows:
        return []
    manifest = Manifest(
        pa.concat_tables([table for table in tables if table is not None]).unify_dictionaries().combine_chunks(),
        [],
        tuple(place.images for place in places),
        [],
    )
    output = config.prepare.output or str(home())
    sizes = list(shard_folders(config, output))
    return plan_lines(
        plan(
            manifest,
            output=output,
            channels=config.data.channels,
            sizes=sizes,
            shard_bytes=config.prepare.shard_bytes,
            white_level=config.data.white_level,
        )
    )


def _as_json(reports: list[Report], lines: list[str]) -> dict[str, Any]:
    """The first source as it is, further ones in a list."""
    extra = [report.as_json() for report in reports[1:]]
    return reports[0].as_json() | {"extra": extra, "prepare": lines}


def _say_report(report: Report) -> None:
    say = console.say
    if report.images is not None:
        mib = report.num_bytes / 2**20
        say(f"images  {report.images}: {report.num_images:,} images in {report.num_files:,} files, {mib:,.1f} MiB")
    if report.num_labelled is not None:
        say(f"labels  {report.labels}: {report.num_labelled:,} usable rows")
    if report.sizes_px:
        say(f"sizes   {', '.join(f'{size} px: {count:,}' for size, count in report.sizes_px.most_common(6))}")
        for rule in dict.fromkeys(rule for rules in report.formats.values() for rule in rules):
            found = ", ".join(f"{stain} {rules[rule]:,}" for stain, rules in report.formats.items() if rules[rule])
            say(f"format  {rule}: {found}; highest value {report.peaks[rule]:,}")
    if report.mean:
        say("stain   mean    std     mean of HPA  ratio   (0 to 1; HPA: the competition's training images)")
        for stain, mean in report.mean.items():
            known = HPA_MEAN[stain]
            say(f"{stain:<7} {mean:.4f}  {report.std[stain]:.4f}  {known:.4f}       {mean / known:.2f}")
    if report.class_counts is not None and report.num_labelled:
        per_image = ", ".join(f"{count}: {images:,}" for count, images in sorted(report.labels_per_image.items()))
        say(f"labels per image  {per_image}")
        say("class  name                              images   share")
        for k, name, count, share in report.class_rows():
            say(f"{k:5d}  {name:<32}{count:8,}  {share:6.2%}")
    for line in report.table_problems:
        say(f"problem  {line}")
    for reason, files in report.files_by_reason().items():
        for file in files[:SHOWN]:
            say(f"problem  {file}: {reason}")
        if len(files) > SHOWN:
            say(f"problem  and {len(files) - SHOWN:,} more: {reason} (check.output=FOLDER lists all)")
    if report.num_unlabelled:
        say(f"problem  {report.num_unlabelled:,} images have no row in {report.labels}")
    if report.other_files:
        names = ", ".join(map(repr, report.other_files[:3]))
        say(f"problem  {len(report.other_files):,} files are not named <Id>_<color>.png: {names}")
    if report.num_absent:
        say(f"note    {report.num_absent:,} rows of {report.labels} have no files in {report.images}")
    for line in report.warnings():
        say(f"note    {line}")
    if report.images is not None:
        say(f"usable  {report.num_usable:,} images")
