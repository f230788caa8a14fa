"""How fast data are read and trained on where a training would run, and what follows. Before: train. After: cli.

Imports torch only where something is measured.
"""

from hpa_ray.bench.plan import PlanRow, make_plan
from hpa_ray.bench.rates import PHASES, Measured, Phase, Rate, Window
from hpa_ray.bench.run import run_bench
from hpa_ray.bench.verdict import Verdict, in_words, judge

__all__ = [
    "PHASES",
    "Measured",
    "Phase",
    "PlanRow",
    "Rate",
    "Verdict",
    "Window",
    "in_words",
    "judge",
    "make_plan",
    "run_bench",
]
