"""Killed runs, interrupted runs, runs side by side: what is on disk is whole, and one last run completes it."""

from __future__ import annotations

import asyncio
import bz2
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from aiohttp import web
from conftest import SCRIPTS, Handler, Server, environment, error
from feed_dump_test import body, files, layout, minutes, publish

NAMES = minutes(0, 480)
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, and locks that a killed process lets go of")


def start(
    tmp_path: Path, server: Server, out: Path, *args: str, end: str = "209611220800", **env: str
) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPTS / "feed_dump.py"), "files", "--from", NAMES[0], "--out", str(out), *args]
    return subprocess.Popen(
        command + (["--to", end] if end else []),
        env=environment(tmp_path, server, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=timeout)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stderr


class Gate:
    """Lets so many packages through (`left`), then holds each in mid-body: no run ends before a test is done with it.

    Who sits behind it needs PATIENT, or gives its download up.
    """

    left: float = float("inf")

    def slowly(self, content: bytes) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[:50])
            await asyncio.sleep(0.01)
            while self.left <= 0:  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.01)
            self.left -= 1
            await response.write(content[50:])
            return response

        return handle


PATIENT = {"VT_MAX_WAIT": "300"}


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def feed(server: Server, gate: Gate) -> Server:
    """Eight hours, some minutes missing."""
    for name, content in publish(server, NAMES).items():
        server.answer(f"/feeds/files/{name}", gate.slowly(content))
    for name in NAMES[50::60]:
        server.answer(f"/feeds/files/{name}", error(404, "NotFoundError"))
    return server


def caught(process: subprocess.Popen[str], out: Path, files_more: int) -> bool:
    """Waits until the run has written so many more files; False if it ended before."""
    there = len(list(out.rglob("[!.]*.*")))
    while process.poll() is None and len(list(out.rglob("[!.]*.*"))) < there + files_more:
        time.sleep(0.005)
    return process.poll() is None


@pytest.mark.parametrize(
    ("kills", "args"),
    [(50, ()), (10, ("--format", "zst", "--where", "$.attributes[?(@ > 2)]"))],
    ids=["fifty, raw", "ten, with worker processes"],
)
def test_kills_and_one_last_run_leave_what_one_run_leaves(
    feed: Server, gate: Gate, tmp_path: Path, kills: int, args: tuple[str, ...]
) -> None:
    code, stderr = end(start(tmp_path, feed, tmp_path / "whole", *args))
    assert code == 0, stderr
    whole = files(tmp_path / "whole")
    assert len(whole) == len(NAMES)
    random.seed(3)
    for _ in range(kills):
        gate.left = 8
        process = start(tmp_path, feed, tmp_path / "killed", *args, "--jobs", "2", **PATIENT)
        assert caught(process, tmp_path / "killed", random.randint(0, 6))
        time.sleep(random.uniform(0, 0.02))
        process.kill()
        process.communicate()
        for name, content in files(tmp_path / "killed").items():
            assert name.endswith(".part") or content == whole[name]
    gate.left = float("inf")
    code, stderr = end(start(tmp_path, feed, tmp_path / "killed", *args))
    assert code == 0, stderr
    assert files(tmp_path / "killed") == whole


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("args", [(), ("--follow",), ("--where", "$.id")], ids=["range", "follow", "where"])
def test_a_signal_ends_a_run_with_130_and_whole_files(
    feed: Server, gate: Gate, tmp_path: Path, sent: signal.Signals, args: tuple[str, ...]
) -> None:
    out = tmp_path / "d"
    gate.left = 100
    process = start(tmp_path, feed, out, *args, end="" if "--follow" in args else "209611220800", **PATIENT)
    assert caught(process, out, 20)
    process.send_signal(sent)
    code, stderr = end(process)
    assert code == 130 and stderr.splitlines()[-1].startswith("INCOMPLETE: "), stderr
    assert not [name for name in files(out) if name.endswith(".part")]
    verified = subprocess.run([sys.executable, SCRIPTS / "feed_dump.py", "verify", out], env=environment(tmp_path))
    assert verified.returncode in (0, 3), "gaps are none of a killed run's fault, but nothing is damaged"


@pytest.mark.parametrize("args", [(), ("--where", "$..id")], ids=["threads", "processes"])
@pytest.mark.parametrize("apart", [0.02, 0.3])
def test_a_second_interrupt_ends_at_once_with_whole_files(
    server: Server, gate: Gate, tmp_path: Path, args: tuple[str, ...], apart: float
) -> None:
    for name, content in publish(server, NAMES).items():
        server.answer(f"/feeds/files/{name}", gate.slowly(content))
    # What is in hand when the first comes takes longer than anyone waits.
    slow = bz2.compress((b'{"id": "a", "b": [' + b"1," * 100 + b"1]}\n") * 300_000)
    server.answer(f"/feeds/files/{NAMES[20]}", body(slow))
    gate.left = 20
    process = start(tmp_path, server, tmp_path / "d", *args, "--jobs", "4", **PATIENT)
    while not list((tmp_path / "d").rglob(f"{NAMES[19]}.*")) or f"GET /feeds/files/{NAMES[20]}" not in server.paths:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(apart)
    process.send_signal(signal.SIGINT)
    code, stderr = end(process, timeout=30)
    assert code == 130 and "interrupted" in stderr.splitlines()[-1], stderr
    verified = subprocess.run([sys.executable, SCRIPTS / "feed_dump.py", "verify", tmp_path / "d"], capture_output=True)
    assert b" 0 damaged" in verified.stderr


def test_two_runs_on_one_directory_do_no_harm(feed: Server, tmp_path: Path) -> None:
    ends = [end(run) for run in [start(tmp_path, feed, tmp_path / "d") for _ in range(2)]]
    assert [code for code, _ in ends] == [0, 0], ends
    end(start(tmp_path, feed, tmp_path / "one"))
    assert files(tmp_path / "d") == files(tmp_path / "one")


def test_the_leftovers_of_the_dead_go_and_those_of_the_living_stay(server: Server, tmp_path: Path) -> None:
    packages = publish(server, NAMES[:3])
    release = threading.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(packages[NAMES[0]][:10])
        await asyncio.to_thread(release.wait, 60)
        await response.write(packages[NAMES[0]][10:])
        return response

    out = tmp_path / "d"
    server.answer(f"/feeds/files/{NAMES[0]}", slow, body(packages[NAMES[0]]))
    alive = start(tmp_path, server, out, end=NAMES[1], **PATIENT)
    folder = (out / layout(NAMES[0])).parent
    while not list(folder.glob(".*.part")):  # in the minute's own folder: the run's settings have parts of their own
        time.sleep(0.02)
        assert alive.poll() is None, alive.communicate()
    left, not_ours = folder / ".0123deadbeef.part", out / ".film.part"
    for part in (left, not_ours):
        part.write_bytes(b"BZh9")
    assert end(start(tmp_path, server, out))[0] == 3  # it finds that only three minutes are available
    assert len(list(folder.glob(".*.part"))) == 2, "nobody can tell the dead's from the living's yet"
    release.set()
    assert end(alive)[0] == 0
    not_ours.unlink()
    assert files(out) == {layout(name): content for name, content in packages.items()}
