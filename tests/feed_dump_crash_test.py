"""feed_dump, killed: by signals, with a Dask worker, with the scheduler. Files are complete, and a rerun continues.

VT_TEST_ROUNDS sets how often a run is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from conftest import KEY, Handler, Run, Server, body, environment, error, start
from feed_dump_test import archive, files, layout, lines, minutes, now, package, publish, span, unpack

ROUNDS = int(os.environ.get("VT_TEST_ROUNDS", "5"))
NAMES = minutes(70 + 16 * ROUNDS)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def slow(content: bytes, seconds: float = 0.02) -> Handler:
    """Answer a download that takes a while."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        for half in (content[:50], content[50:]):
            await response.write(half)
            await asyncio.sleep(seconds)
        return response

    return handle


def publish_slowly(server: Server, names: list[str], seconds: float = 0.02) -> None:
    publish(server, names)
    for minute in names:
        server.answer(f"/feeds/files/{minute}", slow(package(minute), seconds))


def wait_until(true: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.01)


def wait_for_files(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: len(list(out.glob("date=*/hour=*/*"))) >= count, process)


def test_a_range_killed_at_random_moments_is_byte_identical(run: Run, server: Server, tmp_path: Path) -> None:
    publish_slowly(server, NAMES)
    for hour in {minute[:10] for minute in NAMES[3:]}:
        content = archive({minute: package(minute) for minute in NAMES if minute.startswith(hour)})
        server.answer(f"/feeds/files/hourly/{hour}", slow(content))
    whole = {layout(minute, "bz2"): package(minute) for minute in NAMES}
    out = tmp_path / "killed"
    args = ("files", *span(NAMES), "--format", "bz2", "--out", out)
    random.seed(6)
    for number in range(ROUNDS):
        hourly = ["--hourly"] if number % 4 == 3 else []
        process = start("feed_dump", *args, *hourly, "--jobs", "2", tmp_path=tmp_path, server=server)
        wait_for_files(out, len(files(out)) + random.randint(0, 9), process)
        time.sleep(random.uniform(0, 0.03))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was over before"
        assert files(out).items() <= whole.items()
    assert run("feed_dump", *args).code == 0
    assert files(out) == whole


@pytest.mark.parametrize(
    ("number", "args"),
    [(signal.SIGINT, span(NAMES)), (signal.SIGTERM, ["--from", "65m", "--follow"])],
    ids=["Ctrl-C", "SIGTERM, following"],
)
def test_a_signal_ends_a_slow_download_at_once(server: Server, tmp_path: Path, number: int, args: list[str]) -> None:
    names = minutes(6, now(minutes=65)) if "--follow" in args else NAMES[:6]
    publish(server, names)
    server.answer(f"/feeds/files/{names[3]}", slow(package(names[3]), 60))
    process = start("feed_dump", "files", *args, "--jobs", "3", tmp_path=tmp_path, server=server)
    asked = {f"GET /feeds/files/{minute}" for minute in names[:5]}
    wait_until(lambda: asked <= set(server.paths), process)
    wait_for_files(tmp_path / "files", 4, process)
    process.send_signal(number)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "interrupted" in stderr.splitlines()[-1]
    assert not list(tmp_path.glob("files/.parts-*"))
    there = {name: unpack(content) for name, content in files(tmp_path / "files").items()}
    assert there == {layout(minute): lines(minute) for minute in names[:6] if layout(minute) in there}


# ---- Dask


# A scheduler and two workers, forked so that Dask is imported once. The workers' process ids are printed.
CLUSTER = """
import asyncio, os, sys, distributed

async def serve(role, *args, **options):
    async with role(*args, host="127.0.0.1", dashboard=False, **options) as server:
        await server.finished()

port = int(sys.argv[1])
for _ in range(2):
    if pid := os.fork():
        print(pid, flush=True)
    else:
        asyncio.run(serve(distributed.Worker, f"tcp://127.0.0.1:{port}", nthreads=2))
        os._exit(0)
asyncio.run(serve(distributed.Scheduler, port=port))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str], list[int]]]:
    """Yield a scheduler's address and process, and its workers' process ids. Only the workers know the key."""
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Before 3.11.9, Dask's profiler can stop Python for ever (https://github.com/python/cpython/issues/106883).
    env = environment(tmp_path, DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED="false", VT_API_KEY=KEY)
    command = [sys.executable, "-c", CLUSTER, str(port)]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout
    workers = [int(process.stdout.readline()) for _ in range(2)]
    yield f"tcp://127.0.0.1:{port}", process, workers
    for pid in (process.pid, *workers):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_a_dask_worker_and_then_the_scheduler_are_killed(
    run: Run, server: Server, cluster: tuple[str, subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    address, scheduler, workers = cluster
    out = tmp_path / "files"
    publish_slowly(server, NAMES, 0.05)
    server.answer(f"/feeds/files/{NAMES[7]}", error(404, "NotFoundError"))
    server.answer(f"/feeds/files/{NAMES[9]}", error(503, "TransientError"), body(package(NAMES[9])))
    args = ("files", *span(NAMES), "--format", "bz2", "--out", out)
    options = ("--scheduler", address, "--jobs", "8")
    process = start("feed_dump", *args, *options, tmp_path=tmp_path, server=server, VT_API_KEY="")
    wait_for_files(out, 15, process)
    os.kill(workers[0], signal.SIGKILL)
    wait_for_files(out, 50, process)
    assert set(files(out)) >= {layout(minute, "bz2") for number, minute in enumerate(NAMES[:30]) if number != 7}
    assert len(server.seen) <= len(files(out)) + 2 + 8 + 4, "no more than is open, and what the dead worker had"
    scheduler.kill()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert [NAMES[7] in stderr.splitlines()[0], "scheduler" in stderr.splitlines()[-1]] == [True, True], stderr
    assert len(stderr.splitlines()) == 2, stderr
    assert KEY not in stderr + (tmp_path / "log").read_text()
    whole = {layout(minute, "bz2"): package(minute) for number, minute in enumerate(NAMES) if number != 7}
    assert files(out).items() <= whole.items()
    assert run("feed_dump", *args).code == 0
    assert files(out) == whole
