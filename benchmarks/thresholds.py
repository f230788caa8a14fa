"""Which rule finds thresholds that hold on other images?

    uv run python benchmarks/thresholds.py --labels train.csv       # simulated models, two minutes
    uv run python benchmarks/thresholds.py --runs RUN RUN           # of run folders with a validation and a test part

Thresholds are found on a validation part and judged on a test part (held out). Simulated: 3,000 and 4,072 rows of the
label table, drawn anew for each seed; of each class a score that is normal with another mean where the class is there,
turned into the probability it stands for (`calibrated`), or into that of a model trained with class weights of
1 / sqrt(share) and too sure by half (`weighted`). Means over seeds, and standard errors of the difference to per_class.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from hpa_ray.checkpoint.judge import read_judged
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.labels import multi_hot
from hpa_ray.manifest import read_label_table
from hpa_ray.metrics import Fit, cross_fit, fit_thresholds, score_predictions

VAL, TEST = 3000, 4072
RULES: dict[str, Fit] = {
    "fixed": partial(fit_thresholds, "fixed"),
    "global": partial(fit_thresholds, "global"),
    "per_class": partial(fit_thresholds, "per_class"),
    **{f"per_class, shrinkage {s}": partial(fit_thresholds, "per_class", shrinkage=s) for s in (1, 3, 10, 30)},
    "share": partial(fit_thresholds, "share"),
}


def simulated(targets_NK: np.ndarray, *, weighted: bool, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities and truth of VAL + TEST rows, and the shares of the rows that are left."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets_NK))
    truth, rest = targets_NK[order[: VAL + TEST]], targets_NK[order[VAL + TEST :]]
    share = np.maximum(rest.mean(axis=0), 1e-5)
    distance = rng.uniform(1.5, 4.0, targets_NK.shape[1])
    evidence = distance * (distance * truth + rng.normal(size=truth.shape)) - distance**2 / 2
    logit = np.log(share / (1 - share)) + evidence
    if weighted:
        logit = 1.5 * (logit - 0.5 * np.log(share))
    return 1 / (1 + np.exp(-logit)), truth, rest.mean(axis=0)


def judged(
    val: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], shares: np.ndarray | None, rare: np.ndarray
) -> dict[str, list[float]]:
    """By rule: macro F1 held out, cross-fitted, on the images it was found on, and held out of the rare classes."""
    found = {}
    for name, fit in RULES.items():
        if name == "share" and shares is not None:
            fit = partial(fit_thresholds, "share", shares_K=shares)
        thresholds = fit(*val)
        keys = [str(row) for row in range(len(val[0]))]
        decisions = (test[0] >= thresholds, cross_fit(*val, keys, fit=fit), val[0] >= thresholds)
        scores = [
            score_predictions(z, y)["macro_f1"] for z, y in zip(decisions, (test[1], val[1], val[1]), strict=True)
        ]
        of_rare = score_predictions(decisions[0][:, rare], test[1][:, rare])["macro_f1"] if rare.any() else None
        found[name] = [float(value) if value is not None else float("nan") for value in (*scores, of_rare)]
    return found


def show(title: str, results: list[dict[str, list[float]]]) -> None:
    print(
        f"\n{title}, {len(results)} times\n\n| | held out | to per_class | cross-fitted | on itself | held out, rare |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name in RULES:
        values = np.array([result[name] for result in results])
        gain = values[:, 0] - np.array([result["per_class"][0] for result in results])
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
        held, cross, itself, rare = values.mean(axis=0)
        print(f"| {name} | {held:.3f} | {gain.mean():+.3f} ± {error:.3f} | {cross:.3f} | {itself:.3f} | {rare:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.labels:
        targets = multi_hot(read_label_table(str(arguments.labels)).labels.to_pylist())
        for weighted in (False, True):
            results = []
            for seed in range(arguments.seeds):
                p, y, shares = simulated(targets, weighted=weighted, seed=seed)
                results.append(judged((p[:VAL], y[:VAL]), (p[VAL:], y[VAL:]), shares, shares < 0.01))
            show("weighted" if weighted else "calibrated", results)
    if arguments.runs:
        results = []
        for run in arguments.runs:
            val, test = (read_judged(RunFolder(run), part) for part in ("val", "test"))
            rare = val.targets_NK.mean(axis=0) < 0.01
            pairs = [(part.probabilities_NK, part.targets_NK) for part in (val, test)]
            results.append(judged(pairs[0], pairs[1], None, rare))
        show("runs", results)


if __name__ == "__main__":
    main()
