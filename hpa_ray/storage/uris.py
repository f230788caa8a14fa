"""What a URI says by itself: where it leads, its parts, how it is shown. Before: storage/files."""

import os

QUERY_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "http", "https")
"""Where `?` begins options or a signature (s3://bucket/folder?region=eu-north-1); elsewhere it is part of a name."""


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """A local path made absolute (`~` expanded, file:// removed); any other URI without its trailing slash."""
    if not is_local(uri):
        base, query = split_query(uri)
        return _without_slash(base) + query
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def join(base: str, *parts: str) -> str:
    """A file in a folder; the query of the folder's URI goes with it."""
    base, query = split_query(base)
    return "/".join([_without_slash(base), *parts]) + query


def scheme_of(uri: str) -> str:
    return uri.partition("://")[0]


def split_query(uri: str) -> tuple[str, str]:
    """URI -> URI without its query, and the query with its `?`."""
    if scheme_of(uri) not in QUERY_SCHEMES:
        return uri, ""
    base, question, query = uri.partition("?")
    return base, question + query


def shown(uri: str) -> str:
    """As it may stand in a message: without a name and password, and without the query, which may be a signature.

    Of addresses within each other, as fsspec has them (zip://a::https://host/b), every one.
    """
    if "::" in uri and "://" in uri:
        return "::".join(map(shown, uri.split("::")))
    base, _ = split_query(uri)
    scheme, colon, rest = base.rpartition("://")
    host, slash, path = rest.partition("/")
    return scheme + colon + (host.rpartition("@")[2] if colon else host) + slash + path


def _without_slash(uri: str) -> str:
    scheme, colon, rest = uri.rpartition("://")
    return scheme + colon + rest.rstrip("/")
