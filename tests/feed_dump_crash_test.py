"""feed_dump, killed: by signals, with a Dask worker, with the scheduler. Files are complete, and a rerun continues.

VT_TEST_ROUNDS sets how often a run is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from conftest import KEY, Handler, Run, Server, body, environment, error, start
from feed_dump_test import archive, files, layout, lines, minutes, now, package, publish, span, unpack

ROUNDS = int(os.environ.get("VT_TEST_ROUNDS", "5"))
NAMES = minutes(60 + 24 * ROUNDS)

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
        time.sleep(0.005)


def wait_for_files(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: len(list(out.glob("date=*/hour=*/*"))) >= count, process)


@pytest.mark.parametrize("args", [["--format", "bz2"], ["--format", "zst", "--hourly"]], ids=["bz2", "zst, archives"])
def test_a_range_killed_at_random_moments_is_byte_identical(
    run: Run, server: Server, tmp_path: Path, args: list[str]
) -> None:
    publish(server, NAMES)
    for hour in {minute[:10] for minute in NAMES[3:]}:
        content = archive({minute: package(minute) for minute in NAMES if minute.startswith(hour)})
        server.answer(f"/feeds/files/hourly/{hour}", slow(content))
    command = ("feed_dump", "files", *span(NAMES), *args)
    assert run(*command, "--out", tmp_path / "whole").code == 0
    whole = files(tmp_path / "whole")
    assert len(whole) == len(NAMES)

    publish_slowly(server, NAMES)
    out = tmp_path / "killed"
    random.seed(6)
    for _ in range(ROUNDS):
        process = start(*command, "--out", out, "--jobs", "2", tmp_path=tmp_path, server=server)
        wait_for_files(out, len(files(out)) + random.randint(0, 20), process)
        time.sleep(random.uniform(0, 0.03))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was over before"
        assert files(out).items() <= whole.items()
    assert run(*command, "--out", out).code == 0
    assert files(out) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("args", [span(NAMES), ["--from", "65m", "--follow"]], ids=["range", "follow"])
def test_a_signal_ends_a_crashed_download_at_once(server: Server, tmp_path: Path, number: int, args: list[str]) -> None:
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
    assert (process.returncode, len(stderr.splitlines())) == (130, 1)
    assert "run it again" in stderr
    assert not list(tmp_path.glob("files/.parts-*"))
    there = {name: unpack(content) for name, content in files(tmp_path / "files").items()}
    assert there == {layout(minute): lines(minute) for minute in names[:6] if layout(minute) in there}


# ---- Dask


class Cluster:
    """`dask scheduler` and `dask worker` as processes. Only the workers know the key."""

    def __init__(self, folder: Path, tmp_path: Path) -> None:
        # Before 3.11.9, Dask's profiler can stop Python for ever (https://github.com/python/cpython/issues/106883).
        self.folder, self.env = folder, environment(tmp_path, DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED="false")
        self.processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show", "--scheduler-file", str(file))
        wait_until(lambda: file.exists() and "tcp://" in file.read_text())
        self.address = re.findall(r'"(tcp://[^"]+)"', file.read_text())[0]

    def start(self, role: str, *args: str, **env: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", role, *args, "--no-dashboard"]
        log = self.folder / f"{len(self.processes)}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(command, env=self.env | env, cwd=self.folder, stdout=output, stderr=output)
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        return self.start("worker", self.address, "--nthreads", "2", "--no-nanny", VT_API_KEY=KEY)

    @property
    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    folder = tmp_path / "cluster"
    folder.mkdir()
    running = Cluster(folder, tmp_path)
    yield running
    running.close()


def test_a_killed_dask_worker_costs_no_minute(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    names = NAMES[:60]
    publish_slowly(server, names)
    server.answer(f"/feeds/files/{names[7]}", error(404, "NotFoundError"))
    server.answer(f"/feeds/files/{names[9]}", error(503, "TransientError"), body(package(names[9])))
    doomed, _ = cluster.worker(), cluster.worker()
    args = ("files", *span(names), "--scheduler", cluster.address, "--format", "bz2", "--jobs", "8")
    process = start("feed_dump", *args, tmp_path=tmp_path, server=server, VT_API_KEY="")
    out = tmp_path / "files"
    wait_for_files(out, 20, process)
    doomed.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr + cluster.logs
    assert files(out) == {layout(minute, "bz2"): package(minute) for minute in names if minute != names[7]}
    assert len(server.seen) <= 60 + 1 + 2, "beside the retry, only what the dead worker had begun"
    assert KEY not in stderr + cluster.logs


def test_a_dask_run_whose_scheduler_dies_ends(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    publish_slowly(server, NAMES, 0.1)
    args = ("files", *span(NAMES), "--scheduler", cluster.address)
    process = start("feed_dump", *args, tmp_path=tmp_path, server=server, VT_API_KEY="")
    cluster.worker()
    wait_for_files(tmp_path / "files", 2, process)
    cluster.processes[0].kill()
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, len(stderr.splitlines())) == (1, 1), stderr
    assert "scheduler" in stderr
    there = {name: unpack(content) for name, content in files(tmp_path / "files").items()}
    assert there == {layout(minute): lines(minute) for minute in NAMES if layout(minute) in there}
