"""Commands whose storage fails while they run: what passes is got over, what does not is told, and nothing is lost.

Real sockets, real disks, real commands; the undisturbed run that all are compared with is on a disk. Every fault in
every place: benchmarks/storage_faults.py.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from disks import bound_by_permissions, fill, remount, small_disk
from faulty_runs import BUCKET, Lab, lab, once
from object_store import Faults

from hpa_ray import storage

RUNS = f"s3://{BUCKET}/runs"
EVERYTHING: dict[str, Any] = {
    **dict.fromkeys(("slow_down", "server_error", "bad_gateway", "gateway_timeout", "too_many"), 0.02),
    **dict.fromkeys(("reset", "reset_body", "cut", "short", "corrupt"), 0.03),
    **dict.fromkeys(("stall", "stall_body"), 0.01),
}
SECOND_PUT: dict[str, Any] = {"paths": "checkpoints/epoch-0002", "methods": ("PUT",), "server_error": 1.0}
AFTER_FIRST: dict[str, Any] = {"since": "checkpoints/epoch-0001", "max_in_a_row": None}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy(here: Lab) -> Iterator[None]:
    here.lost()
    here.store.reset_counts()
    yield
    here.store.faults = Faults()


def stored(run: str) -> tuple[dict[str, object], list[str]]:
    """The summary of a run and the names of its checkpoints."""
    summary = json.loads(storage.read_bytes(f"{run}/summary.json"))
    return summary, sorted(storage.list_files(f"{run}/checkpoints"))


def resumed(here: Lab, runs: str, name: str) -> None:
    """The same command goes on, and what it leaves is what an undisturbed run does: bit for bit, no sample missing."""
    here.store.faults = Faults()
    assert here.call("train", *here.training(runs, name), "run.resume=true").code == 0
    here.reach()
    assert here.difference(f"{runs}/{name}") is None
    assert here.lost() == 0


# ---- what passes


def test_a_training_that_meets_every_kind_of_fault_is_the_undisturbed_one(here: Lab) -> None:
    here.store.faults = Faults(seed=1, stall_s=1.5, **EVERYTHING)
    ended = here.call("train", *here.training(RUNS, "everything"))
    injected = here.store.counts.faults
    assert ended.code == 0, ended.told
    assert len(injected) >= 6, injected
    assert 0 < ended.result["storage_retries"] <= injected.total()  # of some answers nobody reads the body
    here.reach()
    assert here.difference(f"{RUNS}/everything") is None
    assert here.lost() == 0


def test_prepare_and_predict_meet_every_kind_of_fault(here: Lab) -> None:
    words = {"prepare": here.preparing, "predict": here.predicting}
    found = {}
    for name, faults in (("plain", Faults()), ("faulty", Faults(seed=3, stall_s=1.5, **EVERYTHING))):
        for verb in words:
            here.store.faults = faults
            ended = here.call(verb, *words[verb](f"s3://{BUCKET}/{verb}-{name}"))
            assert ended.code == 0, ended.told
            assert ended.result["num_images"] == 24
            here.reach()
            place = f"s3://{BUCKET}/{verb}-{name}"
            found[verb, name] = {file: storage.read_bytes(f"{place}/{file}") for file in storage.list_files(place)}
    assert here.store.counts.faults.total() > 10
    for verb in words:
        assert found[verb, "plain"] == found[verb, "faulty"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_checkpoint_that_is_refused_less_often_than_it_is_tried(here: Lab, times: int) -> None:
    here.store.faults = Faults(max_in_a_row=times, **SECOND_PUT)
    ended = here.call("train", *here.training(RUNS, f"refused-{times}"), "storage.max_attempts=3")
    assert ended.code == 0, ended.told
    assert ended.result["storage_retries"] == times
    here.reach()
    assert here.difference(f"{RUNS}/refused-{times}") is None


@pytest.mark.parametrize("kind", ["denied", "expired"])
def test_keys_that_are_good_again_after_a_while(here: Lab, kind: str) -> None:
    here.store.faults = Faults(**AFTER_FIRST | {kind: 1.0, "most": 4})
    ended = here.call("train", *here.training(RUNS, kind))
    assert ended.code == 0, ended.told
    assert ended.result["storage_retries"] == here.store.counts.faults[kind] == 4
    here.reach()
    assert here.difference(f"{RUNS}/{kind}") is None


# ---- what does not


def test_where_nothing_may_be_deleted_a_run_keeps_all_its_checkpoints(here: Lab) -> None:
    here.store.faults = Faults(denied=1.0, methods=("POST", "DELETE"), paths="delete", max_in_a_row=None)
    run = f"s3://{BUCKET}/runs/keeps"
    ended = here.call("train", *here.training(f"s3://{BUCKET}/runs", "keeps"))
    assert ended.code == 0, ended.told
    here.reach()
    log = storage.read_bytes(f"{run}/run.log").decode()
    assert log.count("note: older checkpoints stay, as they can not be deleted: ") == 1
    assert here.difference(run) is None
    assert sorted(storage.list_files(f"{run}/checkpoints")) == [f"epoch-{epoch:04d}.pt" for epoch in (1, 2, 3)]
    assert here.lost() == 0


def test_a_checkpoint_that_can_not_be_stored_ends_the_run_at_the_one_before(here: Lab) -> None:
    here.store.faults = Faults(max_in_a_row=None, **SECOND_PUT)
    ended = here.call("train", *here.training(RUNS, "endless"), "storage.max_attempts=3")
    uri = f"{RUNS}/endless/checkpoints/epoch-0002.pt"
    assert ended.code == 1
    assert ended.told == [
        f"hpa-ray train: {uri}: 500 InternalError - given up after 3 attempts - "
        "run the same command again when the place is well (train: with run.resume=true)"
    ]
    assert here.store.counts.faults.total() == 3
    here.reach()
    summary, checkpoints = stored(f"{RUNS}/endless")
    assert summary["status"] == "failed"
    assert uri in str(summary["reason"])
    assert checkpoints == ["epoch-0001.pt"]
    resumed(here, RUNS, "endless")


@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        ("slow_down", 1, "503 SlowDown - given up after 2 attempts - run the same command again"),
        ("denied", 2, "access denied (403 AccessDenied - given up after 2 attempts): set storage.access_key"),
    ],
)
def test_a_store_that_is_lost_for_good(here: Lab, kind: str, code: int, told: str) -> None:
    here.store.faults = Faults(**AFTER_FIRST | {kind: 1.0})
    ended = here.call("train", *here.training(RUNS, f"lost-{kind}"), "storage.max_attempts=2")
    assert ended.code == code
    (line,) = ended.told
    assert line.startswith(f"hpa-ray train: {RUNS}/lost-{kind}/")
    assert told in line
    resumed(here, RUNS, f"lost-{kind}")


def test_a_store_that_is_lost_within_an_epoch(here: Lab) -> None:
    """The run goes on from the state that was stored last, wherever in the epoch that was."""
    here.store.faults = Faults(slow_down=1.0, since="checkpoints/epoch-0001-0000000008", max_in_a_row=None)
    words = [*here.training(RUNS, "within"), "train.checkpoint_every=1 step"]
    assert here.call("train", *words, "storage.max_attempts=2").code == 1
    here.reach()
    _, checkpoints = stored(f"{RUNS}/within")
    assert "epoch-0001-0000000008.pt" in checkpoints
    assert "epoch-0002.pt" not in checkpoints
    resumed(here, RUNS, "within")


def test_images_that_the_store_does_not_give_are_not_left_out(here: Lab) -> None:
    """A store that fails is no fault of the images: even where damaged ones may be left out, none is."""
    output = f"s3://{BUCKET}/prepared"
    words = [*here.preparing(output), "data.on_error=quarantine", "data.max_rejected=0.5"]
    name = next((here.root / "train").glob("*_red.png")).name
    here.store.faults = Faults(server_error=1.0, paths=name, max_in_a_row=None)
    ended = here.call("prepare", *words, "storage.max_attempts=2")
    assert ended.code == 1
    assert ended.told[0].startswith(f"hpa-ray prepare: s3://{BUCKET}/train/{name}: 500 InternalError - given up after")
    here.store.faults = Faults()
    ended = here.call("prepare", *words)
    assert (ended.code, ended.result["num_images"], ended.result["num_rejected"]) == (0, 24, 0)


# ---- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            mounted = stack.enter_context(small_disk(tmp_path / "disk", 2**25))
        except OSError as error:
            pytest.skip(f"a disk can not be mounted here ({error}); it takes Linux and root")
        yield mounted


def test_a_disk_that_is_full(here: Lab, disk: Path) -> None:
    told = "No space left on device - free some space or name another place"
    _struck(here, disk / "run", lambda run: fill(disk), lambda run: (disk / "filler").unlink(), told)


def test_a_disk_that_is_read_only_of_a_sudden(here: Lab, disk: Path) -> None:
    told = "Read-only file system - mend it or name another place"
    _struck(here, disk / "run", lambda run: remount(disk, "ro"), lambda run: remount(disk, "rw"), told)


@pytest.mark.parametrize("part", ["", "checkpoints"])
def test_a_folder_that_may_not_be_written_to_any_more(here: Lab, tmp_path: Path, part: str) -> None:
    try:
        with bound_by_permissions():
            _struck(
                here,
                tmp_path / "run",
                lambda folder: (folder / part).chmod(0o555),
                lambda folder: (folder / part).chmod(0o755),
                "Permission denied - mend it or name another place",
            )
    except OSError as error:
        pytest.skip(f"permissions can not be given up here ({error})")


def _struck(here: Lab, folder: Path, act: Callable[[Path], object], mend: Callable[[Path], object], told: str) -> None:
    """A run whose folder is dealt with after its first checkpoint tells it in a line, and goes on once it is mended."""
    words = here.training(str(folder.parent), folder.name)
    with once(lambda: any(folder.glob("checkpoints/epoch-0001*.pt")), lambda: act(folder)):
        ended = here.call("train", *words)
    mend(folder)
    assert ended.code == 2
    (line,) = ended.told
    assert line.startswith(f"hpa-ray train: {folder}/")
    assert told in line
    # what was being written just then can not be taken away either; it has no final name
    names = [path.name for path in (folder / "checkpoints").iterdir() if not path.name.endswith(".tmp")]
    assert names == ["epoch-0001.pt"]
    json.loads((folder / "summary.json").read_text())
    resumed(here, str(folder.parent), folder.name)


# ---- waiting


def test_an_interrupted_command_does_not_wait_for_a_store_that_is_down(here: Lab) -> None:
    """The threads that read ahead would repeat their requests ten times, and the process ends when they do."""
    here.store.faults = Faults(stall=1.0, stall_s=60, paths="/train/", max_in_a_row=None)
    command = [sys.executable, "-m", "hpa_ray.cli", "prepare", *here.preparing(f"s3://{BUCKET}/interrupted")]
    process = subprocess.Popen([*command, "storage.timeout_s=2"], stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not here.store.counts.faults.total() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert told == "hpa-ray prepare: interrupted\n"
    assert process.returncode == 1
    assert time.monotonic() - began < 20  # the requests under way; the repeats of one would take 40 s or more
