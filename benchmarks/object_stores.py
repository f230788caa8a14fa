"""Which client reads images and shards from a bucket best? Each in a process of its own, against a local S3 service.

    uv run python benchmarks/object_stores.py            # two minutes
    uv run python benchmarks/object_stores.py --listed 125000 --clients obstore

The service (moto) answers some 300 requests a second, so images per second say little beyond that; what a client costs
is its CPU time per object and the requests that the service counts for one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from object_store import ObjectStore, object_store

BUCKET = "bench"
RANGE_BYTES = 8 * 2**20


class Client(NamedTuple):
    """The four things that storage asks of a client."""

    read: Callable[[str], bytes]
    read_range: Callable[[str, int, int], bytes]
    write: Callable[[str, bytes], Any]
    list: Callable[[str], int]


def pyarrow_client(endpoint: str) -> Client:
    from pyarrow import fs

    s3 = fs.S3FileSystem(endpoint_override=endpoint, region="us-east-1")

    def read(key: str) -> bytes:
        with s3.open_input_file(f"{BUCKET}/{key}") as file:
            return bytes(file.read())

    def read_range(key: str, start: int, length: int) -> bytes:
        with s3.open_input_file(f"{BUCKET}/{key}") as file:
            return bytes(file.read_at(length, start))

    def write(key: str, data: bytes) -> None:
        with s3.open_output_stream(f"{BUCKET}/{key}") as stream:
            stream.write(data)

    return Client(read, read_range, write, lambda prefix: len(s3.get_file_info(fs.FileSelector(f"{BUCKET}/{prefix}"))))


def s3fs_client(endpoint: str) -> Client:
    import s3fs

    s3 = s3fs.S3FileSystem(endpoint_url=endpoint)
    return Client(
        lambda key: s3.cat_file(f"{BUCKET}/{key}"),
        lambda key, start, length: s3.cat_file(f"{BUCKET}/{key}", start=start, end=start + length),
        lambda key, data: s3.pipe_file(f"{BUCKET}/{key}", data),
        lambda prefix: len(s3.ls(f"{BUCKET}/{prefix}", refresh=True)),
    )


def obstore_client(endpoint: str) -> Client:
    import obstore
    from obstore.store import S3Store

    s3 = S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    return Client(
        lambda key: bytes(obstore.get(s3, key).bytes()),
        lambda key, start, length: bytes(obstore.get_range(s3, key, start=start, length=length)),
        lambda key, data: obstore.put(s3, key, data, use_multipart=False),
        lambda prefix: sum(len(page) for page in obstore.list(s3, prefix, chunk_size=1000)),
    )


def botocore_client(endpoint: str) -> Client:
    from botocore.config import Config
    from botocore.session import Session

    config = Config(max_pool_connections=16, retries={"total_max_attempts": 1})
    s3 = Session().create_client("s3", endpoint_url=endpoint, config=config)

    def read_range(key: str, start: int, length: int) -> bytes:
        answer = s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={start}-{start + length - 1}")
        return bytes(answer["Body"].read())

    def pages(prefix: str) -> Iterator[int]:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/"):
            yield len(page["Contents"])

    return Client(
        lambda key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(),
        read_range,
        lambda key, data: s3.put_object(Bucket=BUCKET, Key=key, Body=data),
        lambda prefix: sum(pages(prefix)),
    )


CLIENTS = {"obstore": obstore_client, "pyarrow": pyarrow_client, "s3fs": s3fs_client, "botocore": botocore_client}


def measure(name: str, endpoint: str, args: argparse.Namespace) -> dict[str, float]:
    """What one client costs; in a fresh process."""
    store = ObjectStore(endpoint)
    result: dict[str, float] = {}
    start = time.perf_counter()
    client = CLIENTS[name](endpoint)
    client.read("images/000000")
    result["first read s"] = time.perf_counter() - start
    keys = [f"images/{number:06d}" for number in range(args.objects)]
    with ThreadPoolExecutor(args.in_flight) as pool:
        list(pool.map(client.read, keys[: 2 * args.in_flight]))  # connections
        store.server_counts()
        walls, cpus = [], []
        for _ in range(args.repeats):
            start, cpu = time.perf_counter(), time.process_time()
            sizes = list(pool.map(lambda key: len(client.read(key)), keys))
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - cpu)
            assert sizes == [args.object_bytes] * len(keys)
        requests = store.server_counts()
        reads = args.repeats * len(keys)
        result["images/s"] = len(keys) / min(walls)
        result["CPU ms/image"] = 1000 * min(cpus) / len(keys)
        result["GET/image"] = requests.get("GET", 0) / reads
        result["HEAD/image"] = requests.get("HEAD", 0) / reads

        big = os.urandom(args.big_bytes)
        start = time.perf_counter()
        client.write("big", big)
        result["write MB/s"] = len(big) / 1e6 / (time.perf_counter() - start)
        result["write requests"] = sum(store.server_counts().values())
        starts = range(0, len(big), RANGE_BYTES)
        start = time.perf_counter()
        parts = list(pool.map(lambda at: client.read_range("big", at, min(RANGE_BYTES, len(big) - at)), starts))
        result["ranges MB/s"] = len(big) / 1e6 / (time.perf_counter() - start)
        result["requests/range"] = sum(store.server_counts().values()) / len(starts)
        assert b"".join(parts) == big
    start, cpu = time.perf_counter(), time.process_time()
    assert client.list("listed") == args.listed
    result["list objects/s"] = args.listed / (time.perf_counter() - start)
    result["list CPU us/object"] = 1e6 * (time.process_time() - cpu) / args.listed
    result["list requests"] = sum(store.server_counts().values())
    return result


def import_seconds(module: str) -> float:
    """Beyond what every process of hpa_ray imports anyway."""
    code = f"import pyarrow, time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))


MODULES = {"obstore": "obstore.store", "pyarrow": "pyarrow.fs", "s3fs": "s3fs", "botocore": "botocore.session"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", default=list(CLIENTS), choices=CLIENTS)
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--object-bytes", type=int, default=110_000)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--big-bytes", type=int, default=128 * 10**6)
    parser.add_argument("--listed", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("CLIENT", "ENDPOINT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args)))
        return
    results: dict[str, dict[str, float]] = {}
    with object_store() as store:
        store.create_bucket(BUCKET)
        store.fill(BUCKET, "images/", args.objects, args.object_bytes)
        store.fill(BUCKET, "listed/", args.listed, 1)
        environment = {**os.environ, **store.environment(direct=True)}
        for name in args.clients:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", name, store.endpoint]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            results[name] = {"import s": import_seconds(MODULES[name]), **json.loads(done.stdout)}
    show(results)


def show(results: dict[str, dict[str, float]]) -> None:
    first = next(iter(results))
    print(f"{'':20}" + "".join(f"{name:>12}" for name in results))
    for row in results[first]:
        print(f"{row:20}" + "".join(f"{values[row]:12.3g}" for values in results.values()))
    for name in list(results)[1:]:
        ratios = {row: results[name][row] / results[first][row] for row in ("CPU ms/image", "images/s")}
        requests = results[name]["GET/image"] + results[name]["HEAD/image"]
        print(
            f"{name} against {first}: {ratios['CPU ms/image']:.1f} x the CPU per image, "
            f"{ratios['images/s']:.2f} x the images/s, {requests:.2g} requests per image"
        )


if __name__ == "__main__":
    main()
