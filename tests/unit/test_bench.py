"""`bench`: arithmetic of rates, verdict and plan, windows that end together, and one real measurement without Ray."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hpa_ray.bench import PHASES, Measured, Rate, Window, in_words, judge, make_plan
from hpa_ray.cli.main import main

RATES = {"images": 36_000, "epochs": 10, "train_per_gpu": 50.0, "read_per_cpu": 20.0}
NODES = {"gpus_per_node": 2, "cpus_per_node": 4, "price_gpu_node_hour": 3.0, "price_cpu_node_hour": 0.5}


def rate(images_per_s: float, *, num_workers: int = 1, cpus: float = 1.0) -> Rate:
    return Rate((Window(1, round(2 * images_per_s), 2.0, 0.5, 2 * cpus),), num_workers)


def measured(train: float, read: float, both: float, *, cpus: float = 2.0, on_gpu: bool = True) -> Measured:
    return Measured(rate(train, cpus=0.2), rate(read), rate(both), "1 x GPU", on_gpu, 0.1, cpus, True)


def words(found: Measured) -> str:
    return "\n".join(in_words(judge(found, cpus_per_node=8), found, cpus_per_node=8))


# ---- arithmetic


def test_rates_are_sums_over_sums() -> None:
    found = Rate((Window(1, 100, 1.0, 0.5, 2.0), Window(2, 200, 4.0, 0.5, 3.0)), 2)
    assert (found.images_per_s, found.per_worker, found.lowest, found.highest) == (60, 30, 50, 100)
    assert (found.wait_pct, found.busy_cpus) == (20, 1)
    told = found.as_json()
    assert (told["images_per_s"], told["num_steps"], told["num_windows"], told["seconds"]) == (60, 3, 2, 5)


def test_data_are_the_limit_where_reading_alone_is_slower() -> None:
    found = judge(measured(100, 40, 40, cpus=2.0), cpus_per_node=4)
    assert (found.limit, found.read_per_train, found.together) == ("data", 0.4, 1)
    assert found.device_idle_pct == pytest.approx(60)
    assert (found.cpus_needed, found.nodes_needed) == (5, 2)
    said = words(measured(100, 40, 40))
    assert "data are the limit: alone, reading gives 0.4 times" in said
    assert "without work 60 % of the time" in said
    assert "reading needs 5 CPUs (1 node of 8 CPUs); it used 2 CPUs" in said


def test_the_device_is_the_limit_where_training_alone_is_slower() -> None:
    found = judge(measured(100, 400, 101), cpus_per_node=4)
    assert (found.limit, found.read_per_train, found.device_idle_pct) == ("device", 4, 0)
    assert (found.cpus_needed, found.nodes_needed) == (0.5, 1)
    said = words(measured(100, 2000, 99))
    assert "the device is the limit: alone, reading gives 20 times" in said
    assert "share" not in said
    assert "note:" not in said


def test_what_makes_rates_doubtful_is_said() -> None:
    both_slow = words(measured(100, 100, 50, on_gpu=False))
    assert "both at once, training is 50 % slower" in both_slow
    assert "both at once reach 50 % of the slower one alone" in both_slow
    assert "note: a worker had 0.20 CPUs while it trained" in both_slow


def test_the_plan_by_hand() -> None:
    one, four = make_plan((1, 4), **RATES, **NODES)
    # 2 GPUs of 50 images/s: 360,000 images in an hour; 5 CPUs that read are 2 nodes
    assert one == (1, 2, 100, 1, 5, 2, 4)
    # four times as fast, 20 CPUs: 5 nodes, a quarter of an hour of 4 x 3 and 5 x 0.5
    assert four == (4, 8, 400, 0.25, 20, 5, 0.25 * 14.5)


def test_a_plan_grows_in_proportion_but_for_whole_nodes_and_no_price_is_no_cost() -> None:
    rows = make_plan(range(1, 40), **RATES, **{**NODES, "price_gpu_node_hour": 0.0, "price_cpu_node_hour": 0.0})
    for row in rows:
        assert row.hours * row.gpu_nodes == pytest.approx(rows[0].hours)
        assert row.cpu_nodes == math.ceil(5 * row.gpu_nodes / 4)
        assert row.cost is None


# ---- windows


class Ranks:
    """What the other ranks had to say: that they took twice as long."""

    def __init__(self, *, notice: str = "") -> None:
        import torch

        self.device, self.answer = torch.device("cpu"), notice

    def notice(self) -> str:
        return self.answer

    def gather(self, value: Any) -> list[Any]:
        images, seconds, wait_s, cpu_s = value
        return [value, (images, 2 * seconds, wait_s, cpu_s)]


class Clock:
    """Stands where time does: it goes on when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    process_time = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    from hpa_ray.bench import measure

    made = Clock()
    monkeypatch.setattr(measure, "time", made)
    return made


def test_windows_come_to_the_time_asked_for_and_count_all_ranks(clock: Clock) -> None:
    from hpa_ray.bench import measure

    calls = 0

    def step() -> tuple[int, float]:
        nonlocal calls
        calls += 1
        clock.now += 0.001
        return 3, 0.0005

    host: Any = Ranks()
    windows = list(measure._windows(host, step, warmup=4, seconds=0.4))
    assert [window.steps for window in windows] == [16, *[20] * 10]
    assert [window.seconds for window in windows] == pytest.approx([0.032, *[0.04] * 10])
    assert all(window.images == 2 * 3 * window.steps for window in windows)
    assert all(window.wait_s == pytest.approx(0.0005 * window.steps) for window in windows)
    assert calls == 4 + (1 + 2 + 4 + 8) + sum(window.steps for window in windows)  # warm-up, too short, counted


def test_a_step_longer_than_the_measurement_is_one_window(clock: Clock) -> None:
    from hpa_ray.bench import measure

    def step() -> tuple[int, float]:
        clock.now += 0.02
        return 1, 0.0

    host: Any = Ranks()
    assert [window.steps for window in measure._windows(host, step, warmup=1, seconds=0.001)] == [1]


def test_a_process_that_must_end_does() -> None:
    from hpa_ray.bench import measure
    from hpa_ray.errors import Stopped

    host: Any = Ranks(notice="stop")
    with pytest.raises(Stopped):
        next(measure._windows(host, lambda: (1, 0.0), warmup=1, seconds=1))


# ---- the command


@pytest.fixture
def small(shards: str) -> list[str]:
    """Words of a training that takes milliseconds a step."""
    return [f"data.shards={shards}", "train.num_workers=0", "train.use_gpu=false", "model.name=resnet18"]


@pytest.mark.usefixtures("one_thread")
def test_a_real_measurement(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["train.batch_size=8", "bench.seconds=1", "bench.price_gpu_node_hour=2", "bench.plan_gpu_nodes=1,3"]
    more += ["train.accumulate=2", "train.ema_decay=0.9", "train.sizes=16,32", "train.epochs=4"]
    more += ["bench.plan_images=1000000", "storage.secret_key=sesame-key", f"bench.output={tmp_path}/out"]
    assert main(["bench", *small, *more], json_line=True) == 0
    said = capsys.readouterr().out
    *lines, last = said.splitlines()
    result = json.loads(last)
    for phase in PHASES:
        found = result[phase]
        assert found["seconds"] >= 1
        assert 0 < found["images_per_s_lowest"] <= found["images_per_s"] <= found["images_per_s_highest"]
    assert result["train"]["data_wait_pct"] == 0
    assert result["both"]["images_per_s"] < result["read"]["images_per_s"]
    verdict = result["verdict"]
    ratio = result["read"]["images_per_s"] / result["train"]["images_per_s"]
    assert verdict["read_per_train"] == pytest.approx(ratio, rel=0.01)
    assert verdict["cpus_needed"] == pytest.approx(verdict["reading_cpus"] / ratio, rel=0.01)
    rows = result["plan"]["rows"]
    assert [row["gpu_nodes"] for row in rows] == [1, 3]
    assert rows[0]["cost"] == pytest.approx(2 * rows[0]["hours"], abs=0.001)
    firsts = [line.split()[0] for line in lines if line.startswith("  ")]
    assert firsts == ["images/s", "train", "read", "both", "GPU", "1", "3"]
    assert any("is the limit" in line or "are the limit" in line for line in lines)
    stored = (tmp_path / "out" / "bench.json").read_text()
    assert "sesame-key" not in said + stored
    kept = json.loads(stored)
    assert kept.pop("config")["train"]["batch_size"] == 8
    assert kept == result


def test_mistakes_in_the_input(small: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = ["bench.seconds=0", "bench.warmup_steps=0", "bench.price_gpu_node_hour=-1", "bench.price_cpu_node_hour=-2"]
    wrong += ["bench.plan_gpu_nodes=1,0", "bench.gpus_per_node=0", "bench.cpus_per_node=0", "bench.plan_images=0"]
    assert main(["bench", *small, *wrong]) == 2
    said = capsys.readouterr().err
    for word in wrong:
        assert word.partition("=")[0] in said
    assert main(["bench", *small, "bench.seconds=-1"]) == 2
    assert main(["bench", *small, "train.select=f2"]) == 2
    (tmp_path / "file").write_text("x")
    assert main(["bench", *small, f"bench.output={tmp_path}/file"]) == 2
    assert "is a file - give a folder" in capsys.readouterr().err


def test_its_keys_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    said = capsys.readouterr().out
    assert "bench.seconds = 10.0" in said
    assert "bench.plan_gpu_nodes = 1,2,4,8,16" in said
    assert "train.batch_size = 32" in said
