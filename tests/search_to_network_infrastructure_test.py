"""search_to_network_infrastructure.py as its user runs it, and as a notebook awaits it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from aiohttp import web
from conftest import KEY, ROOT, SCRIPTS, Handler, Run, Server, environment, error, html, reset, truncated
from search_to_network_infrastructure import RELATIONSHIPS, Found, defanged, embedded, search_to_infrastructure

SCRIPT = "search_to_network_infrastructure"
SEARCH = "/intelligence/search"
CONTACTED = RELATIONSHIPS[:3]
# Given up at once: they ask for more patience than any test's VT_MAX_WAIT.
GONE = error(429, "QuotaExceededError", "Quota exceeded", **{"Retry-After": "86400"})
LATER = error(503, "TransientError", "later", **{"Retry-After": "86400"})


def domain(name: str) -> dict[str, Any]:
    return {"type": "domain", "id": name}


def ip(address: str) -> dict[str, Any]:
    return {"type": "ip_address", "id": address}


def url(value: str | None, number: int = 0) -> dict[str, Any]:
    context = {} if value is None else {"context_attributes": {"url": value}}
    return {"type": "url", "id": f"{number:064x}"} | context


def file(name: str, **related: Any) -> dict[str, Any]:
    """A file of a search, with what it contacts as given (a list: all there is)."""
    whole = {key: {"data": value} if isinstance(value, list) else value for key, value in related.items()}
    return {"type": "file", "id": name, "relationships": {name: {"data": []} for name in CONTACTED} | whole}


def contacts(name: str, count: int) -> dict[str, list[dict[str, Any]]]:
    """`count` contacts of each kind that are this file's own."""
    return {
        "contacted_domains": [domain(f"{name}-{i}.example") for i in range(count)],
        "contacted_ips": [ip(f"2001:db8::{name}:{i:x}") for i in range(count)],
        "contacted_urls": [url(f"http://{name}.example/{i}", i) for i in range(count)],
    }


def page(items: list[dict[str, Any]], start: int, limit: int) -> dict[str, Any]:
    """A page of a collection whose cursor is an offset."""
    end = start + limit
    return {"data": items[start:end], "meta": {"cursor": f"{end}"} if end < len(items) else {}}


def world(server: Server, files: dict[str, dict[str, list[Any]]], hint: str = "cursor", start: str = "20") -> None:
    """Has `server` answer as VirusTotal: `files` are {id: {relationship: descriptors}}, 20 of which come embedded.

    `hint` is how a relationship that was cut says so, `start` the cursor that goes on after the 20.
    """

    async def search(request: web.Request) -> web.StreamResponse:
        limit, names = int(request.query["limit"]), request.query["relationships"].split(",")
        if limit > 300:
            return await error(400, "BadRequestError", "Limit can't be larger than 300")(request)
        items = []
        for name, related in files.items():
            came = {key: page(related.get(key, []), 0, 20) for key in names}
            for key, part in came.items():
                cut = part["meta"] != {}
                meta = {"cursor": {"cursor": start}, "count": {"count": len(related.get(key, []))}}.get(hint, {})
                part["meta"] = meta if cut else {}
                link = f"{server.url}/api/v3/files/{name}/relationships/{key}?cursor={start}"
                part["links"] = {"next": link} if cut and hint == "link" else {}
            items.append({"type": "file", "id": name, "relationships": came})
        return web.json_response(page(items, int(request.query.get("cursor", 0)), limit))

    async def related(request: web.Request) -> web.StreamResponse:
        _, _, _, _, name, *_, key = request.path.split("/")
        limit = int(request.query.get("limit", 10))
        if limit > 40:
            return await error(400, "BadRequestError", "Limit can't be larger than 40")(request)
        return web.json_response(page(files[name][key], int(request.query.get("cursor", 0)), limit))

    server.answer(SEARCH, search)
    server.answer("/files/*", related)


def lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The indicators of the talk's block."""
    first, *rest = result.stdout.splitlines()
    assert first == "=== Results: ==="
    return rest


def last(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.splitlines()[-1]


# ---- what is found, and what it costs


def test_the_talks_query_answers_the_talks_38_lines(tmp_path: Path) -> None:
    query = "entity:file AND sha256:7c347a029d0d8600dc58885d6f359517e093f9f13ccb9a697c2655ed5f87f4d"
    command = [sys.executable, str(SCRIPTS / "replay.py"), sys.executable, str(SCRIPTS / f"{SCRIPT}.py"), query]
    env = environment(tmp_path)
    result = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=60)
    found = lines(result)
    assert (result.returncode, last(result)) == (0, "38 indicators of 1 file, 1 request, complete")
    assert [sum(line.startswith(kind) for line in found) for kind in ("DOMAIN: ", "IP_ADDRESS: ", "URL: ")] == [
        17,
        20,
        1,
    ]
    assert found == sorted(found)
    assert (found[0], found[17], found[-1]) == (
        "DOMAIN: acroipm2.adobe.com",
        "IP_ADDRESS: 104.18.40.68",
        "URL: http://x1.i.lencr.org/",
    )


def test_300_files_with_7_contacts_each_take_one_search_request_and_no_other(server: Server, run: Run) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 7) for i in range(300)})
    result = run(SCRIPT, "p:5+", "--limit", 300, server=server)
    assert len(lines(result)) == 300 * 21
    assert [request.query["limit"] for request in server.seen] == ["300"]
    assert last(result) == "6300 indicators of 300 files, 1 request, complete"


@pytest.mark.parametrize(("hint", "requests"), [("cursor", 4), ("link", 7), ("count", 7), ("none", 7)])
def test_every_contact_of_a_file_with_45_per_relationship_is_found(
    server: Server, run: Run, hint: str, requests: int
) -> None:
    everything = contacts("f", 45)
    world(server, {"f": everything}, hint)
    result = run(SCRIPT, "p:5+", server=server)
    expected = {f"DOMAIN: {d['id']}" for d in everything["contacted_domains"]}
    expected |= {f"IP_ADDRESS: {d['id']}" for d in everything["contacted_ips"]}
    expected |= {f"URL: {d['context_attributes']['url']}" for d in everything["contacted_urls"]}
    assert (set(lines(result)), len(lines(result)), result.returncode) == (expected, 135, 0)
    assert len(server.seen) == requests
    if hint == "cursor":
        assert set(server.paths[1:]) == {f"GET /files/f/relationships/{n}?limit=40&cursor=20" for n in CONTACTED}


@pytest.mark.parametrize(
    ("count", "hint", "asked"), [(19, "none", 0), (20, "none", 1), (21, "none", 1), (21, "link", 1)]
)
def test_a_relationship_is_asked_for_only_if_it_may_go_on(
    server: Server, run: Run, count: int, hint: str, asked: int
) -> None:
    world(server, {"f": {"contacted_domains": contacts("f", count)["contacted_domains"]}}, hint)
    assert len(lines(run(SCRIPT, "p:5+", server=server))) == count
    assert len(server.seen) == 1 + asked


def test_twenty_that_say_they_are_twenty_are_not_asked_for_again(server: Server, run: Run) -> None:
    whole = {"data": contacts("f", 20)["contacted_ips"], "meta": {"count": 20}}
    server.answer(SEARCH, {"data": [file("f", contacted_ips=whole)]})
    assert len(lines(run(SCRIPT, "p:5+", server=server))) == 20
    assert len(server.seen) == 1


def test_a_link_to_another_host_is_not_followed(server: Server, other_host: Server, run: Run) -> None:
    some = contacts("f", 45)["contacted_domains"]
    world(server, {"f": {"contacted_domains": some}})
    cut = {"data": some[:20], "links": {"next": f"{other_host.url}/api/v3/files/f/relationships/x?cursor=20"}}
    server.answer(SEARCH, {"data": [file("f", contacted_domains=cut)]})
    assert len(lines(run(SCRIPT, "p:5+", server=server))) == 45
    assert other_host.seen == []


def test_a_cursor_of_the_search_that_is_refused_costs_a_request_not_a_contact(server: Server, run: Run) -> None:
    some = contacts("f", 45)["contacted_domains"]
    world(server, {"f": {"contacted_domains": some}}, start="of-the-search")
    refused = error(400, "InvalidArgumentError", "Invalid cursor")
    pages: list[dict[str, Any]] = [{"data": some[:40], "meta": {"cursor": "40"}}, {"data": some[40:]}]
    server.answer("/files/f/relationships/contacted_domains", refused, *pages)
    result = run(SCRIPT, "p:5+", server=server)
    assert (len(lines(result)), result.returncode) == (45, 0)


def test_what_was_cut_is_asked_for_while_the_next_page_of_the_search_is(server: Server, run: Run) -> None:
    """Each of the two answers waits until the other was asked for."""
    asked = {"search": threading.Event(), "relationship": threading.Event()}

    def after(other: str, this: str, answer: dict[str, Any]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            asked[this].set()
            assert await asyncio.to_thread(asked[other].wait, 30)
            return web.json_response(answer)

        return handle

    cut = {"data": [domain("a.example")], "meta": {"cursor": "c"}}
    first = {"data": [file("f", contacted_domains=cut)], "meta": {"cursor": "second"}}
    second = {"data": [file("g", contacted_domains=[domain("c.example")])]}
    server.answer(SEARCH, first, after("relationship", "search", second))
    rest = {"data": [domain("b.example")]}
    server.answer("/files/f/relationships/contacted_domains", after("search", "relationship", rest))
    result = run(SCRIPT, "p:5+", "--limit", 0, server=server, VT_MAX_WAIT="60")
    assert lines(result) == ["DOMAIN: a.example", "DOMAIN: b.example", "DOMAIN: c.example"]


def test_relationships_are_paged_at_once_but_not_all_at_once(server: Server, run: Run) -> None:
    at_once, most = 0, 0
    world(server, {f"{i:x}": contacts(f"{i:x}", 21) for i in range(40)})
    answer = server.handlers["/files/*"]

    async def slowly(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        at_once -= 1
        return await answer(request)

    server.answer("/files/*", slowly)
    assert len(lines(run(SCRIPT, "p:5+", "--limit", 40, server=server))) == 40 * 63
    assert 2 <= most <= 20


@pytest.mark.parametrize("relationship", RELATIONSHIPS)
def test_each_relationship_can_be_asked_for(server: Server, run: Run, relationship: str) -> None:
    what = {"domains": domain("a.example"), "ips": ip("192.0.2.1"), "urls": url("http://a.example/")}
    kind = {"domains": "DOMAIN: a.example", "ips": "IP_ADDRESS: 192.0.2.1", "urls": "URL: http://a.example/"}
    server.answer(SEARCH, {"data": [file("f", **{relationship: [what[relationship.split("_")[1]]]})]})
    result = run(SCRIPT, "p:5+", "--relationship", relationship, "--relationship", relationship, server=server)
    assert lines(result) == [kind[relationship.split("_")[1]]]
    assert server.seen[0].query["relationships"] == relationship


def test_the_query_goes_as_it_is(server: Server, run: Run) -> None:
    server.answer(SEARCH, {"data": []})
    query = 'entity:file  content:"AbC {x} &=é" P:5+'
    assert lines(run(SCRIPT, query, server=server)) == []
    assert dict(server.seen[0].query) == {"query": query, "limit": "10", "relationships": ",".join(CONTACTED)}


# ---- odd answers


@pytest.mark.parametrize(
    ("related", "found"),
    [
        (None, []),
        ({}, []),
        ({"data": None}, []),
        ({"data": []}, []),
        ({"data": domain("a.example")}, ["DOMAIN: a.example"]),
        ({"data": [domain("a.example")], "meta": None, "links": None}, ["DOMAIN: a.example"]),
        ({"data": [domain("a.example") | {"error": {"code": "NotFoundError"}}]}, ["DOMAIN: a.example"]),
        ({"data": [{"type": "domain", "id": 42}]}, ["DOMAIN: 42"]),
    ],
)
def test_a_relationship_may_be_null_or_one_object_or_hold_errors(
    server: Server, run: Run, related: Any, found: list[str]
) -> None:
    server.answer(SEARCH, {"data": [file("f", contacted_domains=related)]})
    result = run(SCRIPT, "p:5+", server=server)
    assert (lines(result), result.returncode) == (found, 0)


def test_a_relationship_that_did_not_come_is_spoken_of(server: Server, run: Run) -> None:
    without: list[dict[str, Any]] = [{"type": "file", "id": "f"}, {"type": "file", "id": "g", "relationships": None}]
    server.answer(SEARCH, {"data": [*without, file("h", contacted_ips=[ip("192.0.2.1")])]})
    result = run(SCRIPT, "p:5+", server=server)
    assert (lines(result), result.returncode) == (["IP_ADDRESS: 192.0.2.1"], 0)
    assert "contacted_urls did not come with 2 of the files: taken as none" in result.stderr


def test_the_same_contact_is_one_line_and_counts_each_file_once(server: Server, run: Run) -> None:
    one = file("f", contacted_domains=[domain("A.example"), domain("a.EXAMPLE")], contacted_ips=[ip("2001:DB8::1")])
    two = file("g", contacted_domains=[domain("a.example")], contacted_ips=[ip("2001:db8::1")])
    two["relationships"]["contacted_urls"] = {"data": [url("http://a.example/A"), url("http://a.example/a", 1)]}
    server.answer(SEARCH, {"data": [one, two]})
    result = run(SCRIPT, "p:5+", "--format", "jsonl", server=server)
    assert [(row["value"], row["files"], row["file_ids"]) for row in map(json.loads, result.stdout.splitlines())] == [
        ("a.example", 2, ["f", "g"]),
        ("2001:db8::1", 2, ["f", "g"]),
        ("http://a.example/A", 1, ["g"]),
        ("http://a.example/a", 1, ["g"]),
    ]


def test_private_and_reserved_addresses_stay(server: Server, run: Run) -> None:
    addresses = ["10.0.0.1", "127.0.0.1", "192.168.56.1", "::1", "fe80::1"]
    server.answer(SEARCH, {"data": [file("f", contacted_ips=[ip(a) for a in addresses])]})
    assert lines(run(SCRIPT, "p:5+", server=server)) == [f"IP_ADDRESS: {a}" for a in sorted(addresses)]


@pytest.mark.parametrize(
    "place", [{"context_attributes": {"url": ["http://a.example/"]}}, {"attributes": {"url": "http://a.example/"}}]
)
def test_a_url_is_found_wherever_it_stands(server: Server, run: Run, place: dict[str, Any]) -> None:
    server.answer(SEARCH, {"data": [file("f", contacted_urls=[{"type": "url", "id": "0" * 64} | place])]})
    assert lines(run(SCRIPT, "p:5+", server=server)) == ["URL: http://a.example/"]


@pytest.mark.parametrize("count", [3, 45])
def test_urls_known_by_their_hash_alone_are_looked_up_40_a_request(server: Server, run: Run, count: int) -> None:
    named = [{"type": "url", "id": f"{i:064x}", "attributes": {"url": f"http://a.example/{i}"}} for i in range(count)]
    bare: list[dict[str, Any]] = [url(None, i) for i in range(count)]
    world(server, {"f": {"contacted_urls": bare}})
    server.answer("/files/f/contacted_urls", *[page(named, i, 40) for i in range(0, count, 40)])
    result = run(SCRIPT, "p:5+", server=server)
    assert (len(lines(result)), result.returncode) == (count, 0)
    assert len(server.seen) == 1 + (count + 39) // 40


def test_a_url_that_stays_unknown_is_named_by_its_hash(server: Server, run: Run) -> None:
    server.answer(SEARCH, {"data": [file("f", contacted_urls=[url(None, 7), url("http://a.example/", 8)])]})
    server.answer("/files/f/contacted_urls", {"data": [url(None, 7) | {"error": {"code": "NotFoundError"}}]})
    result = run(SCRIPT, "p:5+", server=server)
    assert (lines(result), result.returncode) == (["URL: http://a.example/"], 3)
    assert f"missing: file f: contacted_urls known by their ids alone: {7:064x}" in result.stderr


HOSTILE = [
    "http://a.example/\nDOMAIN: forged.example",
    "http://a.example/\r\x1b[2J\x1b]0;owned\x07",
    "http://a.example/\u202egpj.exe",
    "http://a.example/\x00\u2028\x85",
    "http://a.example/\ud800",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("form", ["text", "csv", "jsonl"])
def test_a_hostile_value_neither_forges_a_line_nor_moves_a_terminal(
    server: Server, run: Run, hostile: str, form: str
) -> None:
    mean = [domain(hostile.removeprefix("http://"))]
    server.answer(SEARCH, {"data": [file("f", contacted_urls=[url(hostile)], contacted_domains=mean)]})
    result = run(SCRIPT, "p:5+", "--format", form, server=server)
    rows = result.stdout.split("\n")
    assert len(rows) == {"text": 4, "csv": 4, "jsonl": 3}[form]
    assert all(row.isprintable() for row in rows)


def test_a_value_starts_no_formula_in_a_spreadsheet(server: Server, run: Run, tmp_path: Path) -> None:
    server.answer(SEARCH, {"data": [file("f", contacted_urls=[url('=HYPERLINK("http://evil.example")')])]})
    result = run(SCRIPT, "p:5+", "--format", "csv", "--output", tmp_path / "a.csv", server=server)
    for text in (result.stdout, (tmp_path / "a.csv").read_text(encoding="utf-8")):
        assert next(csv.DictReader(io.StringIO(text)))["value"].startswith("'=")


# ---- formats and filters


def three(server: Server) -> None:
    """Three files; two contact shared.example."""
    shared = domain("shared.example")
    one = file(
        "f", contacted_domains=[shared, domain("xn--e1afmkfd.xn--p1ai")], contacted_urls=[url("http://f.example/")]
    )
    two = file("g", contacted_domains=[shared], embedded_domains=[shared])
    server.answer(SEARCH, {"data": [one, two, file("h", contacted_ips=[ip("192.0.2.7")])]})


def test_csv_and_jsonl_say_how_many_and_which_files(server: Server, run: Run) -> None:
    three(server)
    result = run(SCRIPT, "p:5+", "--format", "csv", server=server)
    assert result.stdout.splitlines()[:2] == [
        "type,value,files,file_ids,relationships",
        'domain,shared.example,2,"[""f"", ""g""]","[""contacted_domains""]"',
    ]
    both = ("--relationship", "contacted_domains", "--relationship", "embedded_domains")
    result = run(SCRIPT, "p:5+", *both, "--format", "jsonl", server=server)
    assert json.loads(result.stdout.splitlines()[0]) == {
        "type": "domain",
        "value": "shared.example",
        "files": 2,
        "file_ids": ["f", "g"],
        "relationships": ["contacted_domains", "embedded_domains"],
    }


def test_min_files_leaves_what_several_files_share(server: Server, run: Run) -> None:
    three(server)
    result = run(SCRIPT, "p:5+", "--min-files", 2, server=server)
    assert lines(result) == ["DOMAIN: shared.example"]
    assert last(result) == "1 indicator of 3 files, 1 request, complete"


@pytest.mark.parametrize("form", ["text", "csv", "jsonl"])
def test_defanged_nothing_is_a_link(server: Server, run: Run, form: str) -> None:
    three(server)
    result = run(SCRIPT, "p:5+", "--defang", "--format", form, server=server)
    for value in ("shared[.]example", "xn--e1afmkfd[.]xn--p1ai", "192[.]0[.]2[.]7", "hxxp://f[.]example/"):
        assert value in result.stdout
    assert "http" not in result.stdout and ".example" not in result.stdout.replace("[.]", "")


@pytest.mark.parametrize(
    ("kind", "value", "safe"),
    [
        (
            "url",
            "http://a.example:8080/x.php?u=https://b.example",
            "hxxp://a[.]example:8080/x[.]php?u=hxxps://b[.]example",
        ),
        ("url", "HTTPS://A.example/", "HxxPS://A[.]example/"),
        ("url", "http://a.example/[.]x", "hxxp://a[.]example/[[.]]x"),
        ("url", "http://[2001:db8::1]/", "hxxp://[2001:db8::1]/"),
        ("ip_address", "2001:db8::1", "2001[:]db8[:][:]1"),
        ("ip_address", "192.0.2.1", "192[.]0[.]2[.]1"),
        ("domain", "пример.рф", "пример[.]рф"),
    ],
)
def test_defanging_can_be_undone(kind: str, value: str, safe: str) -> None:
    assert defanged(value, kind) == safe
    back = safe.replace("[.]", ".").replace("[:]", ":").replace("hxxp", "http").replace("HxxP", "HTTP")
    assert back == value


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "md", "parquet", "xlsx", "db"])
def test_each_kind_of_file_holds_the_indicators(server: Server, run: Run, tmp_path: Path, suffix: str) -> None:
    three(server)
    path = tmp_path / f"out.{suffix}"
    result = run(SCRIPT, "p:5+", "--output", path, server=server)
    assert (result.returncode, result.stdout) == (0, "")
    read: dict[str, Callable[[], pd.DataFrame]] = {
        "csv": lambda: pd.read_csv(path),
        "jsonl": lambda: pd.read_json(path, lines=True),
        "parquet": lambda: pd.read_parquet(path),
        "db": lambda: pd.read_sql("select * from infrastructure", f"sqlite:///{path}"),
    }
    if suffix in read:
        frame = read[suffix]()
        assert list(frame.columns) == ["type", "value", "files", "file_ids", "relationships"]
        assert frame["files"].tolist() == [2, 1, 1, 1]
    assert path.stat().st_size > 100


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "md", "parquet", "xlsx", "db"])
def test_an_empty_result_is_a_result(server: Server, run: Run, tmp_path: Path, suffix: str) -> None:
    server.answer(SEARCH, {"data": []})
    path = tmp_path / f"out.{suffix}"
    result = run(SCRIPT, "p:99+", "--format", "text", "--output", path, server=server)
    assert (result.returncode, result.stdout, path.exists()) == (0, "=== Results: ===\n", True)
    assert result.stderr == "0 indicators of 0 files, 1 request, complete\n"


# ---- what is refused before any request


@pytest.mark.parametrize(
    "query",
    [
        "entity:url p:5+",
        "entity: url p:5+",
        "ENTITY:URL p:5+",
        'entity:"domain"',
        "p:5+ AND (entity:ip)",
        "entity :collection",
        "entity:file OR entity:domain",
        'name:"a" entity:url',
    ],
)
def test_a_query_for_another_entity_is_refused(server: Server, run: Run, query: str) -> None:
    result = run(SCRIPT, query, server=server)
    assert (result.returncode, result.stdout, server.seen) == (2, "", [])
    assert "finds no files" in last(result)


@pytest.mark.parametrize(
    "query",
    [
        "p:5+",
        "entity:file p:5+",
        "entity: file",
        "ENTITY:FILE",
        'content:"entity:url"',
        r'content:"a \" entity:url"',
        'name:"x" content:"entity: url" p:5+',
        "identity:url",
    ],
)
def test_a_query_for_files_is_not(server: Server, run: Run, query: str) -> None:
    server.answer(SEARCH, {"data": []})
    assert run(SCRIPT, query, server=server).returncode == 0
    assert server.seen[0].query["query"] == query


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["p:5+", "--relationship", "dropped_files"], " ".join(RELATIONSHIPS)),
        (["  "], "the query is empty"),
        (["p:5+", "--limit", "-1"], "--limit"),
        (["p:5+", "--min-files", "0"], "--min-files"),
        (["p:5+", "--format", "xml"], "--format"),
        (["p:5+", "--output", "a.txt"], "--output a.txt"),
        ([], "query"),
    ],
)
def test_wrong_usage_is_one_line_and_costs_nothing(server: Server, run: Run, args: list[str], said: str) -> None:
    result = run(SCRIPT, *args, server=server)
    assert (result.returncode, result.stdout, server.seen) == (2, "", [])
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_help_is_quick_and_without_pandas(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("raise SystemExit('pandas was imported')")
    result = run(SCRIPT, "--help", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0
    assert "uv run scripts/search_to_network_infrastructure.py" in result.stdout


# ---- misfortune


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "BadRequestError", 2),
        (401, "WrongCredentialsError", 2),
        (403, "ForbiddenError", 2),
        (404, "NotFoundError", 1),
    ],
)
def test_a_search_that_is_refused_is_one_line(server: Server, run: Run, status: int, code: str, exit_code: int) -> None:
    server.answer(SEARCH, error(status, code, f"no, {KEY}"))
    result = run(SCRIPT, "p:5+", server=server)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (exit_code, "", 1)
    assert code in result.stderr


@pytest.mark.parametrize("misfortune", [error(503, "TransientError"), html(502), reset, truncated])
def test_what_heals_loses_nothing(server: Server, run: Run, misfortune: Handler) -> None:
    world(server, {"f": contacts("f", 45)})
    search, related = server.handlers[SEARCH], server.handlers["/files/*"]
    server.answer(SEARCH, misfortune, search)
    server.answer("/files/f/relationships/contacted_ips", misfortune, related)
    result = run(SCRIPT, "p:5+", server=server, VT_MAX_WAIT="20")
    assert (len(lines(result)), result.returncode) == (135, 0)


@pytest.mark.parametrize("misfortune", [error(404, "NotFoundError"), LATER, html(502), reset])
def test_one_files_failure_costs_only_that_files_rest(server: Server, run: Run, misfortune: Handler) -> None:
    world(server, {name: contacts(name, 45) for name in ("aa", "bb", "cc")})
    server.answer("/files/bb/relationships/contacted_ips", misfortune)
    result = run(SCRIPT, "p:5+", server=server)
    assert len(lines(result)) == 3 * 135 - 25
    assert "IP_ADDRESS: 2001:db8::bb:0" in lines(result)  # what came embedded is kept
    assert result.returncode == 3
    missing = [line for line in result.stderr.splitlines() if line.startswith("missing: ")]
    assert len(missing) == 1
    assert missing[0].startswith("missing: file bb: contacted_ips is not whole: ")
    assert last(result).startswith("INCOMPLETE: 380 indicators of 3 files")
    assert "--cursor" not in result.stderr


def test_an_error_in_a_files_place_is_named(server: Server, run: Run) -> None:
    gone = {"type": "file", "id": "gone", "error": {"code": "NotFoundError", "message": "File gone"}}
    server.answer(SEARCH, {"data": [gone, file("f", contacted_ips=[ip("192.0.2.1")])]})
    result = run(SCRIPT, "p:5+", server=server)
    assert (lines(result), result.returncode) == (["IP_ADDRESS: 192.0.2.1"], 3)
    assert "missing: file gone: NotFoundError: File gone" in result.stderr


@pytest.mark.parametrize("name", ["..", "../../users", "a/b?c#d", "{}", "\x1b[2J"])
def test_a_files_id_is_never_a_path(server: Server, run: Run, name: str) -> None:
    cut = {"data": [domain("a.example")], "meta": {"cursor": "c"}}
    server.answer(SEARCH, {"data": [file(name, contacted_domains=cut)]})
    result = run(SCRIPT, "p:5+", server=server)
    assert (lines(result), result.returncode) == (["DOMAIN: a.example"], 3)
    assert all(p.count("/") == 4 and "/relationships/contacted_domains?" in p for p in server.paths[1:])


def test_when_the_quota_ends_what_came_is_kept_and_the_way_to_resume_is_exact(server: Server, run: Run) -> None:
    everything = {f"{i:x}": contacts(f"{i:x}", 25) for i in range(600)}
    world(server, everything)
    answer, given = server.handlers["/files/*"], 0

    async def until_the_quota_ends(request: web.Request) -> web.StreamResponse:
        nonlocal given
        given += 1
        if given > 1000:
            return await GONE(request)
        return await answer(request)

    server.answer("/files/*", until_the_quota_ends)
    first = run(SCRIPT, "p:5+", "--limit", 0, server=server, VT_MAX_WAIT="60")
    assert first.returncode == 4
    assert last(first).startswith("INCOMPLETE: ")
    assert last(first).endswith("QuotaExceededError: Quota exceeded; go on with --cursor 300")
    server.answer("/files/*", answer)
    second = run(SCRIPT, "p:5+", "--limit", 0, "--cursor", "300", server=server)
    assert second.returncode == 0
    assert set(lines(first)) | set(lines(second)) == {
        line
        for related in everything.values()
        for line in [
            *(f"DOMAIN: {d['id']}" for d in related["contacted_domains"]),
            *(f"IP_ADDRESS: {d['id']}" for d in related["contacted_ips"]),
            *(f"URL: {d['context_attributes']['url']}" for d in related["contacted_urls"]),
        ]
    }


def test_when_the_quota_ends_on_the_first_page_the_same_command_resumes(server: Server, run: Run) -> None:
    world(server, {"f": contacts("f", 45)})
    server.answer("/files/*", GONE)
    result = run(SCRIPT, "p:5+", server=server, VT_MAX_WAIT="60")
    assert (len(lines(result)), result.returncode) == (60, 4)
    assert "missing: 3 relationships were not completed: run the same again" in result.stderr
    assert "--cursor" not in result.stderr


def test_when_a_page_of_the_search_fails_what_came_is_completed(server: Server, run: Run) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 21) for i in range(301)})
    answer = server.handlers[SEARCH]
    server.answer(SEARCH, answer, LATER)
    result = run(SCRIPT, "p:5+", "--limit", 0, server=server, VT_MAX_WAIT="60")
    assert (len(lines(result)), result.returncode) == (300 * 63, 3)
    assert last(result).endswith("TransientError: later; go on with --cursor 300")


def test_a_network_that_is_gone_is_not_waited_for_by_every_file(server: Server, run: Run) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 21) for i in range(100)})
    server.answer("/files/*", reset)
    result = run(SCRIPT, "p:5+", "--limit", 100, server=server)
    assert (len(lines(result)), result.returncode) == (100 * 60, 3)
    named = [line for line in result.stderr.splitlines() if line.startswith("missing: file")]
    assert 20 <= len(named) <= 60
    assert "relationships were not completed: run the same again" in result.stderr


def test_a_key_that_may_not_page_relationships_is_told_once(server: Server, run: Run) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 21) for i in range(100)})
    server.answer("/files/*", error(403, "ForbiddenError", "no"))
    result = run(SCRIPT, "p:5+", "--limit", 100, server=server)
    assert (len(lines(result)), result.returncode) == (100 * 60, 3)
    assert len(server.seen) <= 1 + 2 * 20
    assert "ForbiddenError" in last(result)


def interrupted(server: Server, tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Ctrl-C as soon as a relationship is asked for, which is never answered."""
    asked = threading.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.sleep(60)
        return web.Response()

    server.answer("/files/*", hang)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / f"{SCRIPT}.py"), "p:5+", *args],
        env=environment(tmp_path, server, VT_MAX_WAIT="60"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(args, process.returncode, out, err)


@pytest.mark.skipif(os.name != "posix", reason="Windows cannot send Ctrl-C to one process")
def test_ctrl_c_keeps_what_came_and_says_how_to_resume(server: Server, tmp_path: Path) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 21) for i in range(30)})
    result = interrupted(server, tmp_path, "--limit", "30")
    assert (len(lines(result)), result.returncode) == (30 * 60, 130)
    assert last(result).startswith("INCOMPLETE: 1800 indicators of 30 files, ")
    assert last(result).endswith(" requests; interrupted")
    assert "90 relationships were not completed: run the same again" in result.stderr


# ---- in a notebook, and at scale


def notebook(server: Server, monkeypatch: pytest.MonkeyPatch, query: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
    monkeypatch.setenv("VT_HOST", server.url)
    monkeypatch.setenv("VT_API_KEY", KEY)
    monkeypatch.setenv("VT_MAX_WAIT", "2")
    return asyncio.run(search_to_infrastructure(query, *args, **kwargs))


def test_a_notebook_gets_a_dataframe(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    three(server)
    frame = notebook(server, monkeypatch, "p:5+", limit=300)
    assert frame[["type", "value", "files"]].values.tolist() == [
        ["domain", "shared.example", 2],
        ["domain", "xn--e1afmkfd.xn--p1ai", 1],
        ["ip_address", "192.0.2.7", 1],
        ["url", "http://f.example/", 1],
    ]
    assert frame["file_ids"][0] == ["f", "g"]
    assert frame.attrs == {"cursor": None, "incomplete": False}


def test_a_notebooks_dataframe_has_its_columns_and_types_without_a_row(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(server)
    full = notebook(server, monkeypatch, "p:5+")
    server.answer(SEARCH, {"data": []})
    assert notebook(server, monkeypatch, "p:99+").dtypes.to_dict() == full.dtypes.to_dict()


def test_a_notebook_is_told_what_is_missing(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world(server, {"f": contacts("f", 45)})
    server.answer("/files/f/relationships/contacted_ips", error(404, "NotFoundError"))
    frame = notebook(server, monkeypatch, "p:5+")
    assert (len(frame), frame.attrs["incomplete"]) == (110, True)
    assert "missing: file f: contacted_ips" in capsys.readouterr().err


def test_memory_is_that_of_the_indicators_not_of_the_reports(server: Server) -> None:
    """1,000 files with a report of 100 KB each: 100 MB of JSON; what is kept of a page is its contacts."""
    report = {"attributes": {"strings": ["x" * 50 for _ in range(1000)]}}
    found = Found()
    import tracemalloc

    tracemalloc.start()
    try:
        for number in range(1000):
            item = json.loads(json.dumps(file(f"{number:064x}", **contacts(f"{number:x}", 7)) | report))
            assert list(embedded(found, item, CONTACTED, None)) == []
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(found.files), len(found.rows())) == (1000, 21000)
    assert kept < 30e6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is Linux's")
@pytest.mark.parametrize("form", ["text", "csv"])
def test_indicators_that_stdout_does_not_take_are_kept(server: Server, tmp_path: Path, form: str) -> None:
    server.answer(SEARCH, {"data": [file("a", contacted_domains=[domain("a.example")])]})
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, str(SCRIPTS / f"{SCRIPT}.py"), "x", "--format", form],
            env=environment(tmp_path, server, TMPDIR=str(tmp_path)),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "cannot write to stdout: No space left on device; the rows are kept in " in result.stderr
    assert json.loads(next(tmp_path.glob("vt-*.jsonl")).read_text())["value"] == "a.example"


# ---- recordings


def test_recorded_contacts_are_found_past_the_twentieth_and_defused(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "replay.py"), sys.executable, str(SCRIPTS / f"{SCRIPT}.py")]
    command += ["entity:file p:20+ tag:signed", "--format", "csv"]
    env = environment(tmp_path)
    result = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=60)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["value"] for row in rows if row["type"] == "domain"] == [f"c2-{i:02}.example" for i in range(1, 24)]
    assert "'=cmd|'/C calc'!A0" in [row["value"] for row in rows]
    assert (result.returncode, result.stderr.count("missing: ")) == (3, 1)


@pytest.mark.skipif("VT_EXTRA_RECORDINGS" not in os.environ, reason="VT_EXTRA_RECORDINGS names no folder of answers")
def test_real_answers_can_be_read() -> None:
    folder = ROOT / os.environ["VT_EXTRA_RECORDINGS"]
    paths = [*folder.glob("intelligence_search/*.json"), *folder.glob("relationship_page/*.json")]
    assert paths
    for path in paths:
        body = json.loads(path.read_text(encoding="utf-8"))
        data = body["data"] if isinstance(body["data"], list) else [body["data"]] if body["data"] else []
        found = Found()
        kind = data[0]["type"] if data else "domain"
        name = {"url": "contacted_urls", "ip_address": "contacted_ips"}.get(kind, "contacted_domains")
        item = {"type": "file", "id": "f", "relationships": {name: {"data": body["data"], "meta": body.get("meta")}}}
        cuts = list(embedded(found, item, [name], None))
        assert not any(cut.unnamed for cut in cuts)
        assert len(found.rows()) == len({item["id"] for item in data})
        assert bool(cuts) == (bool((body.get("meta") or {}).get("cursor")) or len(data) >= 20)


@pytest.mark.parametrize(
    "related",
    [
        5,
        ["x"],
        {"contacted_domains": 5},
        {"contacted_domains": ["x"]},
        {"contacted_domains": {"data": 5}},
        {"contacted_domains": {"data": "text"}},
        {"contacted_domains": {"data": [None, "x"]}},
    ],
)
def test_a_relationship_of_no_known_shape_is_asked_for_by_itself(server: Server, run: Run, related: Any) -> None:
    server.answer(SEARCH, {"data": [{"type": "file", "id": "f", "relationships": related}]})
    server.answer("/files/f/relationships/contacted_domains", {"data": [domain("a.example")]})
    result = run(SCRIPT, "p:1+", "--relationship", "contacted_domains", server=server)
    assert (lines(result), result.returncode) == (["DOMAIN: a.example"], 0)


@pytest.mark.parametrize("odd", [5, "text", ["x"], [None]])
def test_a_url_whose_context_is_none_is_looked_up_and_named_if_that_does_not_help(
    server: Server, run: Run, odd: Any
) -> None:
    item = {"type": "url", "id": "u" * 64, "context_attributes": odd, "attributes": odd}
    server.answer(SEARCH, {"data": [file("f", contacted_urls=[item])]})
    server.answer("/files/f/contacted_urls", {"data": [item]})
    result = run(SCRIPT, "p:1+", server=server)
    assert (lines(result), result.returncode) == ([], 3)
    assert f"contacted_urls known by their ids alone: {'u' * 64}" in result.stderr


@pytest.mark.parametrize("cursor", [20, "2:abc"])
def test_a_relationship_goes_on_at_its_cursor_whatever_that_looks_like(
    server: Server, run: Run, cursor: int | str
) -> None:
    cut = {"data": [domain("a.example")], "meta": {"cursor": cursor}}
    server.answer(SEARCH, {"data": [file("f", contacted_domains=cut)]})
    server.answer("/files/f/relationships/contacted_domains", {"data": [domain("b.example"), domain("c.example")]})
    result = run(SCRIPT, "p:1+", server=server)
    assert lines(result) == ["DOMAIN: a.example", "DOMAIN: b.example", "DOMAIN: c.example"]
    assert server.seen[1].query["cursor"] == str(cursor)
