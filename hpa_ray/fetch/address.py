"""The pattern of the addresses of image files: checked once, then filled for each Id and stain. After: fetch/unit."""

import posixpath
import string
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from hpa_ray.errors import InputError
from hpa_ray.manifest.folder import EXTENSIONS

FIELDS = ("id", "first", "rest", "color")
CONTENT_TYPES = {"image/jpeg": "jpg", "image/jpg": "jpg", "image/png": "png", "image/tiff": "tif"}
"""Format by what the server says of a file whose address does not end in one."""


@dataclass(frozen=True)
class Address:
    pattern: str
    fields: frozenset[str]

    def url(self, image_id: str, stain: str) -> str:
        first, _, rest = image_id.partition("_")
        parts = {"id": image_id, "first": first, "rest": rest, "color": stain}
        return self.pattern.format_map({name: quote(part, safe="") for name, part in parts.items()})

    def extension(self, content_type: str) -> str | None:
        """Of the files: what the address ends in, else what the content type says; None if neither is a known one."""
        ending = posixpath.splitext(urlsplit(self.pattern).path)[1].lstrip(".").lower()
        return ending if ending in EXTENSIONS else CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())

    def check_ids(self, image_ids: Sequence[str]) -> None:
        """Raises InputError if an Id has no two parts but the pattern wants them."""
        if not self.fields & {"first", "rest"}:
            return
        whole = [image_id for image_id in image_ids if not all(image_id.partition("_"))]
        if whole:
            raise InputError(
                f"fetch.url = {self.pattern}: {len(whole)} Ids such as {whole[0]!r} have nothing before and after a "
                "first underscore to put in the place of {first} and {rest} - use {id}, or another label table"
            )


def parse_address(pattern: str) -> Address:
    """Raises InputError for a pattern that is no web address, or does not tell all files from each other."""

    def wrong(reason: str) -> InputError:
        return InputError(f"fetch.url = {pattern}: {reason}")

    try:
        pieces = list(string.Formatter().parse(pattern))
        parts = urlsplit(pattern)
    except ValueError as error:
        raise wrong(f"{error} - write fields as in https://host/{{id}}_{{color}}.jpg") from error
    fields = {name for _, name, _, _ in pieces if name is not None}
    unknown = sorted(fields - set(FIELDS))
    if unknown:
        raise wrong(f"unknown field {{{unknown[0]}}} - there are {', '.join(f'{{{name}}}' for name in FIELDS)}")
    if any(spec or conversion for _, _, spec, conversion in pieces):
        raise wrong("a field is a name alone, without ! or :")
    if parts.scheme not in ("http", "https") or not parts.hostname or "{" in parts.netloc:
        raise wrong("is no web address - it begins with http:// or https:// and the name of a server")
    if "@" in parts.netloc:
        raise wrong("has a user name in it, which would be written to fetch.json - leave it out")
    if "color" not in fields:
        raise wrong("has no {color}, so the four stains would be one file")
    if not (("id" in fields) or {"first", "rest"} <= fields):
        raise wrong("has neither {id} nor both {first} and {rest}, so all images would be one file")
    return Address(pattern, frozenset(fields))
