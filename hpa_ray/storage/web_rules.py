"""What an answer of a web server may not do: lead elsewhere, or go on without end. Before: storage/web, fetch/line.

Who names a server trusts it with a request to itself. A redirect is followed to other servers, but never down from
https to http, to another scheme, or further inside: from the internet to this network, from there to this machine, and
from anywhere else to the link-local addresses at which clouds hand out their keys. Names are looked up for that; a name
that changes its address between this look and the request is not noticed.
"""

import errno
import ipaddress
import socket
from urllib.parse import urlsplit

import requests

from hpa_ray.storage.uris import shown

MAX_REDIRECTS = 5
LARGEST_BYTES = 4 * 2**30
"""Of a file that is read whole: tables and weights are smaller, shards are read in parts."""
MAX_GROWTH = 100
"""Times its length on the way that an answer may have when it is unpacked; text shrinks to a tenth, bombs to a
thousandth."""
SMALL_BYTES = 2**20
"""May grow as it likes."""


def check_redirect(before: str, after: str) -> None:
    """Raises ValueError with the reason for not going there."""
    here, there = urlsplit(before), urlsplit(after)
    where = f"redirected to {shown(after):.100}"
    if there.scheme not in ("http", "https") or not there.hostname:
        raise ValueError(f"{where}, which is no web address")
    if here.scheme == "https" and there.scheme == "http":
        raise ValueError(f"{where}, from https to http - name that address yourself if it is right")
    if there.hostname != here.hostname and _inside(there.hostname) > _inside(here.hostname or ""):
        raise ValueError(f"{where}, an inner address - name it yourself if it is right")


def _inside(host: str) -> int:
    """0: of the internet, 1: of this network, 2: of this machine, 3: link-local; the furthest inside of several."""
    try:
        found = {str(address[0]).partition("%")[0] for *_, address in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # nobody will be reached there, or only by a proxy, which looks for itself
        return 0
    return max(map(_depth, found))


def _depth(text: str) -> int:
    address = ipaddress.ip_address(text)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_link_local:
        return 3
    if address.is_loopback or address.is_unspecified:
        return 2
    return 0 if address.is_global else 1


def check_size(answer: requests.Response, num_bytes: int, at_most: int = LARGEST_BYTES) -> None:
    """Called while a body arrives, with what there is of it, unpacked. Raises OSError if it must not go on."""
    if num_bytes > at_most:
        raise OSError(errno.EFBIG, f"the answer has more than {at_most:,} bytes", shown(answer.url))
    if num_bytes > MAX_GROWTH * answer.raw.tell() + SMALL_BYTES:
        reason = f"the answer grows to more than {MAX_GROWTH} times its length when it is unpacked"
        raise OSError(errno.EFBIG, reason, shown(answer.url))


def cause(error: BaseException) -> str:
    """The name and text of the innermost error: those around it repeat the address, and that may be a signature."""
    inner: BaseException = error
    while following := inner.__cause__ or inner.__context__ or next(iter(inner.args), None):
        if not isinstance(following, BaseException):
            break
        inner = following
    return f"{type(inner).__name__}: {inner}"[:200]
