"""Decoded images on disk: uncompressed Arrow IPC files with rows of one size, and an index that is written last."""

from hpa_ray.shards.format import (
    CHECKSUMS_FILE,
    CHUNK_ROWS,
    INDEX_FILE,
    MANIFEST_FILE,
    ShardEntry,
    ShardIndex,
    SourceEntry,
    check_files,
    encode_shard,
    read_index,
    write_index,
)
from hpa_ray.shards.reader import ShardSource, open_shards

__all__ = [
    "CHECKSUMS_FILE",
    "CHUNK_ROWS",
    "INDEX_FILE",
    "MANIFEST_FILE",
    "ShardEntry",
    "ShardIndex",
    "ShardSource",
    "SourceEntry",
    "check_files",
    "encode_shard",
    "open_shards",
    "read_index",
    "write_index",
]
