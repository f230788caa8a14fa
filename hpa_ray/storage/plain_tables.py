"""Arrow and Parquet files that others may have made -> tables of plain types. After: shards, fetch.

Both formats can name a type of the program that wrote them. Any library of this process may have registered that name,
and then makes the type from bytes in the file: of Ray Data's pickled objects, reading a value runs code. So the names
are put out of sight, and a column is what it is stored as.
"""

import pyarrow as pa
import pyarrow.parquet as pq

TYPE_NAME, SCHEMA = b"ARROW:extension:name", b"ARROW:schema"
"""What a field of an Arrow file, and a whole Parquet file, have the names of types under."""


def read_arrow(content: bytes) -> pa.Table:
    """Raises pa.ArrowException or OSError for what is no Arrow file."""
    return pa.ipc.open_file(content.replace(TYPE_NAME, TYPE_NAME.lower())).read_all()


def read_parquet(content: bytes) -> pa.Table:
    """Raises pa.ArrowException or OSError for what is no Parquet file."""
    return pq.read_table(pa.BufferReader(content.replace(SCHEMA, SCHEMA.lower())))
