"""Images that are all but the same: hashes per stain, pairs within a distance, groups. After: manifest/split, join.

A split that puts one of two copies into training and the other into the test part measures memory, not skill.
"""

from hpa_ray.duplicates.find import Found, find_duplicates
from hpa_ray.duplicates.hashes import hash_images
from hpa_ray.duplicates.read import SIDE_PX, Hashes, hashes_of

__all__ = ["SIDE_PX", "Found", "Hashes", "find_duplicates", "hash_images", "hashes_of"]
