"""`fetch` against a loopback web server with real sockets: every fault survived, the pace kept, nothing asked twice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from web_server import KINDS, Faults, WebServer, jpeg_of, web_server

from hpa_ray.channels import STAINS
from hpa_ray.cli.main import main
from hpa_ray.errors import InputError
from hpa_ray.fetch import Manners, Summary, choose, download, folder, look, parse_address, source_of
from hpa_ray.manifest import read_label_table

QUICK = Manners(requests_per_s=400, max_attempts=4, timeout_s=0.3, backoff_s=0.02, max_pause_s=0.15)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def write_labels(path: Path, num_images: int) -> list[str]:
    ids = [f"{10000 + k}_{k % 7}_A{k % 12}_1" for k in range(num_images)]
    path.write_text("Id,Target\n" + "".join(f"{image_id},{27 - k % 4} 0\n" for k, image_id in enumerate(ids)))
    return ids


def files_of(ids: list[str]) -> set[str]:
    return {f"{image_id}_{stain}" for image_id in ids for stain in STAINS}


def get(server: WebServer, labels: Path, output: Path, manners: Manners = QUICK, **changes: Any) -> Summary:
    table = read_label_table(str(labels))
    address = parse_address(changes.pop("url", server.pattern))
    choice, source = choose(table, range(28), changes.pop("limit", None)), source_of(str(labels), address.pattern)
    return download(
        choice,
        look(str(output), choice, source),
        labels=table,
        output=str(output),
        address=address,
        manners=manners,
        settings=source,
        num_workers=0,
        **changes,
    )


def images_in(output: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in output.glob("*.jpg")}


def check_complete(output: Path, ids: list[str]) -> None:
    """All files as the server made them, the tables as they should be, and nothing else."""
    assert images_in(output) == {name: jpeg_of(name) for name in files_of(ids)}
    names = {path.name for path in output.iterdir() if path.suffix != ".jpg"}
    assert names == {"labels.csv", "rejected.parquet", "fetch.json"}
    rows = (output / "labels.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["Id", *sorted(ids)]
    assert pq.read_table(output / "rejected.parquet").num_rows == 0
    found = json.loads((output / "fetch.json").read_text())
    assert (found["finished"], found["num_images"], found["num_files"]) == (True, len(ids), 4 * len(ids))
    assert found["bytes"] == sum(len(data) for data in images_in(output).values())


def test_every_kind_of_fault_is_survived(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 14)
    with web_server(Faults(share=0.6, seed=29, hang_s=0.6)) as server:
        summary = get(server, tmp_path / "labels.csv", tmp_path / "out")
        assert set(server.served) == {*KINDS, "file"}, "the schedule holds every fault"
        num_faults = sum(count for kind, count in server.served.items() if kind not in ("file", "redirect"))
    check_complete(tmp_path / "out", ids)
    assert sum(summary.retries.values()) >= num_faults  # more, if this machine keeps a thread waiting
    assert json.loads((tmp_path / "out" / "fetch.json").read_text())["retries"] == summary.retries
    assert server.names().total() == 4 * len(ids) + sum(summary.retries.values())
    agents = {request.agent for request in server.requests}
    assert len(agents) == 1
    assert agents.pop().startswith("hpa_ray/")


def test_connections_are_kept(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", 10)
    with web_server() as server:
        get(server, tmp_path / "labels.csv", tmp_path / "out")
    assert len(server.requests) == 40
    assert len({request.connection for request in server.requests}) <= 4


def test_the_rate_is_kept_however_often_files_fail(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 8)
    rate = 20
    kinds = ("503", "reset", "redirect", "truncate", "garbage")
    with web_server(Faults(share=0.5, seed=2, kinds=kinds)) as server:
        start = time.monotonic()
        get(server, tmp_path / "labels.csv", tmp_path / "out", Manners(rate, backoff_s=0.01, timeout_s=5))
        seconds = time.monotonic() - start
    check_complete(tmp_path / "out", ids)
    at = np.array([request.at for request in server.requests])
    assert len(at) > 45, "repeats and redirects are counted"
    in_a_second = max(int(((at >= t) & (at < t + 0.9)).sum()) for t in at)  # 0.1 s for what delays threads here
    assert in_a_second <= rate
    assert len(at) / seconds > 0.7 * rate, "and it is no slower than it must be"


def test_a_retry_after_is_waited_for(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", 1)
    with web_server(Faults(share=1.0, kinds=("429 seconds",), most=1)) as server:
        get(server, tmp_path / "labels.csv", tmp_path / "out", Manners(400, backoff_s=0.01))
    first, again = (
        [r.at for r in server.requests if r.name == server.requests[0].name],
        server.requests[0].name,
    )
    assert first[1] - first[0] >= 0.99, again


def test_an_answer_that_drips_ends(tmp_path: Path) -> None:
    (name,) = sorted(files_of(write_labels(tmp_path / "labels.csv", 1)))[:1]
    manners = Manners(400, max_attempts=1, timeout_s=0.08)
    with web_server(Faults(always={name: "drip"})) as server:
        start = time.monotonic()
        with pytest.raises(InputError, match="none of the 1 images could be had"):
            get(server, tmp_path / "labels.csv", tmp_path / "out", manners)
        assert time.monotonic() - start < 3
    assert "too slowly" in pq.read_table(tmp_path / "out" / "rejected.parquet")["reason"][0].as_py()


def test_what_the_server_does_not_have_is_left_out_and_not_asked_for_again(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 12)
    gone = {f"{ids[0]}_red", f"{ids[5]}_blue", f"{ids[11]}_yellow", f"{ids[11]}_green"}
    away = {ids[0], ids[5], ids[11]}
    with web_server(Faults(missing=gone)) as server:
        summary = get(server, tmp_path / "labels.csv", tmp_path / "out")
        assert summary.num_images == 9
        assert all(server.names()[name] <= 1 for name in gone), "a 404 is no reason to ask again"
        rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
        assert {row["image_id"] for row in rejected} == away
        assert all(row["reason"] == "not available (404)" for row in rejected)
        assert set(images_in(tmp_path / "out")) == files_of([i for i in ids if i not in away])
        labelled = (tmp_path / "out" / "labels.csv").read_text()
        assert not any(image_id in labelled for image_id in away)
        num_requests = len(server.requests)
        assert get(server, tmp_path / "labels.csv", tmp_path / "out")[1:] == summary[1:]
        assert len(server.requests) == num_requests


def test_a_file_that_always_fails_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 6)
    with web_server(Faults(always={f"{ids[2]}_blue": "garbage", f"{ids[3]}_red": "redirect elsewhere"})) as server:
        assert get(server, tmp_path / "labels.csv", tmp_path / "out").num_images == 4
        assert server.names()[f"{ids[2]}_blue"] == QUICK.max_attempts
        assert server.names()[f"{ids[3]}_red"] == 1
        reasons = pq.read_table(tmp_path / "out" / "rejected.parquet")["reason"].to_pylist()
        assert "given up after 4 attempts: damaged file" in reasons[0]
        assert "which is no web address" in reasons[1]
        object.__setattr__(server.faults, "always", {})
        get(server, tmp_path / "labels.csv", tmp_path / "out")
    check_complete(tmp_path / "out", ids)
    extra = {name: count - 1 for name, count in server.names().items() if count > 1}
    assert set(extra) <= {f"{ids[2]}_blue", f"{ids[3]}_red"}, "only what was not there was asked for"


def test_a_server_that_refuses_us_is_left_alone(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", 200)
    with (
        web_server(Faults(always={"*": "403"})) as server,
        pytest.raises(InputError, match="the server does not want this"),
    ):
        get(server, tmp_path / "labels.csv", tmp_path / "out")
    assert len(server.requests) < 60


def test_a_pattern_that_fits_no_image_is_noticed(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 200)
    with web_server(Faults(missing=files_of(ids))) as server:
        with pytest.raises(InputError, match=r"does fetch.url belong") as raised:
            get(server, tmp_path / "labels.csv", tmp_path / "out")
        assert server.address in str(raised.value)
        assert len(server.requests) < 60
        object.__setattr__(server.faults, "missing", frozenset())
        mended = server.pattern + "?x=1"
        get(server, tmp_path / "labels.csv", tmp_path / "out", url=mended, limit=4)  # nothing of the first is kept
    assert len(images_in(tmp_path / "out")) == 16


def test_a_server_that_is_down_ends_the_work(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", 100)
    with socket.socket() as taken, web_server() as server:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/{{id}}_{{color}}.jpg"
        with pytest.raises(InputError, match=r"connection lost.*the same command goes on"):
            get(server, tmp_path / "labels.csv", tmp_path / "out", url=url)


def test_a_larger_limit_asks_only_for_the_new_images(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 12)
    with web_server() as server:
        get(server, tmp_path / "labels.csv", tmp_path / "out", limit=5)
        get(server, tmp_path / "labels.csv", tmp_path / "out")
    check_complete(tmp_path / "out", ids)
    assert set(server.names().values()) == {1}


def test_folders_of_something_else_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, other = tmp_path / "labels.csv", tmp_path / "other.csv"
    write_labels(labels, 4)
    write_labels(other, 5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "fetch.json").write_text('["mine"]')
    with web_server() as server:
        get(server, labels, tmp_path / "out")
        for output, words in (("full", "holds other files"), ("labels.csv", "is a file"), ("mine", "none of ours")):
            with pytest.raises(InputError, match=words):
                get(server, labels, tmp_path / output)
        with pytest.raises(InputError, match=r"another fetch\.url or fetch\.labels"):
            get(server, other, tmp_path / "out")
        with pytest.raises(InputError, match=r"another fetch\.url or fetch\.labels"):
            get(server, labels, tmp_path / "out", url=server.pattern + "?x=1")
        num_requests = len(server.requests)
        monkeypatch.setattr(folder, "free_bytes", lambda uri: 10**6)
        with pytest.raises(InputError, match="the disk has 1 MiB free"):
            get(server, labels, tmp_path / "small")
    assert len(server.requests) == num_requests
    assert (tmp_path / "full" / "thesis.doc").read_text() == "x"
    assert not (tmp_path / "small").exists()


def test_a_dry_run_asks_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(tmp_path / "labels.csv", 40)
    with web_server() as server:
        words = [f"fetch.labels={tmp_path}/labels.csv", f"fetch.url={server.pattern}", "fetch.classes=27,26"]
        for more in (["--dry-run"], ["fetch.dry_run=true", f"fetch.output={tmp_path}/out"]):
            assert main(["fetch", *words, *more]) == 0
            said = capsys.readouterr().out
            assert "to download: 20 images, 80 files, 38 MiB at 500 kB a file (an assumption), 20 s at 4" in said
            assert said.splitlines()[3].split() == ["0", "Nucleoplasm", "12,885", "20"]
            assert said.splitlines()[5].split() == ["27", "Rods", "&", "rings", "11", "10"]
    assert server.requests == []
    assert not (tmp_path / "out").exists()


def test_the_folder_is_a_source_of_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = write_labels(tmp_path / "labels.csv", 6)
    with web_server() as server:
        words = [f"fetch.labels={tmp_path}/labels.csv", f"fetch.url={server.pattern}", f"fetch.output={tmp_path}/out"]
        quick = ["fetch.requests_per_s=200", "fetch.num_workers=0"]
        assert main(["fetch", *words, "fetch.classes=all", *quick]) == 0
    check_complete(tmp_path / "out", ids)
    said = capsys.readouterr().out
    assert "6 images in 24 files" in said
    assert f"data.extra={tmp_path}/out" in said
    images = [f"data.images={tmp_path}/out", f"data.labels={tmp_path}/out/labels.csv"]
    words = [*images, "data.image_size=32", f"prepare.output={tmp_path}/shards", "prepare.num_workers=0"]
    assert main(["prepare", *words]) == 0
    assert "6 images of 4 x 32 x 32 px" in capsys.readouterr().out


def start_command(server: WebServer, tmp_path: Path, rate: float) -> subprocess.Popen[str]:
    words = [f"fetch.labels={tmp_path}/labels.csv", f"fetch.url={server.pattern}", f"fetch.output={tmp_path}/out"]
    words += ["fetch.num_workers=0", f"fetch.requests_per_s={rate}", "fetch.classes=all"]
    command = [sys.executable, "-m", "hpa_ray.cli", "fetch", *words]
    environment = {**os.environ, "HPA_RAY_HOME": str(tmp_path)}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def wait_for_requests(server: WebServer, number: int) -> None:
    deadline = time.monotonic() + 60
    while len(server.requests) < number:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_at_any_moment_nothing_is_lost_or_asked_for_twice(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 40)
    missing = {f"{ids[3]}_red", f"{ids[20]}_blue", f"{ids[39]}_yellow"}
    kept = [image_id for k, image_id in enumerate(ids) if k not in (3, 20, 39)]
    rng = np.random.default_rng(5)
    asked_before: Counter[str] = Counter()
    with web_server(Faults(share=0.2, kinds=("redirect",), missing=missing)) as server:
        for _ in range(2):
            process = start_command(server, tmp_path, 120)
            with process:
                wait_for_requests(server, len(server.requests) + int(rng.integers(15, 60)))
                time.sleep(rng.uniform(0, 0.02))
                os.kill(process.pid, signal.SIGKILL)
            finished = set(images_in(tmp_path / "out"))
            assert all(images_in(tmp_path / "out")[name] == jpeg_of(name) for name in finished)
            asked_before = server.names()
            assert process.returncode == -signal.SIGKILL
        assert len(finished) < 4 * len(kept), "there was something left to do"
        with start_command(server, tmp_path, 400) as process:
            said, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
    asked = server.names() - asked_before
    assert finished.isdisjoint(asked), "what was there was not asked for again"
    assert images_in(tmp_path / "out") == {name: jpeg_of(name) for name in files_of(kept)}
    assert len((tmp_path / "out" / "labels.csv").read_text().splitlines()) == len(kept) + 1
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet")["image_id"].to_pylist()
    assert rejected == sorted({ids[3], ids[20], ids[39]})
    found = json.loads((tmp_path / "out" / "fetch.json").read_text())
    assert (found["num_images"], found["num_rejected"]) == (len(kept), 3)
    assert found["bytes"] == sum(len(data) for data in images_in(tmp_path / "out").values())
    assert f"{len(kept)} images in {4 * len(kept)} files" in said
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        [*(f"{name}.jpg" for name in files_of(kept)), "fetch.json", "labels.csv", "rejected.parquet"]
    )


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    ids = write_labels(tmp_path / "labels.csv", 20)
    with web_server() as server:
        with start_command(server, tmp_path, 4) as process:  # slow: threads wait for their turn
            wait_for_requests(server, 3)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            said, complaint = process.communicate(timeout=60)
            assert time.monotonic() - start < 3
        assert process.returncode == 1
        assert "the same command goes on from there" in said
        assert "Traceback" not in complaint
        get(server, tmp_path / "labels.csv", tmp_path / "out")
    check_complete(tmp_path / "out", ids)
