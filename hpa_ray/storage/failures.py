"""What obstore raises -> errors of files, and which of them are worth a repeat. Before: storage/objects."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hpa_ray.storage.retry import Transient, is_passing
from hpa_ray.storage.settings import settings
from hpa_ray.storage.uris import shown

STATUS = re.compile(r"non-2xx status code: (\d{3})\s?([A-Za-z ]*)")
CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")  # of a request, of one key of a bulk deletion
CAUSE = re.compile(r'(?:message|error): "([^"]+)"')
TRANSIENT_CODES = {
    *("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted"),
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),  # what was sent has arrived changed
}
DENIED_CODES = {"AccessDenied", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
ROLE_SERVICES = ("169.254.169.254", "computeMetadata", "token request")


@contextmanager
def told(uri: str, hint: str, *, granted: bool) -> Iterator[None]:
    """Around one request of obstore. hint: what to do if access is denied; granted: it was not, at an earlier time."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise _missing(uri, str(error)) from error
    except ValueError as error:  # of a name that no object can have
        raise OSError(errno.EINVAL, _first_line(str(error)), shown(uri)) from error
    except BaseError as error:
        raise failure(uri, str(error), hint, granted=granted) from error


def failure(uri: str, message: str, hint: str, *, granted: bool) -> Exception:
    """Transient, or the error that ends the matter.

    A denial of what was granted before may pass: keys that ran out are renewed, by the store or by other programs.

    obstore has one exception for most failures: the status, the code of the service and the kind of a broken
    connection are only in its text, whose second part is the debug form of the inner error.
    """
    text, _, debug = message.partition("\n\nDebug source:")
    found = STATUS.search(text)
    status = int(found[1]) if found else None
    code = next((code[1] or code[2] for code in [CODE.search(text)] if code), "")
    reason = " ".join(str(word) for word in (status, code or (found[2].strip() if found else "")) if word)
    if (status and is_passing(status)) or code in TRANSIENT_CODES:
        return Transient(reason)
    denied = status in (401, 403) or code in DENIED_CODES or text.startswith("The operation lacked")
    if granted and (denied or (status == 400 and not code)):  # Amazon answers HEAD with expired keys by 400 and no code
        return Transient(reason or _first_line(text), hint=hint)
    if denied:
        return PermissionError(errno.EACCES, f"access denied ({reason or _first_line(text)}): {hint}", shown(uri))
    if any(service in text for service in ROLE_SERVICES):  # no keys, and this machine has no role either
        return PermissionError(errno.EACCES, f"no credentials: {hint}", shown(uri))
    if status == 404:
        return _missing(uri, text)
    if status == 412:
        return OSError(errno.EIO, "was replaced while it was being read", shown(uri))
    if status == 416:
        return Transient("the range is not in the file")  # its size was asked before: it is being replaced
    if "redirect" in text.lower() or status in (301, 307, 308) or code == "AuthorizationHeaderMalformed":
        return OSError(errno.EIO, "the bucket is in another region: set storage.region or AWS_REGION", shown(uri))
    if status or "invalid path" in text or "builder error" in text:
        return OSError(errno.EIO, reason or _first_line(text), shown(uri))
    return Transient(_broken(text, debug))


def _broken(text: str, debug: str) -> str:
    """Why a connection gave no whole answer."""
    if "kind: Timeout" in debug or "TimedOut" in debug:
        return f"no answer within {settings().timeout_s:g} s (storage.timeout_s)"
    if "IncompleteBody" in debug:
        return "the answer was cut short"
    cause = CAUSE.search(debug)
    if "kind: Connect" in debug:
        return f"no connection ({cause[1] if cause else _first_line(text)})"
    return f"connection lost ({cause[1]})" if cause else _first_line(text)


def _missing(uri: str, text: str) -> FileNotFoundError:
    no_bucket = "NoSuchBucket" in text
    what = "there is no such bucket" if no_bucket else os.strerror(errno.ENOENT)
    return FileNotFoundError(errno.ENOENT, what, shown(uri))


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]
