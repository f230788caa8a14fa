"""The map of the code is enforced: imports run one way, and what need not be heavy is not."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import hpa_ray

PACKAGE = Path(hpa_ray.__file__).parent

# A stage imports only from lines above its own; neighbours do not know each other.
LAYERS = (
    ("redact",),
    ("errors",),
    ("channels", "labels", "storage", "progress", "known"),
    ("config", "schema", "page", "cluster", "output"),
    ("manifest", "shards", "augment", "model", "loss", "metrics", "synth", "figures"),
    ("ingest", "checkpoint"),
    ("stream", "check", "explore", "duplicates", "fetch"),
    ("train", "predict", "doctor"),
    ("evaluate", "analysis", "bench"),
    ("tune", "retrieval", "export"),
    ("report",),
    ("cli",),
)
LEVEL = {stage: level for level, stages in enumerate(LAYERS) for stage in stages}
RAY_RIM = {
    "cluster/data.py",
    "cluster/placement.py",
    "cluster/start.py",
    "doctor/nodes.py",
    "ingest/tasks.py",
    "stream/feed.py",
    "train/backend.py",
    "train/launch.py",
    "train/ray_host.py",
    "tune/search.py",
    "predict/infer.py",
}


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} if node.module != "hpa_ray" else {f"hpa_ray.{alias.name}" for alias in node.names}
    return {name for name in names if name and name != "hpa_ray.__version__"}


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_stage_has_a_place() -> None:
    assert {stage_of(path) for path in SOURCES} == set(LEVEL)


def test_imports_run_one_way() -> None:
    wrong = []
    for path in SOURCES:
        stage = stage_of(path)
        for name in imported(path):
            if name.startswith("hpa_ray.") and (other := name.split(".")[1]) != stage and LEVEL[other] >= LEVEL[stage]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_only_the_rim_knows_ray() -> None:
    knowing = {
        str(path.relative_to(PACKAGE)) for path in SOURCES if any(n.split(".")[0] == "ray" for n in imported(path))
    }
    assert knowing == RAY_RIM


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_package_and_the_readers_of_pixels_import_neither_torch_nor_ray() -> None:
    modules = (
        "hpa_ray, hpa_ray.config, hpa_ray.cli.main, hpa_ray.manifest, hpa_ray.ingest, hpa_ray.shards, hpa_ray.synth"
    )
    modules += ", hpa_ray.stream, hpa_ray.metrics, hpa_ray.train, hpa_ray.cli.train_verb, hpa_ray.cli.doctor_verb"
    modules += ", hpa_ray.bench, hpa_ray.cli.bench_verb, hpa_ray.report, hpa_ray.cli.report_verb"
    heavy = run(f"import sys, {modules}; print(sorted({{'torch', 'ray', 'torchvision'}} & set(sys.modules)))")
    assert heavy.strip() == "[]"


def test_help_is_quick() -> None:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hpa_ray.cli", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.7
