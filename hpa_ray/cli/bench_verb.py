"""`bench`: how fast this machine or cluster reads, trains and does both; which is the limit; what a long run takes."""

from collections.abc import Sequence
from typing import Any

from hpa_ray import cluster
from hpa_ray.bench import PHASES, Measured, Phase, PlanRow, Rate, in_words, judge, make_plan, run_bench
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, resolve, with_atlas_shards
from hpa_ray.cli.train_verb import check_settings
from hpa_ray.config import Config, config_tree
from hpa_ray.output import names_in
from hpa_ray.progress import console
from hpa_ray.storage import join, write_json
from hpa_ray.stream import Data, open_data, training_samples

TITLES: dict[Phase, str] = {"train": "train only", "read": "read only", "both": "both"}
SHOWN_WINDOWS = 10
"""Of each measurement, on the bar."""


def bench(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    check_settings(config)
    output = config.bench.output
    if output:
        names_in("bench.output", output)  # mistakes first
    data = open_data(config) if has_data(config) else None
    if config.train.num_workers:
        cluster.start_ray(config.train.fewest_workers, use_gpu=config.train.use_gpu)
    if data is None:
        config = with_atlas_shards(config)
        data = open_data(config)
    for note in data.notes:
        console.say(f"note: {note}")
    measured = _measure(config, data)
    result = _result(config, data, measured)
    if output:
        write_json(join(output, "bench.json"), result | {"config": config_tree(config)})
        console.say(f"written: {join(output, 'bench.json')}")
    return result


def _measure(config: Config, data: Data) -> Measured:
    cfg = config.train
    where = f"{cfg.fewest_workers} Ray Train workers" if cfg.num_workers else "this process, without Ray"
    console.say(
        f"measuring {config.model.name} on {len(data.parts['train']):,} training images "
        f"({', '.join(data.source.channels)}; {data.source.image_size} px), batches of {cfg.batch_size}, in {where}: "
        f"{len(PHASES)} times {config.bench.seconds:g} s, each after {config.bench.warmup_steps} steps of warm-up"
    )
    with console.progress("bench", len(PHASES) * SHOWN_WINDOWS, "windows") as progress:

        def show(phase: Phase, rate: Rate) -> None:
            done = min(1.0, rate.seconds / config.bench.seconds)
            done_before = PHASES.index(phase) * SHOWN_WINDOWS
            progress(done_before + int(done * SHOWN_WINDOWS), f"{TITLES[phase]}: {rate.images_per_s:,.0f} images/s")

        return run_bench(config, data, show)


def _result(config: Config, data: Data, measured: Measured) -> dict[str, Any]:
    """Say what was found; the same for programs."""
    cfg = config.bench
    verdict = judge(measured, cpus_per_node=cfg.cpus_per_node)
    rates = {phase: getattr(measured, phase) for phase in PHASES}
    images = cfg.plan_images or training_samples(config, data).num_samples
    epochs = cfg.plan_epochs or config.train.epochs
    read_per_cpu = measured.read.images_per_s / measured.reading_cpus
    plan = make_plan(
        cfg.plan_gpu_nodes,
        images=images,
        epochs=epochs,
        train_per_gpu=measured.train.per_worker,
        read_per_cpu=read_per_cpu,
        gpus_per_node=cfg.gpus_per_node,
        cpus_per_node=cfg.cpus_per_node,
        price_gpu_node_hour=cfg.price_gpu_node_hour,
        price_cpu_node_hour=cfg.price_cpu_node_hour,
    )
    words = in_words(verdict, measured, cpus_per_node=cfg.cpus_per_node)
    console.say(f"on {measured.where}; first batch after {measured.first_batch_s:.1f} s")
    _say_table(_rate_rows(rates))
    for line in words:
        console.say(line)
    times = (measured.read.num_images + measured.both.num_images) / len(data.parts["train"])
    if times > 1:
        console.say(f"note: every image was read some {times:.0f} times, and but the first may have come out of memory")
    console.say()
    gpu = "GPU" if measured.on_gpu else "GPU (here: a worker on CPUs)"
    console.say(
        f"plan of {images:,} images x {epochs} epochs at {measured.train.per_worker:,.1f} images/s of a {gpu} and "
        f"{read_per_cpu:,.1f} of a CPU that reads, if all grows linearly:"
    )
    _say_table(_plan_rows(plan))
    return {
        "where": measured.where,
        "model": config.model.name,
        "num_workers": config.train.fewest_workers,
        "batch_size": config.train.batch_size,
        "image_size": data.source.image_size,
        "channels": list(data.source.channels),
        "num_images": len(data.parts["train"]),
        "first_batch_s": round(measured.first_batch_s, 3),
        **{phase: rate.as_json() for phase, rate in rates.items()},
        "verdict": verdict.as_json(),
        "words": words,
        "plan": {
            "images": images,
            "epochs": epochs,
            "train_images_per_s_per_gpu": round(measured.train.per_worker, 3),
            "read_images_per_s_per_cpu": round(read_per_cpu, 3),
            "gpus_per_node": cfg.gpus_per_node,
            "cpus_per_node": cfg.cpus_per_node,
            "rows": [row.as_json() for row in plan],
        },
    }


def _rate_rows(rates: dict[Phase, Rate]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "images/s", "per worker", "lowest", "highest", "waiting for data")]
    for phase, rate in rates.items():
        speeds = (rate.images_per_s, rate.per_worker, rate.lowest, rate.highest)
        wait = f"{rate.wait_pct:.1f} %" if phase == "both" else ""
        rows.append((TITLES[phase], *(f"{speed:,.1f}" for speed in speeds), wait))
    return rows


def _plan_rows(plan: Sequence[PlanRow]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("GPU nodes", "GPUs", "images/s", "hours", "CPUs that read", "CPU nodes", "cost")]
    for row in plan:
        cost = "-" if row.cost is None else f"{row.cost:,.2f}"
        cells = (f"{row.images_per_s:,.0f}", f"{row.hours:,.2f}", f"{row.cpus:,.1f}", f"{row.cpu_nodes:,}", cost)
        rows.append((f"{row.gpu_nodes:,}", f"{row.gpus:,}", *cells))
    return rows


def _say_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        line = "  ".join(
            [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        )
        console.say(f"  {line}".rstrip())
