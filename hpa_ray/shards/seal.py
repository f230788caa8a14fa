"""JSON that carries a checksum of itself: what a disk has changed in it is told from what was written.

Of the values, not of the bytes: blanks between them may change, and the file may be laid out anew.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpa_ray.redact import redacted

SEAL = "checksum"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same, as it will stand in the file, with a checksum of all that is in it."""
    content = redacted(dict(content))  # what write_json would leave out must not be in the checksum
    return {**content, SEAL: _digest(content)}


def is_intact(content: Any) -> bool:
    """Whether it is an object with a checksum, and this is the checksum of the rest."""
    if not isinstance(content, dict):
        return False
    rest = {name: value for name, value in content.items() if name != SEAL}
    return content.get(SEAL) == _digest(rest)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
