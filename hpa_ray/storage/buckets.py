"""Settings, environment and URI options -> an open bucket. Before: storage/objects.

obstore is the client: one GET per file where pyarrow and s3fs send a HEAD before it, 0.8 ms of CPU per image of 110 kB
against 1.3 and 4.3, and 6 ms to import (benchmarks/object_stores.py). It does not read ~/.aws, so what the environment
does not say is asked of botocore, which knows profiles, single sign-on and the roles of machines and renews them.
"""

import errno
import functools
import math
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from hpa_ray.errors import InputError
from hpa_ray.storage.retry import SLOWEST_BYTES_PER_S
from hpa_ray.storage.settings import Settings, settings
from hpa_ray.storage.uris import scheme_of, shown, split_query

OPTIONS = ("region", "endpoint_override", "scheme", "anonymous")
"""After the `?` of a URI, as pyarrow spells them; they go before settings and environment."""
ENVIRONMENT = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "HOME"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"),
    *("AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BASE_URL", "GOOGLE_SERVICE_ACCOUNT"),
)
"""A change of any of these opens buckets anew."""
SLOWEST_UPLOAD = 1e6
"""Bytes per second that an upload may always fall to: the answer to a put comes only after all its bytes went out."""
LARGEST_GET_BYTES = 8 * 2**20
"""Read by one request; more by several, so that a time limit for the whole request holds off no slow connection."""
KEYS_LAST = timedelta(minutes=5)
"""For which keys of a role are taken as valid: botocore renews them a quarter of an hour before they end."""
S3_HINT = (
    "set storage.access_key and storage.secret_key, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
    "for a public bucket storage.anonymous=true"
)
GS_HINT = (
    "set GOOGLE_APPLICATION_CREDENTIALS or run `gcloud auth application-default login`; "
    "for a public bucket storage.anonymous=true"
)


class Bucket:
    """Clients for one bucket and one set of keys; they differ in how long they wait for an answer."""

    def __init__(self, make: Callable[[float], Any], hint: str, *, has_keys: bool, deletes_many: bool = False) -> None:
        self.hint, self.has_keys, self.deletes_many = hint, has_keys, deletes_many
        """What to do if access is denied; whether requests are signed; whether one deletes many objects."""
        self.granted: set[str] = set()
        """Kinds of signed requests that were allowed: one that is refused later may have keys that ran out."""
        self.num_other_tags = 0
        """Objects whose e-tag looks like a checksum of their bytes, and was none."""
        self._make = make
        self._clients: dict[float, Any] = {}
        self._lock = threading.Lock()

    def client(self, num_bytes: int = 0) -> Any:
        """num_bytes: how much is about to be sent; the answer comes only after all of it went out."""
        longer = 1 + 2 * num_bytes / SLOWEST_UPLOAD / settings().timeout_s
        timeout_s = settings().timeout_s * 2 ** int(math.log2(longer))  # few different ones: each has its connections
        with self._lock:
            if timeout_s not in self._clients:
                self._clients[timeout_s] = self._make(timeout_s)
            return self._clients[timeout_s]

    def look_up_keys(self) -> None:
        """Those in use are refused; others may have been put in their place."""
        with self._lock:
            self._clients.clear()


def open_bucket(uri: str) -> tuple[Bucket, str]:
    """The bucket of a URI and the name in it.

    Raises InputError for options and settings that make no sense, PermissionError without credentials.
    """
    scheme = scheme_of(uri)
    base, query = split_query(uri)
    name, _, key = base.removeprefix(f"{scheme}://").partition("/")
    if "@" in name:
        raise InputError(f"{shown(uri)}: keys do not belong in an address - {GS_HINT if scheme != 's3' else S3_HINT}")
    if not name:
        raise InputError(f"{scheme}://: names no bucket - write {scheme}://BUCKET/FOLDER")
    environment = tuple(os.environ.get(variable) for variable in ENVIRONMENT)
    with _lock:
        return _open("s3" if scheme == "s3" else "gs", name, query, settings(), environment), key.strip("/")


_lock = threading.Lock()


@functools.lru_cache(maxsize=64)
def _open(scheme: str, name: str, query: str, given: Settings, environment: tuple[str | None, ...]) -> Bucket:
    options = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise InputError(f"{scheme}://{name}: unknown option {unknown[0]} - known are {', '.join(OPTIONS)}")
    anonymous = given.anonymous or options.get("anonymous", "").lower() in ("true", "1", "yes")
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    if scheme == "gs":
        return Bucket(functools.partial(_open_gs, name, endpoint, anonymous), GS_HINT, has_keys=not anonymous)
    hint = "it is not public - unset storage.anonymous and " + S3_HINT.partition(";")[0] if anonymous else S3_HINT
    make = functools.partial(_open_s3, name, options.get("region"), endpoint, anonymous, given)
    return Bucket(make, hint, has_keys=not anonymous, deletes_many=True)


def _open_s3(
    name: str, region: str | None, endpoint: str | None, anonymous: bool, given: Settings, timeout_s: float
) -> Any:
    from obstore.store import S3Store

    env = os.environ.get
    profile: dict[str, Any] = {}
    access: dict[str, Any] = {}
    if anonymous:
        # half a pair of keys in the environment would be an error even so; these are not used
        access = {"skip_signature": True, "access_key_id": "none", "secret_access_key": "none"}
    elif given.access_key or given.secret_key:
        if not (given.access_key and given.secret_key):
            raise InputError("storage.access_key and storage.secret_key belong together: give both or neither")
        access = _keys(given.access_key, given.secret_key, given.session_token)
    elif (key := env("AWS_ACCESS_KEY_ID")) and (secret := env("AWS_SECRET_ACCESS_KEY")):
        access = _keys(key, secret, env("AWS_SESSION_TOKEN"))
    else:
        access["credential_provider"], profile = _from_profile_or_role(f"s3://{name}")
    endpoint = endpoint or given.endpoint or env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL")
    endpoint = endpoint or profile.get("endpoint_url")
    region = region or given.region or env("AWS_REGION") or env("AWS_DEFAULT_REGION") or profile.get("region")
    if not region:
        region = "us-east-1" if endpoint else _region_of(name)
    if endpoint:
        access["endpoint"] = _checked(endpoint)
    return S3Store(name, region=region, **_client(endpoint, timeout_s), **access)


def _open_gs(name: str, endpoint: str | None, anonymous: bool, timeout_s: float) -> Any:
    from obstore.store import GCSStore

    endpoint = endpoint or os.environ.get("GOOGLE_BASE_URL")
    access: dict[str, Any] = {"skip_signature": True} if anonymous else {}
    if endpoint:
        access["base_url"] = _checked(endpoint)
    return GCSStore(name, **_client(endpoint, timeout_s), **access)


def _client(endpoint: str | None, timeout_s: float) -> dict[str, Any]:
    """Its own repeats are off, for ours are the ones that are counted, and repeat cut answers as well."""
    return {
        "retry_config": {"max_retries": 0},
        "client_options": {
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": f"{int(1000 * min(timeout_s, 10))}ms",
            "read_timeout": f"{int(1000 * timeout_s)}ms",  # without a byte
            "timeout": f"{int(1000 * (timeout_s + LARGEST_GET_BYTES / SLOWEST_BYTES_PER_S))}ms",  # drop by drop
        },
    }


def _keys(access_key: str, secret_key: str, session_token: str | None) -> dict[str, Any]:
    keys = {"access_key_id": access_key, "secret_access_key": secret_key, "token": session_token, "expires_at": None}
    # not as plain options: those the client would mix with the session token of the environment
    return {"credential_provider": lambda: keys}


def _from_profile_or_role(uri: str) -> tuple[Any, dict[str, Any]]:
    """What gives out keys when asked, and the settings of the profile; by botocore, whose import takes 0.4 s."""
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
    from botocore.session import Session  # type: ignore[import-untyped]

    try:
        session = Session()
        profile = session.get_scoped_config()
        credentials = session.get_credentials()
    except BotoCoreError as error:
        raise PermissionError(errno.EACCES, f"no credentials ({error}): {S3_HINT}", uri) from error
    if credentials is None:
        raise PermissionError(errno.EACCES, f"no credentials: {S3_HINT}", uri)

    def keys() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + KEYS_LAST,
        }

    return keys, profile


def _region_of(bucket: str) -> str:
    """Amazon tells anyone in which region a bucket is; where it can not be asked, the request itself will tell."""
    from pyarrow.fs import resolve_s3_region

    try:
        return str(resolve_s3_region(bucket))
    except OSError:
        return "us-east-1"


def _checked(endpoint: str) -> str:
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(
            f"storage.endpoint = {endpoint}: begins with neither http:// nor https:// - write http://HOST:PORT"
        )
    return endpoint.rstrip("/")
