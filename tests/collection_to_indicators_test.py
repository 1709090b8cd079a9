"""collection_to_indicators: every indicator of a collection, not the first page."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
from pathlib import Path
from typing import Any

import collection_to_indicators as script
import pytest
from aiohttp import web
from conftest import KEY, TRANSIENT, Handler, Run, Server, error, start

NAME = "collection_to_indicators"
ACTOR = "threat-actor--5f1a3d0e-8c1b-4a57-9a55-0c2d1e7b9f10"
LATER = {"Retry-After": "86400"}  # more patience than any test's VT_MAX_WAIT

Contents = dict[str, list[dict[str, Any]]]


def contents(files: int, domains: int, ips: int, urls: int, name: str = "a") -> Contents:
    """Return the descriptors of a collection that are its own."""
    return {
        "files": [{"type": "file", "id": f"{i:064x}"} for i in range(files)],
        "domains": [{"type": "domain", "id": f"{name}-{i}.example"} for i in range(domains)],
        "ip_addresses": [{"type": "ip_address", "id": f"2001:db8::{i:x}"} for i in range(ips)],
        "urls": [
            {"type": "url", "id": f"{i:064x}", "context_attributes": {"url": f"http://{name}.example/{i}"}}
            for i in range(urls)
        ],
    }


def world(server: Server, collections: dict[str, Contents]) -> None:
    """Have `server` answer as VirusTotal: 40 descriptors a page, with an offset for a cursor."""

    async def related(request: web.Request) -> web.StreamResponse:
        _, _, _, _, name, _, key = request.path.split("/")
        first = int(request.query.get("cursor", 0))
        items = collections[name][key]
        meta = {"cursor": f"{first + 40}"} if first + 40 < len(items) else {}
        return web.json_response({"data": items[first : first + 40], "meta": meta})

    async def search(request: web.Request) -> web.StreamResponse:
        found = [{"type": "collection", "id": name} for name in collections][: int(request.query["limit"])]
        return web.json_response({"data": found, "meta": {"total_hits": len(collections)}})

    for name in collections:
        server.answer(f"/collections/{name}/relationships/*", related)
    server.answer("/intelligence/search", search)


def lines_of(*collections: Contents) -> set[str]:
    """Return the lines of text for the contents of collections."""
    items = [item for one in collections for some in one.values() for item in some]
    return {f"{i['type'].upper()}: {i.get('context_attributes', {}).get('url', i['id'])}" for i in items}


# ---- What is found, and what it costs


def test_146_indicators_of_four_types_are_all_found(run: Run, server: Server) -> None:
    everything = contents(58, 47, 20, 21)
    world(server, {"abc": everything})
    result = run(NAME, "abc")
    assert (result.code, len(result.stdout.splitlines()), set(result.stdout.splitlines())) == (
        0,
        146,
        lines_of(everything),
    )
    assert sorted(server.paths) == [
        "GET /collections/abc/relationships/domains?limit=40",
        "GET /collections/abc/relationships/domains?limit=40&cursor=40",
        "GET /collections/abc/relationships/files?limit=40",
        "GET /collections/abc/relationships/files?limit=40&cursor=40",
        "GET /collections/abc/relationships/ip_addresses?limit=40",
        "GET /collections/abc/relationships/urls?limit=40",
    ]
    assert result.last_line == "146 indicators of 1 collection, 6 requests, complete"


def test_a_recorded_threat_actor_and_a_report_that_the_licence_forbids(run: Run, server: Server) -> None:
    server.serve_recordings()
    result = run(NAME, "name:EXAMPLE", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert (result.code, len(rows), len(server.seen)) == (3, 147, 11)
    assert [row["collections"] for row in rows if row["type"] == "domain"] == ["2", "2", *["1"] * 45]
    missing = [line for line in result.stderr.splitlines() if line.startswith("missing: ")]
    assert len(missing) == 1 and "report--24-00000001: files: ForbiddenError" in missing[0]


@pytest.mark.parametrize(
    ("pasted", "collection_id"),
    [
        ("0" * 64, "0" * 64),
        (f" {ACTOR}\n", ACTOR),
        ("malware--A-1", "malware--A-1"),
        ("malpedia_win_emotet", "malpedia_win_emotet"),
        ("report--24-00000001", "report--24-00000001"),
        ("vulnerability--cve-2025-0282", "vulnerability--cve-2025-0282"),
        ("CVE-2025-0282", "vulnerability--cve-2025-0282"),
        (f"https://www.virustotal.com/gui/collection/{ACTOR}", ACTOR),
        (f"https://www.virustotal.com/gui/collection/{ACTOR}/iocs?a=b#c", ACTOR),
        ("https://www.virustotal.com/gui/threat-actor/x%2Dy/summary", "x-y"),
        (f"https://www.virustotal.com/api/v3/collections/{ACTOR}/files", ACTOR),
    ],
)
def test_a_collection_can_be_named_as_it_is_pasted(run: Run, server: Server, pasted: str, collection_id: str) -> None:
    world(server, {collection_id: contents(1, 0, 0, 0)})
    assert (run(NAME, pasted).code, len(server.seen)) == (0, 4)


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("entity:collection name:x", "entity:collection name:x"),
        ('Entity: "Collection" x', 'Entity: "Collection" x'),
        ("collection_type:report", "entity:collection collection_type:report"),
        ("lazarus group", "entity:collection lazarus group"),
    ],
)
def test_everything_else_is_a_query_for_collections(run: Run, server: Server, query: str, sent: str) -> None:
    world(server, {})
    assert run(NAME, query).code == 0
    assert dict(server.seen[0].query) == {"query": sent, "descriptors_only": "true", "limit": "100"}


def test_limit_counts_collections_never_indicators(run: Run, server: Server) -> None:
    collections = {name: contents(0, 45, 0, 0, name) for name in ("a", "b", "c")}
    world(server, collections)
    result = run(NAME, "name:x", "--limit", 2)
    assert set(result.stdout.splitlines()) == lines_of(collections["a"], collections["b"])
    assert result.last_line.startswith("90 indicators of 2 of 3 collections, 11 requests; there is more: ")
    assert run(NAME, "name:x", "--limit", 3).last_line == "135 indicators of 3 collections, 16 requests, complete"
    with pytest.raises(TypeError):
        script.collection_to_indicators("name:x", 2)  # type: ignore[misc]


def test_a_url_without_its_address_is_named_by_its_hash(run: Run, server: Server) -> None:
    everything = contents(0, 0, 0, 2)
    gone = {"type": "url", "id": "f" * 64, "error": {"code": "NotFoundError"}}
    world(server, {"abc": everything | {"urls": [gone, *everything["urls"]]}})
    result = run(NAME, "abc")
    assert (result.code, set(result.stdout.splitlines())) == (3, lines_of(everything))
    assert f"missing: abc: the address of URL {'f' * 64}" in result.stderr


# ---- Output


def test_rows_say_which_collections_contain_an_indicator(run: Run, server: Server) -> None:
    world(server, {"b": contents(1, 0, 0, 0), "a": contents(2, 0, 0, 1)})
    result = run(NAME, "name:x", "--format", "jsonl")
    assert [list(row.values()) for row in result.objects] == [
        ["file", f"{0:064x}", 2, ["a", "b"]],
        ["file", f"{1:064x}", 1, ["a"]],
        ["url", "http://a.example/0", 1, ["a"]],
    ]
    assert tuple(result.objects[0]) == script.COLUMNS


@pytest.mark.parametrize("style", ["text", "csv", "jsonl"])
def test_hostile_and_defanged_values(run: Run, server: Server, style: str) -> None:
    hostile = [{"type": "url", "id": "0", "attributes": {"url": "=http://a.example/\n\x1b[2J\u202e\ud800"}}]
    world(server, {"abc": contents(0, 1, 1, 0) | {"urls": hostile}})
    output = run(NAME, "abc", "--defang", "--format", style).stdout
    assert all(line.isprintable() for line in output.removesuffix("\n").split("\n"))
    assert "a-0[.]example" in output and "2001[:]db8[:][:]0" in output
    assert ",=" not in output


@pytest.mark.parametrize("name", ["out.csv", "OUT.JSONL"])
def test_a_file_holds_the_rows(run: Run, server: Server, name: str) -> None:
    world(server, {"abc": contents(1, 2, 3, 4)})
    expected = run(NAME, "abc", "--format", name.lower()[4:]).stdout
    result = run(NAME, "abc", "-o", name)
    assert (result.code, result.stdout, Path(name).read_text()) == (0, "", expected)


def test_rows_that_cannot_be_written_are_saved_in_another_file(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    world(server, {"abc": contents(1, 2, 3, 4)})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "replace", full)
    result = run(NAME, "abc", "-o", "out.csv")
    saved = next(tmp_path.glob("vt-*.jsonl"))
    assert (result.code, str(saved) in result.last_line, len(saved.read_text().splitlines())) == (1, True, 10)


# ---- Failures


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    everything = contents(58, 47, 20, 21)
    world(server, {"abc": everything})
    server.fail(number, TRANSIENT[fault])
    result = run(NAME, "abc")
    assert (result.code, set(result.stdout.splitlines()), len(server.seen)) == (0, lines_of(everything), 7)


@pytest.mark.parametrize("status", [400, 403, 404, 503])
def test_a_relationship_that_fails_is_listed_and_the_others_are_delivered(
    run: Run, server: Server, status: int
) -> None:
    everything = contents(58, 47, 20, 21)
    world(server, {"abc": everything})
    server.answer("/collections/abc/relationships/domains", error(status, "SomeError", **LATER))
    result = run(NAME, "abc")
    assert (result.code, len(result.stdout.splitlines())) == (3, 99)
    assert [line for line in result.stderr.splitlines() if line.startswith("missing: abc: domains: SomeError")]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(404, "NotFoundError", "Collection emotet not found"), 2),
        (error(429, "QuotaExceededError", **LATER), 4),
    ],
)
def test_a_collection_that_cannot_be_read_is_one_line(run: Run, server: Server, answer: Handler, code: int) -> None:
    server.answer("/collections/*", answer)
    result = run(NAME, "emotet", "-o", "x.csv")
    assert (result.code, result.stdout, len(result.stderr.splitlines())) == (code, "", 1)
    assert not Path("x.csv").exists()


@pytest.mark.parametrize("stopped_after", [3, 9, 15, 21])
def test_resuming_loses_nothing_and_requests_little_again(run: Run, server: Server, stopped_after: int) -> None:
    collections = {name: contents(130, 130, 90, 10, name) for name in ("a", "b", "c")}
    world(server, collections)
    first = run(NAME, "name:x", VT_MAX_REQUESTS=str(stopped_after))
    assert first.code == 4
    cursor = first.last_line.rpartition("--cursor ")[2].strip("'")
    second = run(NAME, "name:x", "--cursor", cursor)
    assert second.code == 0
    assert set((first.stdout + second.stdout).splitlines()) == lines_of(*collections.values())
    assert len(server.seen) <= 1 + 3 * 12 + 1 + 4  # the search and at most one page of each relationship come twice


def test_a_cursor_of_another_collection_is_refused(run: Run, server: Server) -> None:
    world(server, {"abc": contents(1, 0, 0, 0)})
    assert run(NAME, "abc", "--cursor", "other?files=40").code == 2


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["entity:file p:3+"],
        ["lazarus", "group"],
        ["..", "--format", "csv"],
        ["abc", "--limit", "-1"],
        ["abc", "--format", "xlsx"],
        ["abc", "-o", "out.xlsx"],
        ["abc", "-o", "nowhere/out.csv"],
        ["abc", "--cursor", "MTI="],
        ["abc", "--cursor", "abc?comments=1"],
        ["abc", "-o", "existing.csv", "--cursor", "abc?files=1"],
    ],
)
def test_wrong_usage_is_one_line_and_costs_nothing(run: Run, server: Server, args: list[str]) -> None:
    Path("existing.csv").write_text("precious")
    result = run(NAME, *args)
    assert (result.code, result.stdout, len(result.stderr.splitlines()), server.seen) == (2, "", 1, [])
    assert Path("existing.csv").read_text() == "precious"


@pytest.mark.parametrize("hostile", ["../users", "a/b?c#d", "{}", "a%2Fb"])
def test_an_id_is_never_a_path(run: Run, server: Server, hostile: str) -> None:
    server.answer("/intelligence/search", {"data": [{"type": "collection", "id": hostile}]})
    run(NAME, "name:x")
    assert all(path.count("/") == 4 and "/relationships/" in path for path in server.paths[1:])
    assert len(server.paths) == 5


# ---- In a notebook, interrupted


def test_a_notebook_gets_rows_and_is_told_whether_they_are_all(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world(server, {"abc": contents(0, 1, 0, 0)})
    monkeypatch.setenv("VT_HOST", server.url)
    rows = asyncio.run(script.collection_to_indicators("abc", apikey=KEY))
    assert rows == [{"type": "domain", "value": "a-0.example", "collections": 1, "collection_ids": ["abc"]}]
    assert capsys.readouterr().err.endswith("complete\n")


def test_ctrl_c_keeps_what_came_and_says_how_to_resume(tmp_path: Path, server: Server) -> None:
    world(server, {"abc": contents(10_000, 0, 0, 1)})
    process = start(NAME, "abc", tmp_path=tmp_path, server=server, VT_RATE="1200")
    while len(server.seen) < 6:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout.startswith("FILE: ")) == (130, True)
    assert "interrupted; resume with --cursor 'abc?files=" in stderr.splitlines()[-1]
