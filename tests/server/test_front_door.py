"""What the front door counts, how large an honest reply is, and that nginx takes what is written for it."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
import toy_device
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from toy_patience import LIMIT, until
from toy_port import own_port
from toy_study import make_study

from commonground.errors import InputError
from commonground.manifest import Manifest, TensorSpec
from commonground.server import front_door
from commonground.server.front_door import (
    FLOOD,
    PACKED,
    REFUSED,
    Refusals,
    crowds,
    front_door_command,
    network,
    nginx,
    reason_of,
    write_config,
)
from commonground.server.limits import OTHER, limits
from commonground.server.superlink import listens
from commonground.strategies.records import train_content


def line(status: int, path: str, inside: str = "") -> bytes:
    return json.dumps({"status": status, "path": path, "inside": inside}).encode() + b"\n"


@pytest.mark.parametrize(
    ("status", "path", "inside", "reason"),
    [
        (404, "/v1/control/list-nodes", "", "front door: closed path"),
        (413, "/v1/fleet/push-object", "", "front door: message too large"),
        (503, "/v1/fleet/pull-messages", "", "front door: too many requests"),
        (503, "/v1/fleet/pull-messages", "503", None),
        (502, "/v1/fleet/pull-messages", "502", None),
        (401, "/v1/fleet/pull-messages", "401", "front door: node key is not enrolled"),
        (412, "/v1/fleet/activate-node", "412", "front door: node key is not enrolled"),
        (415, "/v1/fleet/push-messages", "415", "front door: request that cannot be read"),
        (415, "/enrol", "", "front door: a packed request"),
        (403, "/v1/fleet/push-messages", "403", None),  # the guard counts its own, by place
        (400, "", "", "front door: request that cannot be read"),
        (403, "/enrol", "403", None),  # enrolment counts its own
        (413, "/enrol", "", "front door: message too large"),
    ],
)
def test_reasons(status: int, path: str, inside: str, reason: str | None) -> None:
    assert reason_of(line(status, path, inside)) == reason


def test_what_is_no_line_of_ours_is_counted_too() -> None:
    for odd in (b"", b"{", b'{"status": "x"}', b"[1]"):
        assert reason_of(odd) == "front door: request that cannot be read"


def test_refusals_are_read_once_and_whole(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    path = study.run / REFUSED
    path.write_bytes(line(404, "/old"))
    refusals = Refusals(study)
    assert list(refusals.new()) == []  # of a server before this one, which counted it
    with path.open("ab") as file:
        file.write(line(404, "/x") + line(413, "/y") + line(404, "/z")[:9])
    assert list(refusals.new()) == ["front door: closed path", "front door: message too large"]
    with path.open("ab") as file:
        file.write(line(404, "/z")[9:])
    assert list(refusals.new()) == ["front door: closed path"]
    assert list(refusals.new()) == []


def test_a_flood_of_refusals_is_read_by_pieces_and_takes_no_more_than_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path / "study")
    refusals, path, one = Refusals(study), study.run / REFUSED, line(404, "-")
    monkeypatch.setattr(front_door, "PIECE", 10 * len(one) + 5)
    monkeypatch.setattr(front_door, "LARGEST", 100 * len(one))
    path.write_bytes(25 * one)
    assert [len(list(refusals.new())) for _ in range(4)] == [10, 10, 5, 0]
    with path.open("ab") as file:
        file.write(80 * one)
    found = list(refusals.new())
    assert (len(found), found[-1], path.stat().st_size) == (11, FLOOD, 0)
    with path.open("ab") as file:
        file.write(one)
    assert list(refusals.new()) == ["front door: closed path"]


@pytest.mark.parametrize("shape", [(3,), (200, 300), (1500, 1024)])
def test_an_honest_reply_fits_and_one_ten_times_as_large_does_not(shape: tuple[int, ...]) -> None:
    manifest = Manifest((TensorSpec("a", shape), TensorSpec("b", ())), 1.0, False, {})
    bounds = limits(manifest)
    rng = np.random.default_rng(0)

    def reply(scale: int) -> tuple[int, int, int]:
        big = (shape[0] * scale, *shape[1:])
        arrays = {name: rng.normal(size=size).astype(np.float32) for name, size in (("a", big), ("b", ()))}
        content = train_content(arrays)
        sizes = [len(part.deflate()) for part in get_all_nested_objects(content).values()]
        return len(sizes) + 1, max(sizes), get_object_tree(content).ByteSize()

    objects, largest, tree = reply(1)
    assert objects <= bounds.objects
    assert largest <= bounds.object_bytes
    assert tree <= bounds.tree_bytes
    size = int(np.prod(shape)) * 4
    assert bounds.message_bytes < max(20 * size, 10 * OTHER) + 10 * OTHER
    if size > OTHER:
        assert reply(10)[0] > bounds.objects or reply(10)[1] > bounds.object_bytes


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", address="[::1]:18499")
    path = write_config(study, 1, 2, limits(toy_device.manifest()))
    checked = subprocess.run(
        [*front_door_command(study), "-t"], check=False, capture_output=True, text=True, timeout=LIMIT
    )
    assert checked.returncode == 0, checked.stderr
    text = path.read_text()
    assert text.count("proxy_pass") == 12
    assert "/v1/control" not in text
    assert "/v1/runtime" not in text
    assert "listen [::1]:18499 ssl;" in text


def test_a_folder_with_spaces_is_served_and_nothing_that_a_stranger_wrote_is_kept(tmp_path: Path) -> None:
    port = own_port()
    study = make_study(tmp_path / "my studies; first" / "study", address=f"127.0.0.1:{port}")
    write_config(study, 1, 2, limits(toy_device.manifest()))
    door = subprocess.Popen(front_door_command(study), stderr=subprocess.PIPE)
    try:
        until(lambda: listens(port), alive=door)
        trust = ssl.create_default_context(cafile=str(study.folder / "ca.crt"))
        with httpx.Client(verify=trust, base_url=f"https://127.0.0.1:{port}", trust_env=False) as client:
            answers = [client.get(f"/v1/control/a-strangers-word-{k}?b=c").status_code for k in range(60)]
            assert client.post("/v1/fleet/get-run?another=word", content=b"x").status_code == 502
    finally:
        door.terminate()
        door.communicate(timeout=LIMIT)
    assert set(answers) == {404, 503}  # so many of them only
    kept = (study.run / REFUSED).read_bytes()
    assert kept.count(b"\n") == 61
    assert kept.startswith(line(404, "-").replace(b": ", b":").replace(b", ", b","))
    assert b"word" not in kept
    written = [path for path in study.log.iterdir() if b"strangers" in path.read_bytes()]
    assert written == []
    assert reason_of(kept.splitlines()[0]) == "front door: closed path"


def test_half_open_connections_do_not_shut_the_door_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class: what is limited per request is not limited before the request has come.

    600 connections that send three bytes and wait, where 4,200 were enough to shut the door before.
    """
    monkeypatch.setattr(front_door, "CONNECTIONS", 600)
    monkeypatch.setattr(front_door, "EACH", 100)
    monkeypatch.setattr(front_door, "HEAD", 5)
    port, held = own_port(), list[socket.socket]()
    study = make_study(tmp_path / "study", address=f"127.0.0.1:{port}")
    write_config(study, 1, 2, limits(toy_device.manifest()))
    door = subprocess.Popen(front_door_command(study), stderr=subprocess.PIPE)
    try:
        until(lambda: listens(port), alive=door)
        for _ in range(600):
            held.append(socket.create_connection(("127.0.0.1", port)))
            held[-1].sendall(b"\x16\x03\x01")
        assert set(crowds(port)) == {"127.0.0.1"}
        trust = ssl.create_default_context(cafile=str(study.folder / "ca.crt"))
        for _ in range(4):  # another client each
            with httpx.Client(
                verify=trust, base_url=f"https://127.0.0.1:{port}", trust_env=False, timeout=LIMIT
            ) as client:
                assert client.post("/v1/fleet/get-run", content=b"x").status_code == 502
                packed = client.post("/enrol", content=b"x", headers={"content-encoding": "gzip"})
                assert packed.status_code == 415
        until(lambda: not crowds(port), alive=door)  # each has ten seconds (here five) for its handshake
    finally:
        for one in held:
            one.close()
        door.terminate()
        door.communicate(timeout=LIMIT)
    assert "not enough" not in (study.log / "front_door.log").read_text()
    assert PACKED in [reason_of(found) for found in (study.run / REFUSED).read_bytes().splitlines()]


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("0100007F", "127.0.0.1"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
        ("B80D0120020001000300000001000000", "2001:db8:1:2::/64"),
    ],
)
def test_addresses_as_the_kernel_lists_them(kernel: str, said: str) -> None:
    assert network(kernel) == said


def test_crowds_are_those_of_the_doors_own_port(tmp_path: Path) -> None:
    """Two neighbours of one /64 are one client; what listens, or another port's, counts for nothing."""
    rows = []
    for number in range(300):
        for last in ("01000000", "02000000"):
            there = f"B80D01200200010003000000{last}:{40000 + number:04X}"
            rows.append(f"{number}: B80D0120000000000000000001000000:20FB {there} 01 0 0")
        rows.append(f"{number}: 0100007F:20FC 0100007F:{number:04X} 01 0 0")
        rows.append(f"{number}: 0100007F:20FB 0200007F:{number:04X} 0A 0 0")
    table = tmp_path / "tcp6"
    table.write_text("head\n" + "\n".join(rows))
    assert crowds(0x20FB, [table, tmp_path / "missing"]) == {"2001:db8:1:2::/64": 600}


def test_a_folder_that_nginx_cannot_take_is_said(tmp_path: Path) -> None:
    study = make_study(tmp_path / "a$b" / "study")
    with pytest.raises(InputError, match=r"a\$b/study' holds a character that nginx cannot take"):
        write_config(study, 1, 2, limits(toy_device.manifest()))


def test_without_nginx_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(InputError, match="nginx is not installed") as caught:
        nginx()
    assert "nginx-light" in str(caught.value.hint)
