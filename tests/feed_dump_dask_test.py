"""The same dump by a real Dask scheduler and two worker processes, one of them killed in mid-run."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import feed_dump
import pytest
from aiohttp import web
from conftest import KEY, SCRIPTS, Handler, Server, environment, error
from feed_dump_kill_test import PATIENT, Gate, caught, end
from feed_dump_test import files, layout, minutes, publish

pytest.importorskip("distributed")
NAMES = minutes(0, 240)


class Cluster:
    """`dask scheduler` and `dask worker` processes; their logs are files."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        self.processes: list[subprocess.Popen[bytes]] = []
        self.file = folder / "scheduler.json"
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show",
                   "--scheduler-file", str(self.file))  # fmt: skip
        self.until(self.addresses)  # the file may be there before what it holds
        self.address = self.addresses()[0]

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        # The scheduler's environment lacks the key: it has no use for it.
        env = {k: v for k, v in self.env.items() if args[0] == "worker" or not k.startswith("VT_")}
        command = [sys.executable, "-m", "dask", *args]
        with open(self.folder / f"{args[0]}{len(self.processes)}.log", "wb") as log:
            process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        before = len(re.findall("Registered to", self.logs()))
        process = self.start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                             "--local-directory", str(self.folder))  # fmt: skip
        self.until(lambda: len(re.findall("Registered to", self.logs())) > before)
        return process

    def until(self, true: object) -> None:
        deadline = time.monotonic() + 60
        while not true():  # type: ignore[operator]
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def addresses(self) -> list[str]:
        return re.findall(r'"(tcp://[^"]+)"', self.file.read_text()) if self.file.exists() else []

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path, server: Server) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    running = Cluster(folder, environment(tmp_path, server, **PATIENT))
    yield running
    running.close()


def dump(tmp_path: Path, server: Server | None, out: Path, *args: str, **extra: str) -> subprocess.Popen[str]:
    env = environment(tmp_path, server, **extra)
    env.pop("VT_API_KEY", None)  # the workers' environment has it, this process needs none
    command = [sys.executable, str(SCRIPTS / "feed_dump.py"), "files", "--from", NAMES[0], "--to", "209611220400"]
    return subprocess.Popen(
        [*command, "--out", str(out), *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name != "posix", reason="a killed worker is a POSIX affair here")
def test_a_killed_worker_costs_no_minute_and_none_twice(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    packages = publish(server, NAMES)
    gate = Gate()
    gate.left = 150
    for name, content in packages.items():
        server.answer(f"/feeds/files/{name}", gate.slowly(content))
    server.answer(f"/feeds/files/{NAMES[100]}", error(404, "NotFoundError"))
    doomed, _ = cluster.worker(), cluster.worker()
    out = tmp_path / "d"
    process = dump(tmp_path, server, out, "--scheduler", cluster.address)
    assert caught(process, out, 40), process.communicate()
    doomed.kill()
    gate.left = float("inf")
    code, stderr = end(process, timeout=90)
    assert code == 0, stderr + cluster.logs()
    del packages[NAMES[100]]
    got = files(out)
    assert got.pop(layout(NAMES[100], ".missing")) == b""
    assert {name for name in got if not name.endswith(".part")} == {layout(name) for name in packages}
    assert got == {layout(name): content for name, content in packages.items()}
    twice = [path for path in set(server.paths) if server.paths.count(path) > 1]
    assert len(twice) <= 1, "only what was in the dead worker's hand"
    assert KEY not in cluster.logs() + stderr


def test_hours_and_columns_go_over_dask_too(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    import pandas as pd

    publish(server, NAMES)
    cluster.worker()
    args = ("--scheduler", cluster.address, "--hourly", "--format", "parquet", "--column", "size")
    code, stderr = end(dump(tmp_path, server, tmp_path / "d", *args), timeout=90)
    assert code == 0, stderr + cluster.logs()
    frame = pd.read_parquet(tmp_path / "d")
    assert len(frame) == 1200 and frame["size"].sum() == 240 * 10


def test_the_profiler_leaves_a_worker_whose_python_it_may_stop_for_ever(
    server: Server, cluster: Cluster, tmp_path: Path
) -> None:
    import distributed

    publish(server, NAMES)
    cluster.worker()
    code, stderr = end(dump(tmp_path, server, tmp_path / "d", "--scheduler", cluster.address), timeout=90)
    assert code == 0, stderr
    cluster.worker()  # one that comes later is told too
    with distributed.Client(cluster.address) as client:
        profiled = client.run(lambda dask_worker: "profile" in dask_worker.periodic_callbacks)
    assert list(profiled.values()) == [sys.version_info >= (3, 11, 9)] * 2


def test_a_worker_without_a_key_says_so(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    del cluster.env["VT_API_KEY"]
    cluster.worker()
    code, stderr = end(dump(tmp_path, server, tmp_path / "d", "--scheduler", cluster.address), timeout=60)
    assert code == 2 and "a worker: no API key" in stderr.splitlines()[-1]
    assert not server.seen


def test_no_scheduler_is_an_error_of_one_line(server: Server, tmp_path: Path) -> None:
    args = ("--scheduler", "tcp://127.0.0.1:1")
    code, stderr = end(dump(tmp_path, server, tmp_path / "d", *args), timeout=60)
    assert code == 2 and "tcp://127.0.0.1:1" in stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "env", "said"), [(("--apikey", KEY), {}, "--apikey"), ((), {"VT_RATE": "0"}, "VT_RATE")]
)
def test_what_would_have_no_effect_is_refused(
    server: Server, cluster: Cluster, tmp_path: Path, args: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    code, stderr = end(dump(tmp_path, server, tmp_path / "d", "--scheduler", cluster.address, *args, **env))
    assert code == 2 and said in stderr and len(stderr.splitlines()) == 1 and KEY not in stderr


def test_the_rate_bounds_what_all_workers_ask_for(server: Server, cluster: Cluster, tmp_path: Path) -> None:
    publish(server, NAMES[:6])
    cluster.env["VT_RATE"] = "1"  # of the workers' own: no task makes a second request
    cluster.worker(), cluster.worker()
    asked: list[float] = []
    for name in NAMES[:6]:
        server.answer(f"/feeds/files/{name}", noting(asked, server.handlers[f"/feeds/files/{name}"]))
    args = ("--scheduler", cluster.address, "--jobs", "2")
    code, stderr = end(dump(tmp_path, server, tmp_path / "d", *args, VT_RATE="120"), timeout=90)
    assert code == 3 and len(asked) == 6, stderr
    # The first is answered before the second is sent, so that four intervals of half a second lie between the others.
    assert asked[-1] - asked[0] > 1.9


def noting(times: list[float], handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        times.append(time.monotonic())
        return await handler(request)

    return handle


def test_a_follower_whose_scheduler_dies_ends(
    server: Server, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distributed

    publish(server, NAMES[:3])
    cluster.worker()
    patient = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, **kw: patient(address, **kw | {"timeout": 1}))
    monkeypatch.setattr(feed_dump, "POLL", 0.1)
    monkeypatch.setenv("VT_HOST", server.url)
    settings = feed_dump.Dump("files", str(tmp_path / "d"))

    async def follow() -> feed_dump.Run:
        first = feed_dump.named(NAMES[0])
        run = asyncio.create_task(feed_dump.feed_dump(settings, first, None, follow=True, scheduler=cluster.address))
        while len(files(tmp_path / "d")) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        cluster.processes[0].kill()
        async with asyncio.timeout(60):
            return await run

    run = asyncio.run(follow())
    assert run.ended == (f"the scheduler {cluster.address} is gone: start it and run again", 1)
