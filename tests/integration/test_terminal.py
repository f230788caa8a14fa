"""What a person sees: a real terminal, of 100 columns."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

PROGRAM = """
import time
from hpa_ray.progress import console
with console.progress("tune", 4, "trials") as progress:
    rows = [("trial", "settings"), ("runs 3", "loss.name=asl")]
    rows += [("best 1", "model.weights=/a\\x1b]0;gone\\x07[red]b.pth")]
    progress(1, total=6, rows=rows)
    time.sleep(0.4)
    console.say("trial 0 is over")
    rows += [("best 2", "model.weights=https://me:secret@host/b.pth")]
    progress(2, rows=rows, note="nearly [bold]there", total=6)
    time.sleep(0.4)
console.say("the end")
"""


def shown(program: str) -> str:
    """What a program writes to its terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    env = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # its end has closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait() == 0
    return b"".join(parts).decode()


def test_a_table_and_a_bar_that_lines_pass_by() -> None:
    screen = shown(PROGRAM)
    assert "runs 3" in screen
    assert "loss.name=asl" in screen
    assert "1/6" in screen
    assert "2/6" in screen
    assert "nearly [bold]there" in screen
    assert "/a\\x1b]0;gone\\x07[red]b.pth" in screen
    assert "\x1b]0;" not in screen
    assert "https://host/b.pth" in screen
    assert "secret" not in screen
    lines = [line.strip() for line in screen.splitlines()]
    assert any(line.endswith("trial 0 is over") for line in lines)
    assert lines[-1].endswith("the end")


@pytest.mark.parametrize("words", [("train", "--help"), ("config", "keys")])
def test_a_reader_that_goes_away_is_no_fault(words: tuple[str, ...]) -> None:
    """As in `hpa-ray train --help | head -1`."""
    command = [sys.executable, "-m", "hpa_ray.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1
