"""Figures from plain arrays, ready for a paper. Importing it imports matplotlib: do so late, in a verb's function.

Before: labels, channels, known. After: explore, train, analysis, tune, cli.
"""

from hpa_ray.figures.augmented import augmented
from hpa_ray.figures.classes import class_distribution, class_shares, labels_per_image
from hpa_ray.figures.colour import CONTRAST_RULE, merge_rgb, thumbnail
from hpa_ray.figures.curves import curves
from hpa_ray.figures.embedding import embedding_map
from hpa_ray.figures.layers import layers_figure
from hpa_ray.figures.matrices import confusion_heatmap, cooccurrence, correlation, correlation_pair
from hpa_ray.figures.overlay import overlay
from hpa_ray.figures.pixels import intensity_histograms, montage
from hpa_ray.figures.runs import feed, run_curves, score_differences
from hpa_ray.figures.scores import pr_curves, reliability, threshold_dots
from hpa_ray.figures.study import class_effects, effect_dots, final_differences, parallel_trials, study_curves
from hpa_ray.figures.style import as_jpeg, figure_png, figure_svg

__all__ = [
    "CONTRAST_RULE",
    "as_jpeg",
    "augmented",
    "class_distribution",
    "class_effects",
    "class_shares",
    "confusion_heatmap",
    "cooccurrence",
    "correlation",
    "correlation_pair",
    "curves",
    "effect_dots",
    "embedding_map",
    "feed",
    "figure_png",
    "figure_svg",
    "final_differences",
    "intensity_histograms",
    "labels_per_image",
    "layers_figure",
    "merge_rgb",
    "montage",
    "overlay",
    "parallel_trials",
    "pr_curves",
    "reliability",
    "run_curves",
    "score_differences",
    "study_curves",
    "threshold_dots",
    "thumbnail",
]
