"""Where the numbers of a run come from -> sections: data, speed, machine, settings. Before: files. After: run_page."""

import shlex
from typing import Any

import numpy as np

from hpa_ray.config import Config, config_tree
from hpa_ray.labels import CLASS_NAMES, NUM_CLASSES
from hpa_ray.page import Block, Card, Cards, Code, Column, Details, Figure, Problems, Section, Table, Text
from hpa_ray.page.sections import Cell
from hpa_ray.report.contents import DataFacts, RunFiles
from hpa_ray.report.parts import chart, photo, word

LISTED_REJECTS = 50
WHERE = ("data.images", "data.labels", "data.shards", "data.split", "data.fold", "split.parts", "split.seed")


def data_section(run: RunFiles) -> Section:
    """Parts, images per class and part, near copies, what was left out."""
    keys = {key: value for key, value in flat(run.config).items() if key in WHERE and value is not None}
    blocks: list[Block] = []
    if run.data is not None:
        total = sum(part.images for part in run.data.parts.values())
        blocks.append(Cards([Card(name, part.images, f"{part.images / max(total, 1):.0%} of the images")
                             for name, part in run.data.parts.items()]))  # fmt: skip
        if len(run.data.parts) > 1 and total:
            blocks.append(_shares(run.data))
    counts = class_counts(run)
    if keys:
        blocks.append(Table(["setting", "value"], [[key, str(value)] for key, value in keys.items()]))
    if run.config:
        groups = (run.config.get("data") or {}).get("groups")
        blocks.append(
            Text(
                f"Images of one group of {groups} lie in one part only, so near copies do not flatter the scores."
                if groups
                else """No groups of near copies were given (data.groups): images that are all but the same may lie in
                different parts and flatter the scores. `hpa-ray duplicates` finds them."""
            )
        )
    if counts:
        rows: list[list[Cell]] = [
            [k, CLASS_NAMES[k], *(column[k] for column in counts.values())] for k in range(NUM_CLASSES)
        ]
        heads = [Column(name, ",", bar=True) for name in counts]
        caption = "Images of each class, by part"
        note = "" if "train" in counts else " (of the training part the run folder does not tell)"
        blocks.append(Table(["class", "name", *heads], rows, caption=caption + note))
    if run.data is not None and run.data.notes:
        blocks.append(Problems(run.data.notes, level="note"))
    if run.rejects is None:
        blocks.append(Text("No image was left out."))
    else:
        lines = [f"{image_id}  {file}: {reason}" for image_id, file, reason in run.rejects[:LISTED_REJECTS]]
        blocks.append(Text(f"Left out, as they could not be used: {len(run.rejects):,} files."))
        blocks.append(Problems(lines, total=len(run.rejects), none="No image was left out."))
    return Section("Data", blocks)


def _shares(data: DataFacts) -> Figure:
    """How alike the parts are."""
    from hpa_ray import figures  # late: it imports matplotlib

    counts = {name: np.array(part.classes) for name, part in data.parts.items()}
    drawing = figures.class_shares(counts, {name: part.images for name, part in data.parts.items()})
    caption = (
        "Left: the share of each part's images that have a class. Right: how far that is from the share in all parts; "
        "the gray bar is what whole images allow."
    )
    return chart(drawing, caption, alt="Shares of the classes by part, and their deviation from the whole.")


def class_counts(run: RunFiles) -> dict[str, list[int]]:
    """Images of each class by part, as far as they are known."""
    if run.data is not None:
        return {name: part.classes for name, part in run.data.parts.items()}
    known = {name: run.parts[name] for name in ("val", "test", "oof") if name in run.parts}
    return {name: part.target_NK.sum(axis=0).tolist() for name, part in known.items() if part.target_NK is not None}


def speed_section(run: RunFiles) -> Section:
    """Reading against computing."""
    title = "Data against device time"
    lines = [line for line in run.lines if "images_per_s" in line and "data_wait_pct" in line]
    if not lines:
        return Section(title, [Text("The run folder has no metrics.jsonl with speeds, so this is left out.")])
    from hpa_ray import figures  # late: it imports matplotlib

    speeds, waits = [line["images_per_s"] for line in lines], [line["data_wait_pct"] for line in lines]
    firsts = [line["first_batch_s"] for line in lines if "first_batch_s" in line]
    cards = [
        Card("images per second", f"{np.median(speeds):,.0f}", "median over epochs, all workers"),
        Card("waiting for data", f"{np.median(waits):.1f} %", f"of the time; at worst {max(waits):.1f} %"),
    ]
    if firsts:
        cards.append(Card("first batch", f"{firsts[0]:.2g} s", "from the start of the first epoch"))
    if (repeats := run.score("storage_retries", "val")) is not None:
        cards.append(Card("requests repeated", int(repeats), "by the storage, in all"))
    drawing = figures.feed([int(line["epoch"]) for line in lines], speeds, waits)
    caption = "Speed of training, and the share of the time in which the device waited for the next batch, by epoch."
    alt = (
        f"Bars by epoch: {min(speeds):.0f} to {max(speeds):.0f} images per second, {max(waits):.1f} % waiting at most."
    )
    blocks: list[Block] = [Cards(cards), chart(drawing, caption, alt=alt)]
    names = (
        "epoch",
        "images_per_s",
        "data_wait_pct",
        "first_batch_s",
        "train_loss",
        "val_loss",
        "macro_f1_tuned",
        "lr",
        "wall_s",
    )
    rows: list[list[Cell]] = [[int(line["epoch"]), *(line.get(name) for name in names[1:])] for line in run.lines]
    table = Table(["epoch", "images/s", "waiting %", "first batch s", "loss", "validation loss", "macro F1 tuned",
                   Column("learning rate", ".3g"), "seconds so far"], rows)  # fmt: skip
    return Section(title, [*blocks, Details("Every epoch in numbers", [table])])


def settings_section(run: RunFiles) -> Section:
    """The command, the machine, what differs from the defaults, and how the run began."""
    blocks: list[Block] = []
    found = run.environment
    if found is not None and found.command:
        blocks += [Text("The command:"), Code(command_line(found.command))]
    if found is not None:
        gpus = ", ".join(found.gpus) or "none"
        machine = {
            "Python": found.python,
            "platform": found.platform,
            "CPUs": str(found.cpus or "unknown"),
            "GPUs": gpus,
        }
        blocks.append(Table(["machine and packages", ""], list((machine | found.packages).items())))
    else:
        blocks.append(Text("The run folder has no environment.json, so machine, packages and command are not known."))
    if run.config:
        changed = changed_settings(run.config)
        cells: list[list[Cell]] = [[key, value, default] for key, value, default in changed]
        caption = "Settings that differ from the defaults of this version"
        blocks.append(Table(["key", "value", "default"], cells, caption=caption))
    else:
        blocks.append(Text("The run folder has no config.yaml, so the settings are not known."))
    if "augmented" in run.figures:
        picture = photo(
            run.figures["augmented"],
            "Images of the first batch: as they are, then as the model may see them.",
            alt="Samples of training images beside their augmented versions.",
            width_px=900,
        )
        blocks.append(Details("Augmented samples", [picture]))
    if "layers" in run.figures:
        picture = photo(run.figures["layers"], "", alt="Diagram of the layers of the model.", width_px=700)
        blocks.append(Details("Layers of the model", [picture]))
    return Section("Settings and machine", blocks)


def command_line(words: list[str]) -> str:
    """As it would be typed again."""
    program, rest = words[0], words[1:]
    if program.endswith(".py") and program != "__main__.py":
        return f"python jobs/{program} {shlex.join(rest)}".strip()
    return f"hpa-ray {shlex.join(rest)}"


def changed_settings(tree: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value, default) of a stored configuration; the default of a key of another version is `unknown`."""
    defaults = flat(config_tree(Config()))
    found = []
    for key, value in flat(tree).items():
        if key not in defaults:
            found.append((key, word(value), "unknown"))
        elif value != defaults[key]:
            found.append((key, word(value), word(defaults[key])))
    return found


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Sections of keys -> dotted keys."""
    return {f"{section}.{name}": value for section, values in tree.items() for name, value in values.items()}
