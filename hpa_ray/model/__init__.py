"""Classifiers: any backbone of torchvision or timm, or one of ours, for any stains, with pretrained weights or without.

build: configuration -> Classifier. backbones, own, timm_models: the networks. pooling, weights, adapt: what changes in
them. classifier: the module that trains and is stored. layers: its rows for a table. Before: channels, config, storage.
After: loss, checkpoint, train.
"""

from hpa_ray.model.build import build_model
from hpa_ray.model.classifier import Classifier
from hpa_ray.model.layers import Layer, layer_table

__all__ = ["Classifier", "Layer", "build_model", "layer_table"]
