"""Train classifiers of protein location on Human Protein Atlas images, from a laptop to a GPU cluster."""

__version__ = "0.1.0"
