"""Which Ray is joined or started."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from loopback import free_port, on_loopback

from hpa_ray import cluster
from hpa_ray.cluster import address
from hpa_ray.errors import InputError


def raylet(folder: Path, number: int, gcs: str) -> None:
    (folder / str(number)).mkdir(parents=True)
    words = ["/x/raylet/raylet", "--node_ip_address=10.0.0.1", f"--gcs-address={gcs}", ""]
    (folder / str(number) / "cmdline").write_text("\0".join(words))


def test_which_ray_would_be_joined(tmp_path: Path) -> None:
    temp, processes = str(tmp_path / "ray"), tmp_path / "proc"

    def found(given: str | None = None) -> str | None:
        environment = {} if given is None else {"RAY_ADDRESS": given}
        there = address.find_cluster(temp, environment, processes)
        return None if there is None else there.address

    for name, command in (("7", "python\0--gcs-address=1.1.1.1:1"), ("self", "x")):
        (processes / name).mkdir(parents=True)
        (processes / name / "cmdline").write_text(command)
    assert found() is None
    assert found("10.0.0.9:6379") == "10.0.0.9:6379"
    assert found("local") is None
    with pytest.raises(InputError, match="no Ray runs on this machine"):
        found("auto")
    raylet(processes, 8, "10.0.0.1:1")
    assert found() == found("auto") == "10.0.0.1:1"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
    assert found() == "10.0.0.1:1"
    raylet(processes, 9, "10.0.0.1:2")
    last = found()
    assert last is not None
    assert last.startswith("127.0.0.1:")
    stranger = {os.getuid() + 1}
    assert address.find_cluster(temp, {}, processes, stranger) is None  # whose cluster gets no keys of ours
    assert address.find_cluster(temp, {"RAY_ADDRESS": "auto"}, processes, stranger) is not None


def test_the_address_of_a_ray_that_has_ended_is_no_ray(tmp_path: Path) -> None:
    (tmp_path / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
    assert address.find_cluster(str(tmp_path), {}, tmp_path) is None
    with pytest.raises(InputError, match="no Ray runs on this machine"):
        address.find_cluster(str(tmp_path), {"RAY_ADDRESS": "auto"}, tmp_path)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("http://127.0.0.1:8265", "is that of a dashboard"),
        ("10.0.0.1", "is no HOST:PORT"),
        ("https://user:pass@h:1/x", "RAY_ADDRESS = https://h:1/x"),
    ],
)
def test_an_address_of_another_kind(given: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        address.find_cluster(str(tmp_path), {"RAY_ADDRESS": given}, tmp_path)
    assert why in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_where_no_ray_answers_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setattr("hpa_ray.cluster.start.ANSWER_WITHIN_S", 0.0)
    with pytest.raises(InputError) as caught:
        cluster.start_ray()
    assert str(caught.value) == (
        f"RAY_ADDRESS = 127.0.0.1:{port}: no Ray answers there (Connection refused) - "
        "start that cluster, or unset RAY_ADDRESS"
    )
    here = address.Cluster(f"127.0.0.1:{port}", f"a Ray of this machine at 127.0.0.1:{port}")
    with pytest.raises(InputError, match="its head has ended: end the rest of it too, or set RAY_ADDRESS=local"):
        address.expect_answer(here)


def test_a_head_that_restarts_is_waited_for() -> None:
    asked: list[int] = []

    def answer(connection: socket.socket) -> None:
        asked.append(1)
        if len(asked) > 3:  # two connections per question
            connection.recv(100)
            connection.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))

    with on_loopback(answer) as port:
        address.expect_answer(address.Cluster(f"127.0.0.1:{port}", "x"), within_s=20)
    assert len(asked) == 4


def test_a_ray_of_our_own_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    given: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **settings: given.append(settings))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{}])
    monkeypatch.setenv("RAY_ADDRESS", "local")
    cluster.start_ray()
    (own,) = given
    assert own["address"] == "local"
    assert own["include_dashboard"] is False


def test_a_ray_of_another_user_is_noticed(tmp_path: Path) -> None:
    def others(mark: Path, trusted: int) -> bool:
        return address.others_run_ray(tmp_path, mark, (trusted,))

    me, nobody, mark, none = os.getuid(), os.getuid() + 1, tmp_path / "mark", tmp_path / "none"
    assert not others(none, nobody)
    mark.write_text("10.0.0.1:6379")
    assert others(mark, nobody)
    assert not others(mark, me)
    for number, command in ((7, b"/bin/raylet\0--gcs-address=1\0"), (8, b"python\0raylet\0"), (9, b"")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cmdline").write_bytes(command)
    assert others(none, nobody)
    assert not others(none, me)
    (tmp_path / "7" / "cmdline").write_bytes(b"sh\0")
    assert not others(none, nobody)
