"""search_to_urls: one URL per line, never a hash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import search_to_urls as script
from conftest import KEY, TRANSIENT, Handler, Run, Server, collection, error, start

SEARCH = "/intelligence/search"


def url_object(number: int, **where: Any) -> dict[str, Any]:
    """Return a URL object as a search answers it; `where` overrides the context attributes and attributes."""
    return {"type": "url", "id": f"{number:064x}"} | (
        where or {"context_attributes": {"url": f"http://evil.example/{number}"}}
    )


def three_pages(server: Server) -> None:
    server.answer(
        SEARCH,
        collection(url_object(0), url_object(1), cursor="b", total_hits=5),
        collection(url_object(2), url_object(3), cursor="c", total_hits=5),
        collection(url_object(4), total_hits=5),
    )


FIVE = [f"http://evil.example/{number}" for number in range(5)]


def test_every_url_of_every_page_is_a_line(run: Run, server: Server) -> None:
    three_pages(server)
    result = run("search_to_urls", 'entity:url title:"AbC"', "--limit", 0)
    assert (result.code, result.stdout.splitlines()) == (0, FIVE)
    assert server.paths[0] == "GET /intelligence/search?query=entity:url+title:%22AbC%22&limit=300"
    assert len(server.seen) == 3


def test_the_url_is_wherever_virustotal_puts_it(run: Run, server: Server) -> None:
    attributes = {"attributes": {"url": "http://a.example/"}, "context_attributes": None}
    both = {"attributes": {"url": "http://wrong.example/"}, "context_attributes": {"url": "http://b.example/"}}
    listed = {"context_attributes": {"url": ["http://c.example/"]}}  # seen in a real answer
    server.answer(SEARCH, collection(url_object(0, **attributes), url_object(1, **both), url_object(2, **listed)))
    expected = ["http://a.example/", "http://b.example/", "http://c.example/"]
    assert run("search_to_urls", "entity:url p:3+").stdout.splitlines() == expected


def test_an_object_without_a_url_is_named_on_stderr(run: Run, server: Server) -> None:
    gone = url_object(7, error={"code": "NotFoundError", "message": "gone"})
    server.answer(SEARCH, collection(url_object(0), gone, url_object(1)))
    result = run("search_to_urls", "entity:url p:3+")
    assert (result.code, result.stdout.splitlines()) == (3, FIVE[:2])
    assert gone["id"] in result.last_line


def test_hostile_urls_are_one_printable_line_each(run: Run, server: Server) -> None:
    hostile = ["http://a.example/\n\x1b[2J", "http://b.example/\u202egpj.exe", "http://c.example/\ud800\x00"]
    server.answer(SEARCH, collection(*(url_object(n, attributes={"url": url}) for n, url in enumerate(hostile))))
    lines = run("search_to_urls", "entity:url").stdout.split("\n")
    assert len(lines) == 4 and all(line.isprintable() for line in lines)


def test_defang(run: Run, server: Server) -> None:
    server.answer(SEARCH, collection(url_object(0)))
    assert run("search_to_urls", "entity:url", "--defang").stdout == "hxxp://evil[.]example/0\n"


def test_recorded_urls(run: Run, server: Server) -> None:
    server.serve_recordings(SEARCH)
    result = run("search_to_urls", "entity:url p:3+")
    assert (result.code, len(result.stdout.splitlines())) == (3, 5)
    assert result.stdout.splitlines()[1] == "http://192.0.2.7:8080/mozi.m"


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    three_pages(server)
    server.fail(number, TRANSIENT[fault])
    result = run("search_to_urls", "entity:url", "--limit", 0)
    assert (result.code, result.stdout.splitlines()) == (0, FIVE)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "BadRequestError"), 2),
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(429, "QuotaExceededError"), 4),
        (error(503, "TransientError"), 1),
    ],
)
def test_an_error_on_the_first_page_is_one_line(run: Run, server: Server, answer: Handler, code: int) -> None:
    server.answer(SEARCH, answer)
    result = run("search_to_urls", "entity:url", "-o", "x.txt", VT_MAX_WAIT="0.01")
    assert (result.code, result.stdout, Path("x.txt").exists()) == (code, "", False)
    assert result.last_line.startswith("error: ")


def test_an_exhausted_quota_keeps_what_came_and_resumes(run: Run, server: Server) -> None:
    three_pages(server)
    result = run("search_to_urls", "entity:url", "--limit", 0, "-o", "urls.txt", VT_MAX_REQUESTS="2")
    assert (result.code, Path("urls.txt").read_text().splitlines()) == (4, FIVE[:4])
    assert "--cursor c" in result.last_line
    server.answer(SEARCH, collection(url_object(4)))
    result = run("search_to_urls", "entity:url", "--limit", 0, "-o", "urls.txt", "--cursor", "c")
    assert (result.code, Path("urls.txt").read_text().splitlines()) == (0, FIVE)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["p:3+"],
        ["entity:file p:3+"],
        ["identity:url"],
        ["entity:url", "p:3+"],
        ["entity:url", "--limit", "-1"],
        ["entity:url", "--format", "csv"],
    ],
)
def test_wrong_usage_is_one_line_and_costs_nothing(run: Run, server: Server, args: list[str]) -> None:
    result = run("search_to_urls", *args)
    assert (result.code, len(result.stderr.splitlines()), server.seen) == (2, 1, [])


@pytest.mark.parametrize("query", ["entity:url", "ENTITY: URL p:3+", 'p:3+ entity:"url"'])
def test_a_query_goes_as_it_is(run: Run, server: Server, query: str) -> None:
    server.answer(SEARCH, collection())
    assert run("search_to_urls", query).code == 0
    assert server.seen[0].query["query"] == query


def test_a_notebook_iterates_over_urls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    three_pages(server)
    monkeypatch.setenv("VT_HOST", server.url)

    async def collect(query: str = "entity:url p:3+", **options: Any) -> list[str]:
        return [url async for url in script.search_to_urls(query, apikey=KEY, **options)]

    assert asyncio.run(collect()) == FIVE
    asyncio.run(collect(limit=2))
    assert [request.query["limit"] for request in server.seen] == ["100", "98", "96", "2"]
    with pytest.raises(script.UsageError):
        asyncio.run(collect("p:3+"))


def test_a_closed_pipe_ends_quietly(tmp_path: Path, server: Server) -> None:
    long = [url_object(n, attributes={"url": f"http://evil.example/{'x' * 5000}"}) for n in range(300)]
    server.answer(SEARCH, collection(*long))
    process = start("search_to_urls", "entity:url", "--limit", "300", tmp_path=tmp_path, server=server)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (0, "")


def test_urls_arrive_page_by_page_and_ctrl_c_says_how_to_resume(tmp_path: Path, server: Server) -> None:
    server.answer(SEARCH, *(collection(url_object(page), cursor=str(page)) for page in range(10_000)))
    process = start("search_to_urls", "entity:url", "--limit", "0", tmp_path=tmp_path, server=server, VT_RATE="600")
    assert process.stdout is not None
    assert process.stdout.readline() == f"{FIVE[0]}\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "resume with --cursor" in stderr.splitlines()[-1]


@pytest.mark.skipif("VT_EXTRA_RECORDINGS" not in os.environ, reason="VT_EXTRA_RECORDINGS names no folder")
def test_real_answers(run: Run, server: Server) -> None:
    for path in Path(os.environ["VT_EXTRA_RECORDINGS"]).rglob("intelligence_search/*url*.json"):
        answer = json.loads(path.read_text(encoding="utf-8"))
        server.answer(SEARCH, answer)
        lines = run("search_to_urls", "entity:url", "--limit", len(answer["data"])).stdout.splitlines()
        assert lines == [item["context_attributes"]["url"][0] for item in answer["data"]]
