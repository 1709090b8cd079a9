"""ioc_stream: every notification once, oldest first; the output file is the checkpoint."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import TRANSIENT, Handler, Run, Server, collection, error, file_object, load, start

ioc_stream = load("ioc_stream")
ROUNDS = int(os.environ.get("VT_TEST_ROUNDS", "5"))
START = 1_795_000_000


class Stream:
    """An IoC stream that answers like VirusTotal: filtered by date, in the order that was asked for, page by page."""

    def __init__(self, server: Server, *, inclusive: bool = True) -> None:
        self.items: list[dict[str, Any]] = []
        self.inclusive = inclusive
        server.answer("/ioc_stream", self.page)

    def add(self, count: int = 1, *, date: int | None = None, per_second: int = 5) -> None:
        """Add notifications: the next seconds, or all at `date`."""
        first = max((item["context_attributes"]["notification_date"] for item in self.items), default=START) + 1
        for number in range(count):
            item = file_object(number % 7)  # a file may match again and again
            context = {
                "notification_id": str(len(self.items)),
                "notification_date": first + number // per_second if date is None else date,
                "origin": "hunting",
                "hunting_info": {"rule_name": "\x1b[31m\u202e"},
            }
            self.items.append(item | {"context_attributes": context})

    @property
    def ids(self) -> list[str]:
        return [item["context_attributes"]["notification_id"] for item in sorted(self.items, key=date_of)]

    async def page(self, request: web.Request) -> web.StreamResponse:
        since = re.match(r"date:(\S+)\+", request.query.get("filter", ""))
        first = datetime.fromisoformat(since[1]).replace(tzinfo=UTC).timestamp() if since else 0
        found = [item for item in self.items if date_of(item) > first - self.inclusive]
        found.sort(key=date_of, reverse=request.query.get("order") != "date+")
        begin, size = int(request.query.get("cursor", 0)), int(request.query["limit"])
        cursor = str(begin + size) if begin + size < len(found) else None
        return web.json_response(collection(*found[begin : begin + size], cursor=cursor))


def date_of(item: dict[str, Any]) -> int:
    return int(item["context_attributes"]["notification_date"])


def ids(path: str = "out.jsonl") -> list[str]:
    """Return the notifications in a file."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["context_attributes"]["notification_id"] for line in lines]


def test_prints_notifications_unchanged_oldest_first(run: Run, server: Server) -> None:
    stream = Stream(server)
    stream.add(100)
    result = run("ioc_stream")
    assert (result.code, result.objects) == (0, stream.items)
    assert result.stdout.isascii()
    assert server.paths == [
        "GET /ioc_stream?order=date%2B&limit=40",
        "GET /ioc_stream?order=date%2B&limit=40&cursor=40",
        "GET /ioc_stream?order=date%2B&limit=40&cursor=80",
    ]


def test_options_reach_the_request(run: Run, server: Server) -> None:
    stream = Stream(server)
    stream.add(3)
    assert run("ioc_stream", "--since", "2026-11-01", "--filter", "origin:hunting entity_type:file").code == 0
    assert server.seen[0].query["filter"] == "date:2026-11-01T00:00:00+ origin:hunting entity_type:file"


def test_since_may_be_an_age(run: Run, server: Server) -> None:
    Stream(server)
    result = run("ioc_stream", "--since", "3h", "-o", "out.jsonl")
    asked = datetime.fromisoformat(server.seen[0].query["filter"].removeprefix("date:").rstrip("+")).replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - timedelta(hours=3) - asked) < timedelta(minutes=1)
    assert (result.code, Path("out.jsonl").read_text()) == (0, "")


def test_text_is_a_line_for_each_notification(run: Run, server: Server) -> None:
    Stream(server).add(2)
    assert run("ioc_stream", "--format", "text").stdout.splitlines() == [
        f"{file_object(number)['id']}  {number}/70  \\x1b[31m\\u202e  sample-{number}.exe" for number in range(2)
    ]


def test_limit(run: Run, server: Server) -> None:
    stream = Stream(server)
    stream.add(100)
    for _ in range(3):
        result = run("ioc_stream", "-o", "out.jsonl", "--limit", "30")
        assert (result.code, "complete" in result.last_line) == (0, False)
        assert "there is more" in result.last_line
        assert "the same command" in result.last_line
    assert ids() == stream.ids[:90]
    assert run("ioc_stream", "-o", "out.jsonl", "--limit", "10").last_line.endswith("complete")
    assert ids() == stream.ids
    assert "there is more" in run("ioc_stream", "--limit", "99").last_line
    assert run("ioc_stream", "--limit", "100").last_line.endswith("complete")


def test_follow_ends_at_the_limit(run: Run, server: Server) -> None:
    Stream(server).add(3)
    result = run("ioc_stream", "--follow", "--limit", "3")
    assert (result.code, len(result.objects), len(server.seen)) == (0, 3, 1)
    assert "there is more" in result.last_line


# ---- The checkpoint


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("per_second", [1, 5, 1000])
def test_each_notification_once_across_runs(run: Run, server: Server, inclusive: bool, per_second: int) -> None:
    stream = Stream(server, inclusive=inclusive)
    for _ in range(6):
        stream.add(45, per_second=per_second)
        assert run("ioc_stream", "-o", "out.jsonl").code == 0
        assert ids() == stream.ids


def test_a_run_continues_from_the_date_of_the_last_lines(run: Run, server: Server) -> None:
    stream = Stream(server)
    stream.add(1000)
    run("ioc_stream", "-o", "out.jsonl", "--since", "2026-01-01")
    server.seen.clear()
    stream.add(10)
    assert run("ioc_stream", "-o", "out.jsonl", "--since", "2026-01-01").code == 0
    assert ids() == stream.ids
    assert len(server.seen) <= 2


def test_notifications_of_the_second_in_which_a_run_ended(run: Run, server: Server) -> None:
    stream = Stream(server)
    for _ in range(4):
        stream.add(50, date=START)
        run("ioc_stream", "-o", "out.jsonl")
    assert sorted(ids(), key=int) == sorted(stream.ids, key=int)


def test_a_notification_that_arrives_a_few_seconds_late(run: Run, server: Server) -> None:
    stream = Stream(server)
    for late in (9, 1, 5, 9):
        stream.add(45)
        run("ioc_stream", "-o", "out.jsonl")
        stream.add(date=date_of(stream.items[-1]) - late)
        run("ioc_stream", "-o", "out.jsonl")
    assert sorted(ids(), key=int) == sorted(stream.ids, key=int)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_each_notification_once_after_20_kills(run: Run, server: Server, seed: int) -> None:
    """A kill leaves the file cut anywhere after what an earlier run flushed; an exhausted quota ends between pages."""
    stream, chance, flushed = Stream(server), random.Random(seed), 0
    for _ in range(20):
        stream.add(45)
        code = run("ioc_stream", "-o", "out.jsonl", VT_MAX_REQUESTS=str(chance.randint(1, 4))).code
        assert code in (0, 4)
        with open("out.jsonl", "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            flushed = chance.randint(min(flushed, size), size)
            file.truncate(flushed)
    assert run("ioc_stream", "-o", "out.jsonl").code == 0
    assert ids() == stream.ids


def test_a_huge_file_is_not_read_from_its_start(run: Run, server: Server) -> None:
    stream = Stream(server)
    stream.add(200)
    with open("out.jsonl", "wb") as file:
        file.write(b'{"')
        file.seek(100 << 30)  # a hole: reading it would take minutes
        file.write(b"\n" + b"".join(json.dumps(item).encode() + b"\n" for item in stream.items[:150]))
    assert run("ioc_stream", "-o", "out.jsonl").code == 0
    with open("out.jsonl", "rb") as file:
        file.seek(100 << 30)
        assert file.read() == b"\n" + b"".join(json.dumps(item).encode() + b"\n" for item in stream.items)


def test_an_item_with_an_error_comes_once(run: Run, server: Server) -> None:
    stream = Stream(server)
    stream.add(3)
    gone = {"type": "file", "id": "e" * 64, "error": {"code": "NotFoundError", "message": "gone"}}
    for count in (2, 3):
        server.answer("/ioc_stream", collection(*stream.items[:count], gone))
        assert run("ioc_stream", "-o", "out.jsonl").code == 0
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert written == [*stream.items[:2], gone, stream.items[2]]


@pytest.mark.parametrize(
    "content", ["precious", "precious\n", '{"type": "file", "id": "x"}\n', "[1]\n", '{"a": 1}\nprecious', "\n"]
)
def test_another_file_is_not_continued(run: Run, server: Server, content: str) -> None:
    Path("out.jsonl").write_text(content)
    result = run("ioc_stream", "-o", "out.jsonl")
    assert (result.code, server.seen, Path("out.jsonl").read_text()) == (2, [], content)


# ---- Failures


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    stream = Stream(server)
    stream.add(100)
    server.fail(number, TRANSIENT[fault])
    result = run("ioc_stream")
    assert (result.code, result.objects, len(server.seen)) == (0, stream.items, 4)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "BadRequestError"), 2),
        (error(401, "WrongCredentialsError"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(429, "QuotaExceededError"), 4),
        (error(503, "TransientError"), 1),
    ],
)
def test_an_error_on_the_first_page_is_one_line(run: Run, server: Server, answer: Handler, code: int) -> None:
    server.answer("/ioc_stream", answer)
    result = run("ioc_stream", "-o", "out.jsonl", VT_MAX_WAIT="0.01")
    assert (result.code, Path("out.jsonl").exists()) == (code, False)
    assert result.last_line.startswith("error: ")


@pytest.mark.parametrize(("status", "code"), [(429, 4), (503, 3)])
def test_an_error_later_keeps_what_came(run: Run, server: Server, status: int, code: int) -> None:
    stream = Stream(server)
    stream.add(100)
    for number in range(3, 99):
        server.fail(number, error(status, "TransientError"))
    result = run("ioc_stream", "-o", "out.jsonl", VT_MAX_WAIT="0.05")
    assert (result.code, ids()) == (code, stream.ids[:80])
    assert "the same command" in result.last_line
    server.faults.clear()
    assert run("ioc_stream", "-o", "out.jsonl").code == 0
    assert ids() == stream.ids


@pytest.mark.parametrize(
    "args", [["--since", "yesterday"], ["--filter", "date:2026-01-01+"], ["--limit", "-1"], ["--format", "json"], ["x"]]
)
def test_wrong_usage_is_one_line(run: Run, server: Server, args: list[str]) -> None:
    result = run("ioc_stream", *args)
    assert (result.code, len(result.stderr.splitlines()), server.seen) == (2, 1, [])


# ---- Following


def test_follow_asks_again_and_again(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioc_stream, "POLL_SECONDS", 0.1)
    stream = Stream(server)
    answer = server.handlers["/ioc_stream"]

    async def page(request: web.Request) -> web.StreamResponse:
        response = await answer(request)
        stream.add(15, per_second=5)
        return response

    server.answer("/ioc_stream", page)
    result = run("ioc_stream", "--follow", "-o", "out.jsonl", VT_MAX_REQUESTS="40")
    assert result.code == 4
    assert ids() == stream.ids[: len(ids())]
    assert len(ids()) > 300


def test_follow_outlasts_failures(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioc_stream, "POLL_SECONDS", 0.1)
    Stream(server).add(3)
    for number in range(2, 7):
        server.fail(number, list(TRANSIENT.values())[number - 2])
    result = run("ioc_stream", "--follow", VT_MAX_REQUESTS="8", VT_MAX_WAIT="0.01")
    assert (result.code, len(result.objects), len(server.seen)) == (4, 3, 8)


def test_a_notebook_iterates_over_notifications(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(server)
    stream.add(50)
    monkeypatch.setenv("VT_HOST", server.url)

    async def collect(**options: Any) -> list[dict[str, Any]]:
        return [item async for item in ioc_stream.ioc_stream("origin:hunting", apikey="k", **options)]

    since = f"{datetime.fromtimestamp(START, UTC):%Y-%m-%dT%H:%M:%S}"
    assert asyncio.run(collect(since=since)) == stream.items
    assert server.seen[0].query["filter"] == f"date:{since}+ origin:hunting"
    assert asyncio.run(collect(limit=41)) == stream.items[:41]


# ---- Processes


def test_kill_9_and_a_new_run(run: Run, server: Server, tmp_path: Path) -> None:
    stream, out = Stream(server), tmp_path / "out.jsonl"
    stream.add(4000)
    kills = max(1, ROUNDS // 5)
    for kill in range(1, kills + 1):
        process = start("ioc_stream", "-o", out, tmp_path=tmp_path, server=server)
        while len(server.seen) < kill * 50 // kills:
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert 0 < out.read_bytes().count(b"\n") < 4000
    assert run("ioc_stream", "-o", out).code == 0
    assert ids(str(out)) == stream.ids
