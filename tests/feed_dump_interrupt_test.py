"""A run that is told to end finishes what it has in hand, begins nothing new, and counts it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import feed_dump
import pytest
from conftest import KEY, Server
from feed_dump_hourly_test import HOUR, archive, hours
from feed_dump_test import body, files, layout, package, publish

FIRST = feed_dump.named(HOUR[0])


def interrupted(
    server: Server, monkeypatch: pytest.MonkeyPatch, dump: feed_dump.Dump, during: str, of: Any = feed_dump, **how: Any
) -> feed_dump.Run:
    """The Run of an hour that is cancelled while the one worker is at the function `during`, which then returns."""
    begun, go_on = threading.Event(), threading.Event()
    genuine = getattr(of, during)

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return genuine(*args, **kwargs)

    async def run() -> feed_dump.Run:
        task = asyncio.create_task(feed_dump.feed_dump(dump, FIRST, FIRST + 60, **how))
        assert await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        for _ in range(50):  # until each task has heard of it
            await asyncio.sleep(0)
        go_on.set()
        return await task

    monkeypatch.setattr(of, during, slow)
    monkeypatch.setattr(feed_dump, "pool", lambda dump: ThreadPoolExecutor(1))
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    return asyncio.run(run())


@pytest.mark.parametrize(("during", "done"), [("unpack", 0), ("publish", 1)])
def test_of_an_hour_what_is_in_hand_is_finished_and_the_rest_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str, done: int
) -> None:
    packages = publish(server, HOUR)
    hours(server, archive(packages))
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    run = interrupted(server, monkeypatch, dump, during, hourly=True)
    assert run.ended == ("interrupted", 130)
    assert run.published == done
    there = files(tmp_path / "d")
    assert len(there) == done and set(there) <= {layout(name) for name in HOUR}
    assert run.untried == {minute for minute in range(FIRST, FIRST + 60) if not dump.done(minute)}
    assert server.paths == ["GET /feeds/files/hourly/2096112201"]


def test_minutes_that_wait_for_a_core_are_not_begun(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, HOUR)
    run = interrupted(server, monkeypatch, feed_dump.Dump("files", str(tmp_path / "d")), "publish", jobs=8)
    assert run.published == len(files(tmp_path / "d")) == 1


@pytest.mark.parametrize("during", ["publish", "links", "store"])
def test_artifacts_are_not_gone_on_with_but_their_minute_counts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    links = [f"/feeds/file_behaviours/{i}/pcap" for i in range(50)]
    reports = [{"id": path, "context_attributes": {"pcap": f"{server.url}/api/v3{path}"}} for path in links]
    publish(server, HOUR, "file_behaviours")
    server.answer(f"/feeds/file_behaviours/{HOUR[0]}", body(package(reports)))
    for path in links:
        server.answer(path, body(b"pcap"))
    dump = feed_dump.Dump("file_behaviours", str(tmp_path / "d"), artifacts=("pcap",))
    run = interrupted(server, monkeypatch, dump, during, jobs=1)
    asked = [path for path in server.paths if path.endswith("pcap")]
    assert len(asked) <= (2 if during == "store" else 0), "as many as are in hand at once"
    assert (run.published, run.tally.artifacts) == (1, 1 if during == "store" else 0)
    assert run.untried == {FIRST} and run.untried_from == FIRST + 1


def test_an_archive_is_not_unpacked_to_its_end(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []

    def copied(*args: Any) -> None:
        unpacked.append(args)

    monkeypatch.setattr(feed_dump.shutil, "copyfileobj", copied)
    hours(server, archive(publish(server, HOUR)))
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    run = interrupted(server, monkeypatch, dump, "copyfileobj", feed_dump.shutil, hourly=True)
    assert len(unpacked) == 1 and not list(tmp_path.rglob(".*.part"))
    assert run.untried == set(range(FIRST, FIRST + 60))
