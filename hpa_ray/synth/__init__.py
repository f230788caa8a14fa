"""The synthetic four-channel atlas: label sets + seed -> fields of cells in competition form."""

from hpa_ray.synth.atlas import DRAWING, draw_label_sets, sample_label_sets, write_atlas
from hpa_ray.synth.render import render_field

__all__ = ["DRAWING", "draw_label_sets", "render_field", "sample_label_sets", "write_atlas"]
