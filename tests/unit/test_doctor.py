"""`doctor` finds what would go wrong: with real ports, folders, files and processes, and machines that are made up.

Without Ray; torch where the model is measured.
"""

import importlib.abc
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from loopback import free_port, on_loopback
from packaging.requirements import Requirement

from hpa_ray import storage
from hpa_ray.cli import doctor_verb, train_verb
from hpa_ray.cli.main import main
from hpa_ray.cluster.address import Cluster
from hpa_ray.config import Config, dump_config, load_config
from hpa_ray.doctor import address, compare, data, limits, machine, places, versions
from hpa_ray.doctor.child import Child, NoAnswer, TooSlow
from hpa_ray.doctor.findings import Finding, refused
from hpa_ray.doctor.limits import Use
from hpa_ray.doctor.machine import Gpu, Machine, survey
from hpa_ray.doctor.needs import Needs, Network, needs
from hpa_ray.errors import InputError

GIB = 2**30
NEEDS = Needs(checkpoint_bytes=GIB, folder_bytes=4 * GIB, certain_bytes=GIB, about_bytes=4 * GIB, stream_bytes=GIB)


def statuses(findings: Sequence[Finding]) -> list[str]:
    return [finding.status for finding in findings]


def only(findings: Iterator[Finding] | list[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.fixture(scope="module")
def here() -> Machine:
    """This machine, without what may or may not be in it."""
    return survey()._replace(gpus=[], has_driver=False, quota_cpus=None, cpus=4, memory_bytes=16 * GIB)


# ---- findings and the command


def test_a_line_has_status_what_was_found_and_what_to_change() -> None:
    finding = only(refused("model", InputError("model.name = x: takes 224 px - data of - 64 px - give more")))
    assert finding == Finding("model", "FAIL", "model.name = x: takes 224 px - data of - 64 px", "give more")
    assert finding.line == "FAIL  model         model.name = x: takes 224 px - data of - 64 px - give more"
    assert only(refused("run", NotADirectoryError(20, "Not a directory", "/a/b"))).found == "/a/b: Not a directory"


def test_its_keys_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    said = capsys.readouterr().out
    assert "doctor.output = (unset)" in said
    assert "train.num_workers" in said


def configuration(*words: str) -> list[Finding]:
    config = load_config(words)
    resumes_nothing = config.run.resume and not config.run.name
    return list(doctor_verb._configuration(*train_verb.named(config), resumes_nothing))


def test_the_name_of_a_run(tmp_path: Path) -> None:
    words = [f"run.storage={tmp_path}", "run.name=a"]
    assert statuses(configuration(*words)) == ["ok", "ok"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text(dump_config(load_config([*words, "train.epochs=3"])))
    taken = configuration(*words)[1]
    assert (taken.status, taken.change) == ("FAIL", "choose another run.name, or go on with it by run.resume=true")
    other = configuration(*words, "run.resume=true")[1]
    assert other.status == "FAIL"
    assert "train.epochs: 3 there, 20 here" in other.line
    same = configuration(*words, "run.resume=true", "train.epochs=3")[1]
    assert (same.status, same.found) == ("ok", f"{tmp_path}/a: is there, and is gone on with")


def test_settings_that_contradict_each_other_and_a_run_that_has_no_name(tmp_path: Path) -> None:
    words = ["train.ema_decay=0.9", "train.swa_epochs=2", "train.select=f2", "run.resume=true"]
    found = configuration(*words, f"run.storage={tmp_path}")
    assert statuses(found) == ["FAIL"] * 3
    assert [finding.check for finding in found] == ["configuration", "configuration", "run"]


# ---- a question to a process of its own


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Child]:
    """A process that has a module with this `answer`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(body: str) -> Child:
        (tmp_path / "asked.py").write_text(f"import os, sys, time\ndef answer(question):\n    {body}\n")
        return Child("asked", {"GIVEN": "yes"})

    return start


def test_an_answer_is_the_last_line_whatever_was_printed(module: Callable[[str], Child]) -> None:
    with module("print('noise', end=''); return [question, os.environ['GIVEN']]") as child:
        assert child.ask({"a": 1}, timeout_s=60) == [{"a": 1}, "yes"]


def test_a_process_that_hangs_is_ended(module: Callable[[str], Child]) -> None:
    with module("time.sleep(1000)") as child:
        began = time.monotonic()
        with pytest.raises(TooSlow, match=r"no answer within 0\.2 s"):
            child.ask({}, timeout_s=0.2)
        assert time.monotonic() - began < 5
        assert child._process.poll() is not None


@pytest.mark.parametrize(
    ("body", "why"),
    [("raise RuntimeError('no driver')", "RuntimeError: no driver"), ("os.abort()", "ended with code -6")],
)
def test_a_process_that_ends_says_why(module: Callable[[str], Child], body: str, why: str) -> None:
    with module(body) as child, pytest.raises(NoAnswer) as caught:
        child.ask({}, timeout_s=60)
    assert str(caught.value) == why
    assert not isinstance(caught.value, TooSlow)


# ---- versions


def test_the_versions_of_the_tests_are_right(here: Machine) -> None:
    found = only(versions.check_versions(Config(), here))
    assert found.status == "ok"
    assert f"python {sys.version.partition(' ')[0]}, ray 2." in found.found


def test_a_package_that_is_too_old_or_not_there(here: Machine) -> None:
    wanted = [Requirement("numpy>=999"), Requirement("hpa-no-such-package>=2"), Requirement("pyarrow>=1")]
    found = list(versions._wrong(wanted))
    assert [finding.found.partition(" ")[0] for finding in found] == ["numpy", "hpa-no-such-package"]
    assert "is missing, needs hpa-no-such-package>=2" in found[1].found
    assert found[0].change == "pip install 'numpy>=999'"
    python = only(versions.check_versions(Config(), here._replace(python="3.8.1")))
    assert python.status == "FAIL"
    assert python.found.startswith("python 3.8.1, needs ")


class Blocker(importlib.abc.MetaPathFinder):
    """As if a package were not installed."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def test_an_extra_that_is_missing_is_told_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, here: Machine) -> None:
    monkeypatch.setattr(sys, "meta_path", [Blocker("timm", "wandb"), *sys.meta_path])
    for name in ("timm", "wandb"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert statuses(versions.check_versions(Config(), here)) == ["ok"]
    asked = load_config(["model.name=timm/resnet18", "track.wandb=x"])
    found = versions.check_versions(asked, here)[1:]
    assert [finding.change for finding in found] == [f"pip install 'hpa-ray[{extra}]'" for extra in ("timm", "wandb")]
    assert statuses(found) == ["FAIL", "FAIL"]


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there = survey()
    assert not there.has_compiler
    assert versions.check_versions(load_config(["train.compile=true"]), there)[-1].check == "compiler"
    assert versions.check_versions(load_config(["train.compile=true"]), there)[-1].status == "FAIL"


# ---- what a machine has


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def folders(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    """The cgroups of this process are those that a file names."""
    monkeypatch.setattr(machine.cgroup_folders, "__defaults__", (own,))


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000", "cpu.max": "900000 100000"}, 2.0),
        ("0::/", {"cpu.max": "max 100000"}, None),
        (
            "3:cpu,cpuacct:/x",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "50000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_smallest_quota_of_cpus_counts(
    own: str, files: dict[str, str], cpus: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(monkeypatch, write(tmp_path, {"own": own}) / "own")
    assert machine.cpu_quota(write(tmp_path / "cgroup", files)) == cpus


def test_memory_is_what_the_cgroup_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB", "own": "0::/a"})
    folders(monkeypatch, tmp_path / "own")
    meminfo = tmp_path / "meminfo"
    assert machine.memory(meminfo, tmp_path / "none") == (16 * GIB, 8 * GIB)
    files = {"a/memory.max": str(4 * GIB), "a/memory.current": str(3 * GIB), "a/memory.stat": f"inactive_file {GIB}"}
    assert machine.memory(meminfo, write(tmp_path / "cgroup", files)) == (4 * GIB, 2 * GIB)
    write(tmp_path / "cgroup", {"a/memory.max": "max"})
    assert machine.memory(meminfo, tmp_path / "cgroup") == (16 * GIB, 8 * GIB)


def nvidia_smi(folder: Path, text: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_gpus_are_those_that_the_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    nvidia_smi(tmp_path, "echo 'Tesla T4, 15360, 550.1, 7.5'; echo 'NVIDIA H100, 81559, 550.1, 9.0'")
    gpus = machine.nvidia_gpus()
    assert gpus == [Gpu("Tesla T4", 15360 * 2**20, "550.1", False), Gpu("NVIDIA H100", 81559 * 2**20, "550.1", True)]
    sent = survey()
    assert Machine.from_json({**sent._asdict(), "gpus": [list(gpu) for gpu in sent.gpus]}) == sent
    nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert machine.nvidia_gpus() == []


# ---- what it has beside what the run takes


def test_more_workers_than_cpus_are_refused_where_ray_is_started_here(here: Machine) -> None:
    config = load_config(["train.num_workers=5"])
    assert only(limits.check_cpus(config, here, starts_ray=True)).status == "FAIL"
    assert only(limits.check_cpus(config, here, starts_ray=False)).status == "ok"
    slow = only(limits.check_cpus(Config(), here._replace(quota_cpus=0.5), starts_ray=True))
    assert slow.status == "warn"
    assert "0.5 CPUs' worth of time" in slow.found


def test_open_files(here: Machine) -> None:
    local, ray = load_config(["train.num_workers=0"]), Config()
    few = here._replace(open_files=(1024, 4096))
    assert only(limits.check_open_files(local, few, num_shards=10)).status == "ok"
    assert only(limits.check_open_files(local, few, num_shards=900)).change == "ulimit -n 1156 before the start"
    assert only(limits.check_open_files(ray, few, num_shards=0)).status == "warn"
    assert only(limits.check_open_files(ray, here._replace(open_files=(1024, 65536)), num_shards=0)).status == "ok"


def test_memory_and_what_waits_in_the_object_store(here: Machine) -> None:
    def found(available: int, shared: int = 8 * GIB, total: int = 16 * GIB, on_gpu: bool = False) -> list[str]:
        given = here._replace(available_bytes=available, shared_memory_bytes=shared, memory_bytes=total)
        return statuses(list(limits.check_memory(Config(), given, NEEDS, on_gpu=on_gpu)))

    assert found(12 * GIB) == ["ok", "ok"]
    assert found(4 * GIB) == ["warn", "ok"]
    assert found(4 * GIB, on_gpu=True) == ["ok", "ok"]
    assert found(GIB, total=2 * GIB) == ["FAIL", "warn"]
    assert found(12 * GIB, shared=64 * 2**20) == ["ok", "warn"]  # what docker gives by default


def test_gpus_beside_what_torch_sees(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    t4, h100 = Gpu("T4", 15 * GIB, "550", False), Gpu("H100", 80 * GIB, "550", True)

    def found(words: str, gpus: list[Gpu], seen: int, why: str = "", built: str | None = "13.0") -> Finding:
        cuda = {"num_gpus": seen, "built_for": built, "why_not": why}
        there = here._replace(gpus=gpus, has_driver=bool(gpus))
        return only(limits.check_gpus(load_config(words.split()), there, cuda, NEEDS))

    assert found("train.num_workers=1", [h100], 1).line.endswith("1 x H100, 80.0 GiB, driver 550, bf16")
    old = found("train.num_workers=1", [h100], 0, "The NVIDIA driver on your system is too old")
    assert (old.status, "too old" in old.found, "CUDA 13.0" in old.change) == ("warn", True, True)
    assert found("train.use_gpu=true", [h100], 0, built=None).found.endswith("it is built without CUDA")
    assert found("train.use_gpu=true", [h100], 0, built=None).status == "FAIL"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides them" in found("train.num_workers=1", [h100], 0).found
    assert found("train.num_workers=1 train.precision=bf16", [t4], 1).status == "warn"
    assert found("train.num_workers=1", [Gpu("small", 2 * GIB, "550", True)], 1).status == "warn"
    assert found("train.use_gpu=true", [], 0).found == "train.use_gpu=true with 1 workers, and this machine has 0 GPUs"
    assert found("train.num_workers=1", [], 0, "no driver").line.endswith("none, training on CPUs")


@pytest.mark.parametrize(
    ("words", "num_gpus", "refused"),
    [
        ("train.use_gpu=true train.num_workers=2", 1, True),
        ("train.use_gpu=true train.num_workers=0", 0, True),
        ("train.use_gpu=true train.num_workers=2", 2, False),
        ("train.num_workers=2", 1, True),
        ("train.num_workers=2", 0, False),
        ("train.use_gpu=false train.num_workers=2", 1, False),
    ],
)
def test_a_gpu_for_each_worker(words: str, num_gpus: int, refused: bool) -> None:
    found = list(limits.gpus_enough(load_config(words.split()), num_gpus, "this machine"))
    assert statuses(found) == ["FAIL"] * refused


def test_disks(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    places = Use("a", str(tmp_path), 0), Use("b", f"{tmp_path}/not/there/yet", 10)
    both = only(limits.check_disks(places, spills=None))
    assert both.status == "ok"
    assert f"for a ({tmp_path}), b ({tmp_path}/not/there/yet)" in both.found
    assert only(limits.check_disks([*places, Use("c", str(tmp_path), 2 * free)], spills=None)).status == "FAIL"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can not be mounted here; it takes Linux and root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk: Path, tmp_path: Path) -> None:
    two = list(
        limits.check_disks([Use("run.storage", str(small_disk), GIB), Use("home", str(tmp_path), 0)], spills=None)
    )
    assert statuses(two) == ["FAIL", "ok"]
    (small_disk / "full").write_bytes(bytes(64 * 2**10))
    spills = only(limits.check_disks([Use("Ray", str(small_disk), 0)], spills=str(small_disk)))
    assert (spills.status, "it is 100% full" in spills.found) == ("warn", True)
    with places.probe_folder(str(small_disk)) as folder:
        found = only(places.check_storage("run.storage", str(small_disk), folder))
    assert found.status == "FAIL"
    assert "writing: No space left on device" in found.found
    assert [path.name for path in small_disk.iterdir()] == ["full"]


def test_what_a_run_takes_is_what_it_stores(one_thread: None) -> None:
    """Against a model that was built, took a step and was saved."""
    import torch

    from hpa_ray.doctor.network import _network
    from hpa_ray.model import build_model

    config = load_config(["model.name=resnet18", "optim.name=adamw"])
    network = Network(**_network(config.model, ["red", "green"], 32, []))
    model = build_model(
        config.model, channels=("red", "green"), image_size=32, mean=[0, 0], std=[1, 1], num_classes=28, seed=0
    )
    assert network.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(2, 2, 32, 32, dtype=torch.uint8)).sum().backward()
    optimizer.step()
    stored = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, stored)
    found = needs(config, network, num_channels=2, image_size=32, half=False)
    assert found.checkpoint_bytes == pytest.approx(stored.tell(), rel=0.01)
    assert found.folder_bytes > 3 * found.checkpoint_bytes
    assert found.about_bytes > found.certain_bytes > 4 * network.num_parameters * 4
    averaged = load_config(["model.name=resnet18", "optim.name=sgd", "train.ema_decay=0.9"])
    assert (
        needs(averaged, network, num_channels=2, image_size=32, half=False).checkpoint_bytes == found.checkpoint_bytes
    )


def test_a_model_that_can_not_take_the_images_or_has_no_such_weights() -> None:
    from hpa_ray.doctor.network import answer

    def problems(*words: str, image_size: int = 64) -> list[str]:
        model = load_config(words).model.model_dump()
        told = answer({"model": model, "channels": ["green"], "image_size": image_size, "sizes": []})
        assert "num_gpus" in told["cuda"]
        return list(told.get("problems", []))

    assert problems("model.name=regnet_y_400mf") == []  # not to be built on the meta device
    assert "takes images of" in problems("model.name=alexnet", image_size=16)[0]
    assert "IMAGENET1K_V1" in problems("model.name=resnet18", "model.weights=IMAGENET")[0]
    assert "has no published weights" in problems("model.name=mlp6", "model.weights=DEFAULT")[0]


# ---- places


def test_a_place_is_left_as_it_was(tmp_path: Path) -> None:
    base = tmp_path / "new" / "runs"
    with places.probe_folder(str(base)) as folder:
        found = only(places.check_storage("run.storage", str(base), folder))
        assert found.status == "ok"
    assert list(tmp_path.iterdir()) == []
    base.mkdir(parents=True)
    (base / "mine").touch()
    with places.probe_folder(str(base)) as folder:
        places.check_storage("run.storage", str(base), folder)
    assert [path.name for path in base.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("read_bytes", b"old", "reading: what comes back is not what was written"),
        ("list_files", {}, "listing: a file just written is not listed"),
        ("exists", True, "deleting: the file is still there"),
    ],
)
def test_a_store_that_forgets_or_remembers(
    name: str, given: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, name, lambda uri: given)
    with places.probe_folder(str(tmp_path)) as folder:
        found = only(places.check_storage("run.storage", str(tmp_path), folder))
    assert found.status == "FAIL"
    assert why in found.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with places.probe_folder(str(tmp_path)) as folder:
        found = only(places.check_storage("run.storage", str(tmp_path), folder))
    assert "writing: Permission denied" in found.found


def test_a_place_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for base in (f"{tmp_path}/file", "/proc/nowhere", "http://127.0.0.1:9/runs"):
        with places.probe_folder(base) as folder:
            found = only(places.check_storage("run.storage", base, folder))
        assert found.status == "FAIL", base
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def bucket() -> Iterator[str]:
    """s3://b, whose service does not answer, and keys for it."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    storage.configure(storage.Settings(endpoint=endpoint, access_key="open-key", secret_key="sesame-key"))
    yield "s3://b/runs"
    storage.configure(storage.Settings())
    storage.take_retries()


def test_a_store_that_does_not_answer_is_told_soon_and_without_its_keys(bucket: str) -> None:
    from hpa_ray.doctor import brief_requests

    began, settings = time.monotonic(), storage.settings()
    with brief_requests(), places.probe_folder(bucket) as folder:
        found = only(places.check_storage("run.storage", bucket, folder))
    assert time.monotonic() - began < 10
    assert storage.settings() == settings
    assert "no connection" in found.found
    assert "sesame" not in found.line
    assert list(places.check_clocks([bucket, "/here", "http://x/y"])) == []


@pytest.mark.parametrize(("ahead_s", "status"), [(0, "ok"), (60, "warn"), (1000, "FAIL"), (-1000, "FAIL")])
def test_the_clock_of_a_store(ahead_s: int, status: str) -> None:
    class Clock(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Clock) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()  # one: both are of the same store
        uri = f"s3://b/runs?endpoint_override=http://127.0.0.1:{server.server_port}&anonymous=true"
        found = only(places.check_clocks([uri, uri]))
    assert found.status == status
    if ahead_s:
        assert ("behind" if ahead_s > 0 else "ahead of") in found.found


def test_a_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    assert only(places.check_weights(f"{tmp_path}/a.pth", "")).status == "ok"
    assert only(places.check_weights(f"{tmp_path}/b.pth", "")).status == "FAIL"
    nowhere = f"http://127.0.0.1:{free_port()}/x.pth"
    assert only(places.check_weights("IMAGENET1K_V1", nowhere)).status == "warn"
    assert list(places.check_weights(None, "")) == []


# ---- data


def test_the_data_and_its_parts(atlas: Path, tmp_path: Path) -> None:
    shutil.copytree(atlas / "train", tmp_path / "train")
    for path in (tmp_path / "train").iterdir():
        path.write_bytes(b"no pixels")  # which `check` looks at
    words = [f"data.images={tmp_path}/train", f"data.labels={atlas}/train.csv", "split.parts=0.6/0.2/0.2"]
    found, opened = data.check_data(load_config(words))
    assert opened is not None
    assert found[0].status == "ok"
    assert found[0].found.startswith(f"60 images of 256 px at {tmp_path}/train, first bytes read in ")
    assert found[1].found == "train 36, val 12, test 12"
    absent = [k for k in range(28) if not opened.targets_NK[opened.parts["val"], k].any()]
    never = [k for k in absent if not opened.targets_NK[:, k].any()]
    assert absent != never, "the atlas of the tests should have a class that val lacks"
    (val,) = (finding for finding in found if finding.found.startswith("val has no image"))
    assert val.status == "warn"
    assert f"of {len(absent) - len(never)} classes: " in val.found


def test_data_that_does_not_open(atlas: Path, tmp_path: Path) -> None:
    for words in (
        [f"data.images={tmp_path}/none", f"data.labels={atlas}/train.csv"],
        [f"data.images={atlas}/train"],
        [f"data.shards={tmp_path}"],
    ):
        found, opened = data.check_data(load_config(words))
        assert (statuses(found), opened) == (["FAIL"], None)


def test_shards_with_a_file_missing(shards: str, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    found, opened = data.check_data(load_config([f"data.shards={tmp_path}/shards"]))
    assert found[0].found.startswith("60 images of 32 px")
    assert opened is not None
    assert data.num_local_shards(opened) == len(list((tmp_path / "shards").glob("shard-*.arrow")))
    next((tmp_path / "shards").glob("shard-*.arrow")).unlink()
    lost = only(data.check_data(load_config([f"data.shards={tmp_path}/shards"]))[0])
    assert lost.status == "FAIL"
    assert "it is missing" in lost.found


# ---- Ray's address


def ray_at(port: int) -> Cluster:
    return Cluster(f"127.0.0.1:{port}", f"RAY_ADDRESS = 127.0.0.1:{port}")


def test_an_address_where_nothing_answers_or_something_else_does() -> None:
    began = time.monotonic()
    nothing = address.check_address(ray_at(free_port()), timeout_s=0.3, environment={})
    assert nothing is not None
    assert "Connection refused" in nothing.found
    silence = threading.Event()
    for answer in (lambda c: silence.wait(1), lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")):
        with on_loopback(answer) as port:  # type: ignore[arg-type]
            other = address.check_address(ray_at(port), timeout_s=0.3, environment={})
            assert other is not None
            assert other.status == "FAIL"
            assert "not one of Ray" in other.found
    assert time.monotonic() - began < 5
    settings = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
    with on_loopback(lambda c: (c.recv(100), c.sendall(settings))) as port:  # type: ignore[arg-type, func-returns-value]
        assert address.check_address(ray_at(port), timeout_s=3, environment={}) is None
        client = Cluster(f"ray://127.0.0.1:{port}", "RAY_ADDRESS")
        found = address.check_address(client, timeout_s=3, environment={})
    assert found is not None
    assert found.status == "warn"


def test_variables_of_ray_that_hurt(tmp_path: Path) -> None:
    hurt = {"RAY_TRAIN_V2_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1", "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "-1"}
    hurt |= {"RAY_testing_rpc_failure": "x", "RAY_memory_monitor_refresh_ms": "0"}
    found = list(address.check_variables(hurt))
    assert sorted(finding.found.split(" ")[0] for finding in found) == sorted(hurt)
    fine = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800"}
    assert list(address.check_variables(fine)) == []
    assert statuses(list(address.check_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}))) == ["FAIL"]
    assert list(address.check_token({})) == []


def test_a_ray_that_would_be_started_here(here: Machine, tmp_path: Path) -> None:
    config, token = load_config(["train.num_workers=3"]), {"RAY_AUTH_TOKEN": "x"}
    found = only(address.check_own_ray(config, here, token))
    assert found.found == "none runs here: one would be started with 5 CPUs"
    long = here._replace(temp=str(tmp_path / ("x" * 80) / "ray"))
    assert statuses(list(address.check_own_ray(config, long, token))) == ["ok", "FAIL"]
    assert statuses(list(address.check_own_ray(config, here, {"RAY_AUTH_MODE": "disabled"}))) == ["ok", "warn"]


# ---- nodes


def report(there: Machine, **other: Any) -> dict[str, Any]:
    plain = {"node": "n1", "ray_gpus": len(there.gpus), "machine": there._asdict(), "storage_s": 0.01}
    plain |= {"read_bps": 100 * 2.0**20}
    return (
        plain | {"storage_error": "", "sees_mark": True, "missing": {}, "no_connection": None, "skew_s": 0.02} | other
    )


def test_nodes_that_do_not_differ_share_a_line(here: Machine) -> None:
    here = here._replace(available_bytes=32 * GIB, temp_free_bytes=GIB, temp_total_bytes=2 * GIB)
    found = only(compare.check_nodes(Config(), [report(here)] * 3, here, NEEDS, in_bucket=True))
    assert (found.status, found.found.partition(",")[0]) == ("ok", "3 with the versions of here")
    assert "read at 100 MiB/s and more" in found.found


@pytest.mark.parametrize(
    ("changed", "other", "status", "text"),
    [
        ({"packages": {"ray": "2.9.0"}}, {}, "FAIL", "n2: ray 2.9.0, here 2."),
        ({"packages": {"numpy": None}}, {}, "warn", "n2: numpy is missing, here "),
        ({"python": "3.9.1"}, {}, "FAIL", "n2: python 3.9.1, here "),
        ({"has_compiler": False}, {}, "FAIL", "n2: train.compile=true, but there is no C++ compiler"),
        ({"available_bytes": GIB}, {}, "warn", "n2: 1.0 GiB of memory available"),
        ({"temp_free_bytes": 1}, {}, "warn", "n2: 0.0 GiB free at "),
        ({"has_driver": True}, {}, "warn", "n2: GPUs: none that works, elsewhere H100"),
        (
            {"gpus": [Gpu("H100", 80 * GIB, "550", True)], "has_driver": True},
            {"ray_gpus": 0},
            "warn",
            "n2: Ray counts 0",
        ),
        ({}, {"sees_mark": False}, "FAIL", "n2: run.storage is another folder there"),
        ({}, {"storage_error": "/x: Read-only file system"}, "FAIL", "n2: run.storage: /x: Read-only file system"),
        ({}, {"missing": {"/shards": "is not there"}}, "FAIL", "n2: /shards: is not there"),
        ({}, {"read_bps": 2.0**20}, "warn", "n2: reads run.storage at 1 MiB/s, another node at 100"),
        ({}, {"skew_s": 400.0}, "FAIL", "n2: its clock is 400 s ahead of that of here"),
        ({}, {"skew_s": -60.0}, "warn", "n2: its clock is 60 s behind that of here"),
        ({}, {"no_connection": "no connection within 3 s"}, "warn", "n2: can not reach a free port of "),
    ],
)
def test_the_node_that_differs_is_named(
    changed: dict[str, Any], other: dict[str, Any], status: str, text: str, here: Machine
) -> None:
    here = here._replace(available_bytes=32 * GIB, temp_free_bytes=GIB, temp_total_bytes=2 * GIB, has_compiler=True)
    changed = {**changed, "packages": {**here.packages, **changed.get("packages", {})}}
    h100 = here._replace(gpus=[Gpu("H100", 80 * GIB, "550", True)], has_driver=True)
    reports = [report(h100), report(here._replace(**changed), node="n2", **other)]
    config = load_config(["train.compile=true"])
    found = only(compare.check_nodes(config, reports, here, NEEDS, in_bucket=True))
    assert found.status == status
    assert found.found.startswith(text)


def test_a_node_without_an_answer(here: Machine) -> None:
    errors = ["no answer within 60 s", "ModuleNotFoundError: No module named 'hpa_ray'"]
    reports = [{"node": "n", "error": error} for error in errors]
    found = list(compare.check_nodes(Config(), reports, here, None, in_bucket=False))
    assert statuses(found) == ["FAIL", "FAIL"]
    assert [finding.found for finding in found] == [f"n (1): {errors[0]}", f"n (2): {errors[1]}"]
    assert "ray job submit" in found[1].change


def test_a_cluster_that_is_too_small_or_open_to_all() -> None:
    config = load_config(["train.num_workers=2"])
    plain: dict[str, Any] = {"joined": True, "problems": [], "nodes": [{}], "num_cpus": 4, "num_gpus": 0}

    def found(**other: Any) -> list[Finding]:
        told = plain | {"dashboard": "127.0.0.1:8265", "is_open": True} | other
        return list(compare.check_cluster(config, told, "RAY_ADDRESS = h:1"))

    assert only(found()).found == "RAY_ADDRESS = h:1: 1 node, 4 CPUs, 0 GPUs, enough for train.num_workers = 2"
    assert statuses(found(problems=["too small - use fewer"])) == ["FAIL"]
    assert statuses(found(joined=False, problems=["Version mismatch - use the same"])) == ["FAIL"]
    assert statuses(found(dashboard="10.0.0.1:8265")) == ["ok", "warn"]
    assert statuses(found(dashboard="10.0.0.1:8265", is_open=False)) == ["ok"]
    assert statuses(found(num_gpus=1)) == ["ok", "FAIL"]
