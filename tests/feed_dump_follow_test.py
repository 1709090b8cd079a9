"""Following a feed: the server says what there is, a follower keeps pace, shows how far it is, ends when told to."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import feed_dump
import pytest
from aiohttp import web
from conftest import KEY, SCRIPTS, Server, environment, error
from feed_dump_kill_test import end, start
from feed_dump_test import body, files, layout, lines, minutes, package, publish

NAMES = minutes(0, 5)


def test_a_follower_fetches_what_appears_and_asks_little_in_between(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, NAMES[:2])
    later = package(lines(NAMES[2]))
    server.answer(
        f"/feeds/files/{NAMES[2]}", error(400, "NotAvailableYet"), error(400, "NotAvailableYetError"), body(later)
    )
    monkeypatch.setattr(feed_dump, "POLL", 0.2)
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    first = feed_dump.named(NAMES[0])
    run = feed_dump.asyncio.run(feed_dump.feed_dump(dump, first, first + 3, follow=True))
    assert run.ended is None and run.published == 3
    assert files(tmp_path / "d")[layout(NAMES[2])] == later
    assert len(server.seen) <= 6, "one probe at a time once the server has nothing"


def test_a_followers_failures_are_tried_again_without_a_new_start(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, NAMES[:4])
    server.answer(f"/feeds/files/{NAMES[1]}", error(503, "TransientError"), *[error(503, "TransientError")] * 2,
                  body(package(lines(NAMES[1]))))  # fmt: skip
    server.answer(f"/feeds/files/{NAMES[4]}", *[error(400, "NotAvailableYet")] * 9, body(package(lines(NAMES[4]))))
    for name, value in {"POLL": 0.3, "RETRY": 0.5}.items():
        monkeypatch.setattr(feed_dump, name, value)
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY, "VT_MAX_WAIT": "1"}.items():
        monkeypatch.setenv(name, value)
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    first = feed_dump.named(NAMES[0])
    run = feed_dump.asyncio.run(feed_dump.feed_dump(dump, first, first + 5, follow=True, jobs=1))
    assert run.failed == set() and run.published == 5
    assert len(files(tmp_path / "d")) == 5


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_follower_that_waits_ends_at_once_when_told_to(server: Server, tmp_path: Path, sent: signal.Signals) -> None:
    packages = publish(server, NAMES)
    process = start(tmp_path, server, tmp_path / "d", "--follow", end="")
    probed = "GET /feeds/files/209611220005"
    while len(list((tmp_path / "d").rglob("2*.bz2"))) < len(NAMES) or probed not in server.paths:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(sent)
    code, stderr = end(process)
    assert code == 130 and "5 minutes (25 lines" in stderr and "interrupted" in stderr
    assert files(tmp_path / "d") == {layout(name): content for name, content in packages.items()}


def test_a_range_that_the_server_does_not_have_yet_is_incomplete(server: Server, tmp_path: Path) -> None:
    publish(server, NAMES)
    code, stderr = end(start(tmp_path, server, tmp_path / "d", end="209611230000"))
    assert code == 3 and "not available yet: 209611220005 and later" in stderr
    assert len(server.seen) < 20


@pytest.mark.parametrize("args", [("--jobs", "1"), ("--jobs", "16")])
def test_a_minute_not_available_in_the_middle_is_failed_and_ends_nothing(
    server: Server, tmp_path: Path, args: tuple[str, ...]
) -> None:
    names = minutes(0, 40)
    packages = publish(server, names)
    for name in names[5:7]:
        server.answer(f"/feeds/files/{name}", error(400, "NotAvailableYet"))
    code, stderr = end(start(tmp_path, server, tmp_path / "d", *args, end=""))
    assert code == 3 and "failed: 209611220005 to 209611220006;" in stderr.splitlines()[-1], stderr
    assert set(files(tmp_path / "d")) == {layout(name) for name in set(names) - set(names[5:7])}
    asked = len(server.seen)
    assert end(start(tmp_path, server, tmp_path / "d", *args, end=""))[0] == 3, "later minutes are on disk"
    assert len(server.seen) < asked + 20
    server.answer(f"/feeds/files/{names[5]}", body(packages[names[5]]))
    server.answer(f"/feeds/files/{names[6]}", error(400, "NotAvailableYet"), body(packages[names[6]]))
    assert end(start(tmp_path, server, tmp_path / "d", *args, end=""))[0] == 0, "it may have come in between"
    assert files(tmp_path / "d") == {layout(name): content for name, content in packages.items()}


def test_a_follower_goes_past_a_minute_that_never_comes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, [*NAMES[:2], *NAMES[4:]])
    for name, value in {"POLL": 0.02, "RETRY": 1000}.items():
        monkeypatch.setattr(feed_dump, name, value)
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    first = feed_dump.named(NAMES[0])
    run = feed_dump.asyncio.run(feed_dump.feed_dump(dump, first, first + 5, follow=True, jobs=1))
    assert run.published == 3 and run.failed == {first + 2, first + 3}
    assert len(server.seen) < 30


def test_404s_beyond_what_the_server_has_are_neither_missing_nor_failed(server: Server, tmp_path: Path) -> None:
    publish(server, NAMES[:3])
    server.answer("/feeds/files/*", error(404, "NotFoundError"))
    server.answer(f"/feeds/files/{NAMES[3]}", error(400, "NotAvailableYet"))
    code, stderr = end(start(tmp_path, server, tmp_path / "d", end=""))
    assert code == 0 and ", 0 missing" in stderr, stderr
    assert set(files(tmp_path / "d")) == {layout(name) for name in NAMES[:3]}


def test_a_download_without_end_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(server, NAMES[:3])
    server.answer(f"/feeds/files/{NAMES[1]}", body(b"BZh9" + bytes(5000)))
    monkeypatch.setattr(feed_dump, "LARGEST", 4000)
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    first = feed_dump.named(NAMES[0])
    run = feed_dump.asyncio.run(feed_dump.feed_dump(feed_dump.Dump("files", str(tmp_path / "d")), first, first + 3))
    assert run.failed == {first + 1} and run.published == 2
    assert len(server.seen) == 3


def test_an_endless_row_of_404s_ends(server: Server, tmp_path: Path) -> None:
    code, stderr = end(start(tmp_path, server, tmp_path / "d", end=""))
    assert code == 3 and "in a row could not be found" in stderr.splitlines()[-1]
    assert not list((tmp_path / "d").rglob("*.missing"))


def test_minutes_older_than_the_feeds_are_lost_not_to_be_had_by_another_run(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "d"
    command = [sys.executable, SCRIPTS / "feed_dump.py", "files", "--from", "202501010000", "--to", "202501010010"]
    result = subprocess.run(
        [*command, "--out", out], env=environment(tmp_path, server), capture_output=True, text=True, timeout=60
    )
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 3 and "lost: 202501010000 to 202501010009; feeds reach back 7 days" in last
    assert "run again" not in result.stderr


def test_a_server_that_is_down_ends_the_run_after_a_bounded_number_of_failures(server: Server, tmp_path: Path) -> None:
    server.answer("/feeds/*", error(503, "TransientError"))
    process = start(tmp_path, server, tmp_path / "d", "--jobs", "20")
    code, stderr = end(process, timeout=80)
    assert code == 3 and "minutes in a row failed" in stderr.splitlines()[-1]


def test_an_hourly_follower_asks_for_no_hours_while_it_waits_for_a_minute(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = minutes(0, 80)
    publish(server, names[:65])
    server.answer("/feeds/files/hourly/*", error(400, "NotAvailableYet"))
    for name in names[65:]:  # from the 20th question on, the server has more
        content = package(lines(name))

        async def handle(request: web.Request, content: bytes = content) -> web.StreamResponse:
            there = server.paths.count(f"GET /feeds/files/{names[65]}") > 20
            return await (body(content) if there else error(400, "NotAvailableYet"))(request)

        server.answer(f"/feeds/files/{name}", handle)
    monkeypatch.setattr(feed_dump, "POLL", 0.01)
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    first = feed_dump.named(NAMES[0])

    async def until_there() -> feed_dump.Run:
        task = asyncio.create_task(feed_dump.feed_dump(dump, first, None, follow=True, hourly=True, jobs=1))
        async with asyncio.timeout(30):
            while not all(dump.done(minute) for minute in range(first, first + 80)):  # noqa: ASYNC110 - files tell no one
                await asyncio.sleep(0.01)
        task.cancel()
        return await task

    run = asyncio.run(until_there())
    assert run.published == 80 and not run.failed
    assert len([path for path in server.paths if "hourly" in path]) <= 3
    assert len(server.seen) < 130


class Clocked:
    """A feed that reaches from `oldest` to an hour before now, by the clock: 404 before, not available yet after."""

    def __init__(self, server: Server, gap: range = range(0)) -> None:
        self.now = int(time.time() // 60)
        self.oldest, self.gap = self.now - feed_dump.REACH + 3, gap  # 3: the clock goes on while a test runs
        server.answer("/feeds/files/hourly/*", error(404, "NotFoundError"))
        server.answer("/feeds/files/*", self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        minute = feed_dump.named(request.path[-12:])
        assert minute is not None
        if minute < self.oldest:
            return await error(404, "NotFoundError")(request)
        if minute > self.now - 60 or minute in self.gap:
            return await error(400, "NotAvailableYet")(request)
        return await body(package(lines(feed_dump.name(minute))))(request)


@pytest.mark.parametrize("args", [(), ("--hourly", "--jobs", "2"), ("--jobs", "200")])
def test_what_the_feeds_no_longer_reach_is_passed_over(server: Server, tmp_path: Path, args: tuple[str, ...]) -> None:
    feed = Clocked(server)
    first, stop = feed.oldest - 1000, feed.oldest + 20
    command = [sys.executable, SCRIPTS / "feed_dump.py", "files", "--from", feed_dump.name(first)]
    command += ["--to", feed_dump.name(stop), "--out", tmp_path / "d", *args]
    result = subprocess.run(command, env=environment(tmp_path, server), capture_output=True, text=True, timeout=60)
    assert result.returncode == 3 and f"lost: {feed_dump.name(first)} to " in result.stderr.splitlines()[-1]
    assert set(files(tmp_path / "d")) == {layout(feed_dump.name(minute)) for minute in range(feed.oldest, stop)}
    assert len(server.seen) < 400


def test_a_follower_passes_over_what_the_feeds_no_longer_reach(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Clocked(server)
    monkeypatch.setattr(feed_dump, "POLL", 60)  # a pause is one too many
    for name, value in {"VT_HOST": server.url, "VT_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    dump = feed_dump.Dump("files", str(tmp_path / "d"))
    dumping = feed_dump.feed_dump(dump, feed.oldest - 1000, feed.oldest + 5, follow=True)
    run = asyncio.run(asyncio.wait_for(dumping, 30))
    assert run.published == 5 and run.ended is None


@pytest.mark.parametrize("to", [True, False])
def test_a_gap_of_minutes_that_never_come_is_no_end(server: Server, tmp_path: Path, to: bool) -> None:
    now = int(time.time() // 60)
    first, gap = now - 150, range(now - 145, now - 130)
    feed = Clocked(server, gap)
    command = [sys.executable, SCRIPTS / "feed_dump.py", "files", "--from", feed_dump.name(first), "--jobs", "4"]
    command += ["--to", feed_dump.name(feed.now - 65)] if to else []
    result = subprocess.run(
        [*command, "--out", tmp_path / "d"], env=environment(tmp_path, server), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 3 and f"failed: {feed_dump.name(gap[0])} to {feed_dump.name(gap[-1])};" in last
    there = set(range(first, feed.now - (65 if to else 59))) - set(gap)
    assert set(files(tmp_path / "d")) == {layout(feed_dump.name(minute)) for minute in there}
    assert f"{len(there)} minutes" in last and " 0 were there" in last


@pytest.mark.parametrize("live", [True, False])
def test_the_rate_of_a_follower_in_pace_is_one_minute_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    first = feed_dump.named(NAMES[0])
    run = feed_dump.Run(feed_dump.Dump("files", str(tmp_path)), first, None, follow=True)
    shown: list[str] = []
    clock = 0.0

    async def tick(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        run.published, run.newest = int(clock / 60 + 0.3), first + int(clock / 60)
        if clock > 600:
            raise asyncio.CancelledError

    monkeypatch.setattr(feed_dump.sys.stderr, "isatty", lambda: live, raising=False)
    monkeypatch.setattr(feed_dump.asyncio, "sleep", tick)
    monkeypatch.setattr(feed_dump.time, "monotonic", lambda: clock)
    monkeypatch.setattr(feed_dump, "say", shown.append)
    monkeypatch.setattr("rich.status.Status.update", lambda self, status: shown.append(status))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(feed_dump.show(run))
    rates = [float(re.findall(r"([0-9.]+) minutes/min", text)[0]) for text in shown if "minutes/min" in text]
    assert set(rates[len(rates) // 2 :]) == {1.0}
