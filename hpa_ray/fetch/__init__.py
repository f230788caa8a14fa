"""Images from a web server, a few requests a second, into a folder that training takes. Before: manifest, ingest."""

from hpa_ray.fetch.address import Address, parse_address
from hpa_ray.fetch.choose import Choice, choose, class_gains, parse_classes
from hpa_ray.fetch.download import download
from hpa_ray.fetch.folder import Standing, Summary, look, source_of
from hpa_ray.fetch.kaggle import fetch_competition
from hpa_ray.fetch.line import Manners

__all__ = [
    "Address",
    "Choice",
    "Manners",
    "Standing",
    "Summary",
    "choose",
    "class_gains",
    "download",
    "fetch_competition",
    "look",
    "parse_address",
    "parse_classes",
    "source_of",
]
