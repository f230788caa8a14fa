"""What to read from the numbers of a run, in a few sentences. Before: report/files. After: report/run_page."""

import numpy as np

from hpa_ray.labels import CLASS_NAMES, NUM_CLASSES
from hpa_ray.report.contents import PART_NAMES, RunFiles

FEW_IMAGES = 10
"""Images of a class below which its own scores say next to nothing."""
GAP = 0.15
"""Of macro F1 at 0.5 between training and validation: more is called overfitting."""
WAIT_PCT = 10.0
NAMED = 8


def in_words(run: RunFiles) -> list[str]:
    """Sentences, the most important first; none about what is not known."""
    return [text for text in (_against_floor(run), _missed(run), _few(run), _overfitting(run), _waiting(run)) if text]


def how_ended(run: RunFiles) -> str:
    """Empty for a run that came to its end."""
    status = run.summary.get("status")
    if "epochs" not in run.summary and run.summary.get("kind") != "crossval":
        return "There is no summary.json: the run has not finished an epoch, or the file was deleted."
    if status in (None, "done"):
        return ""
    reason = run.summary.get("reason")
    more = f" ({reason})" if reason else ""
    return f"The run is not at its end: its status is {status}{more}, and all that is here is of the epochs so far."


def _against_floor(run: RunFiles) -> str:
    value, floor = run.score("macro_f1_tuned"), run.score("floor_macro_f1")
    if value is None:
        return ""
    part = PART_NAMES[run.main]
    text = f"On the {part} the model reaches a macro F1 of {value:.3f} with its thresholds"
    pair = run.interval("macro_f1_tuned")
    text += f" (95 % interval {pair[0]:.3f} to {pair[1]:.3f})" if pair else ""
    present, num = run.score("macro_f1_present_tuned"), run.score("num_present_classes")
    if present is not None and num is not None and num < NUM_CLASSES:
        text += f", over the {num:.0f} classes that are there {present:.3f}"
    if floor is None:
        return f"{text}."
    if value <= floor:
        return (
            f"{text}. That is no more than the {floor:.3f} of predicting the same classes for every image: it has "
            "learnt nothing that shows; train longer, or look at the learning rate and the labels."
        )
    if pair and pair[0] <= floor:
        return f"{text}; the best constant prediction, {floor:.3f}, lies within the interval."
    return f"{text}, against {floor:.3f} of the best constant prediction."


def _missed(run: RunFiles) -> str:
    part = run.parts.get(run.main)
    if part is None or part.target_NK is None:
        return ""
    hit_K = (part.predicted_NK & part.target_NK).sum(axis=0)
    there_K = part.target_NK.sum(axis=0)
    missed = [k for k in np.argsort(there_K, kind="stable") if there_K[k] and not hit_K[k]]
    if not missed:
        return f"Each of the {int((there_K > 0).sum())} classes that are there has at least one right prediction."
    listed = ", ".join(f"{CLASS_NAMES[k]} ({there_K[k]})" for k in missed[:NAMED])
    more = f" and {len(missed) - NAMED} more" if len(missed) > NAMED else ""
    number = f"{len(missed)} classes have" if len(missed) > 1 else "One class has"
    return f"{number} no right prediction (images in brackets): {listed}{more}."


def _few(run: RunFiles) -> str:
    part = run.parts.get(run.main)
    if part is None or part.target_NK is None:
        return ""
    there_K = part.target_NK.sum(axis=0)
    few, none = int(((there_K > 0) & (there_K < FEW_IMAGES)).sum()), int((there_K == 0).sum())
    texts = []
    if few:
        texts.append(f"{few} of {NUM_CLASSES} classes have fewer than {FEW_IMAGES} images here: one image more or less "
                     "moves their scores, and the macro F1, visibly")  # fmt: skip
    if none:
        which = f"{none} {'have' if none > 1 else 'has'}" if few else f"{none} of {NUM_CLASSES} classes have"
        texts.append(f"{which} none, and count as 0 in the macro F1")
    return f"{'; '.join(texts)}." if texts else ""


def _overfitting(run: RunFiles) -> str:
    if not run.lines:
        return ""
    best = run.summary.get("best_epoch", run.lines[-1]["epoch"])
    line = next((one for one in run.lines if one["epoch"] == best), run.lines[-1])
    train, val, last = line.get("train_macro_f1"), line.get("macro_f1"), run.lines[-1]["epoch"]
    late = f" The best epoch is the last ({best:g}): more epochs may help." if best == last and last > 1 else ""
    if train is None or val is None:
        return late.strip()
    if train - val > GAP:
        return (
            f"Overfitting: at threshold 0.5 the macro F1 is {train:.2f} on training images and {val:.2f} on validation "
            "images. Stronger augmentation (augment.preset), weight decay, or fewer epochs are worth a try."
        )
    return f"Training and validation lie close together (macro F1 at 0.5: {train:.2f} and {val:.2f}).{late}"


def _waiting(run: RunFiles) -> str:
    waits = [line["data_wait_pct"] for line in run.lines if "data_wait_pct" in line]
    if not waits or max(waits[1:] or waits) <= WAIT_PCT:
        return ""
    shards = bool((run.config.get("data") or {}).get("shards"))
    what = (
        "More train.prefetch_batches, more CPUs that read, or shards on a faster disk would help; `hpa-ray bench` "
        "measures which."
        if shards
        else "Prepare the images once (`hpa-ray prepare`) and train on the shards: that reads at the speed of memory."
    )
    return f"The device waited for data {np.median(waits):.0f} % of the time (at worst {max(waits):.0f} %). {what}"
