"""Several hosts with their own addresses and files, and one that is cut off: the benchmark of that name, as a test."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "hosts.py"


@pytest.mark.timeout(1200)
def test_three_hosts_do_all_the_work_and_two_when_one_is_cut_off(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, timeout=1100)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    rows = [line for line in (tmp_path / "hosts.md").read_text().splitlines() if line.endswith("| yes |")]
    assert len(rows) == 5
