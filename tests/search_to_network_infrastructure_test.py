"""search_to_network_infrastructure: every contact of every file, in few requests."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import search_to_network_infrastructure as script
from aiohttp import web
from conftest import KEY, SCRIPTS, TRANSIENT, Handler, Run, Server, environment, error, start

NAME = "search_to_network_infrastructure"
SEARCH = "/intelligence/search"
CONTACTED = ["contacted_domains", "contacted_ips", "contacted_urls"]
TALK = "entity:file AND sha256:7c347a029d0d8600dc58885d6f359517e093f9f13ccb9a697c2655ed5f87f4d"
# Given up at once: it asks for more patience than any test's VT_MAX_WAIT.
LATER = {"Retry-After": "86400"}


def domain(name: str) -> dict[str, Any]:
    return {"type": "domain", "id": name}


def ip(address: str) -> dict[str, Any]:
    return {"type": "ip_address", "id": address}


def url(value: str | None, number: int = 0) -> dict[str, Any]:
    context = {} if value is None else {"context_attributes": {"url": value}}
    return {"type": "url", "id": f"{number:064x}"} | context


def file(name: str, config: Any = None, **related: Any) -> dict[str, Any]:
    """Return a file of a search, with what it contacts as given; a list is all there is."""
    given = {key: {"data": value} if isinstance(value, list) else value for key, value in related.items()}
    relationships = {name: {"data": []} for name in CONTACTED} | given
    return {"type": "file", "id": name, "attributes": {"malware_config": config}, "relationships": relationships}


def contacts(name: str, domains: int, ips: int, urls: int) -> dict[str, list[dict[str, Any]]]:
    """Return contacts that are this file's own."""
    return {
        "contacted_domains": [domain(f"{name}-{i}.example") for i in range(domains)],
        "contacted_ips": [ip(f"2001:db8::{name}:{i:x}") for i in range(ips)],
        "contacted_urls": [url(f"http://{name}.example/{i}", i) for i in range(urls)],
    }


def page(items: list[Any], start: int, limit: int) -> dict[str, Any]:
    """Return a page of a collection whose cursor is an offset."""
    end = start + limit
    return {"data": items[start:end], "meta": {"cursor": f"{end}"} if end < len(items) else {}}


def world(server: Server, files: dict[str, dict[str, list[Any]]], hint: str = "cursor") -> None:
    """Have `server` answer as VirusTotal: `files` are {id: {relationship: descriptors}}, 20 of which come embedded.

    `hint` is how an embedded relationship says that there is more: a cursor or a link.
    """

    def embed(name: str, key: str, items: list[Any]) -> dict[str, Any]:
        link = {"next": f"{server.url}/api/v3/files/{name}/relationships/{key}?cursor=20"} if len(items) > 20 else {}
        hints: dict[str, dict[str, Any]] = {
            "cursor": {"meta": {"cursor": "20"} if len(items) > 20 else {}, "links": {"self": "…"}},
            "link": {"links": {"self": "…"} | link},
        }
        return {"data": items[:20]} | hints[hint]

    async def search(request: web.Request) -> web.StreamResponse:
        names = request.query["relationships"].split(",")
        answer = page(list(files), int(request.query.get("cursor", 0)), int(request.query["limit"]))
        answer["data"] = [
            file(name, **{key: embed(name, key, files[name].get(key, [])) for key in names}) for name in answer["data"]
        ]
        return web.json_response(answer)

    async def related(request: web.Request) -> web.StreamResponse:
        _, _, _, _, name, *_, key = request.path.split("/")
        return web.json_response(page(files[name][key], int(request.query.get("cursor", 0)), 40))

    server.answer(SEARCH, search)
    server.answer("/files/*", related)


def lines_of(files: dict[str, dict[str, list[Any]]]) -> set[str]:
    """Return the lines of text for everything that `files` contact."""
    items = [item for related in files.values() for some in related.values() for item in some]
    return {f"{i['type'].upper()}: {i.get('context_attributes', {}).get('url', i['id'])}" for i in items}


# ---- What is found, and what it costs


def test_the_talks_query_prints_the_talks_38_lines(run: Run, server: Server) -> None:
    server.serve_recordings(SEARCH)
    result = run(NAME, TALK)
    lines = result.stdout.splitlines()
    kinds = [sum(line.startswith(kind) for line in lines) for kind in ("DOMAIN: ", "IP_ADDRESS: ", "URL: ")]
    assert (result.code, kinds, len(server.seen)) == (0, [17, 20, 1], 1)
    assert lines == sorted(lines)
    assert (lines[0], lines[-1]) == ("DOMAIN: acroipm2.adobe.com", "URL: http://x1.i.lencr.org/")
    assert result.stderr.splitlines()[0] == "=== Results: ==="


@pytest.mark.parametrize(("few", "many", "requests"), [((3, 2, 2), (45, 45, 9), 61), ((1, 1, 1), (45, 45, 45), 91)])
def test_300_files_of_which_every_tenth_has_45_contacts(
    run: Run, server: Server, few: tuple[int, int, int], many: tuple[int, int, int], requests: int
) -> None:
    files = {f"{i:x}": contacts(f"{i:x}", *(few if i % 10 else many)) for i in range(300)}
    world(server, files)
    result = run(NAME, "p:5+", "--limit", 300)
    assert (result.code, len(result.stdout.splitlines()), len(server.seen)) == (0, 4860, requests)
    assert set(result.stdout.splitlines()) == lines_of(files)


@pytest.mark.parametrize(("hint", "requests"), [("cursor", 4), ("link", 7)])
def test_every_contact_is_found_however_virustotal_says_that_there_is_more(
    run: Run, server: Server, hint: str, requests: int
) -> None:
    files = {"f": contacts("f", 45, 45, 45)}
    world(server, files, hint)
    result = run(NAME, "p:5+")
    assert (result.code, set(result.stdout.splitlines()), len(server.seen)) == (0, lines_of(files), requests)


@pytest.mark.parametrize(
    ("count", "hint", "requests"),
    [(19, "cursor", 1), (20, "cursor", 1), (20, "link", 1), (21, "cursor", 2), (21, "link", 2)],
)
def test_20_of_20_is_complete(run: Run, server: Server, count: int, hint: str, requests: int) -> None:
    world(server, {"f": contacts("f", count, 0, 0)}, hint)
    result = run(NAME, "p:5+")
    assert (result.code, len(result.stdout.splitlines()), len(server.seen)) == (0, count, requests)


def test_a_link_to_another_host_is_not_followed(run: Run, server: Server, other_host: Server) -> None:
    some = contacts("f", 45, 0, 0)["contacted_domains"]
    world(server, {"f": {"contacted_domains": some}})
    cut = {"data": some[:20], "links": {"next": f"{other_host.url}/api/v3/files/f/relationships/x?cursor=20"}}
    server.answer(SEARCH, {"data": [file("f", contacted_domains=cut)]})
    assert len(run(NAME, "p:5+").stdout.splitlines()) == 45
    assert other_host.seen == []


def test_the_rest_is_requested_at_once_but_not_all_at_once(run: Run, server: Server) -> None:
    at_once, most = 0, 0
    world(server, {f"{i:x}": contacts(f"{i:x}", 21, 21, 21) for i in range(40)})
    answer = server.handlers["/files/*"]

    async def slowly(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return await answer(request)

    server.answer("/files/*", slowly)
    assert len(run(NAME, "p:5+").stdout.splitlines()) == 40 * 63
    assert 2 <= most <= 20


@pytest.mark.parametrize("relationship", list(script.Relationship)[1:])
def test_each_relationship_can_be_requested(run: Run, server: Server, relationship: str) -> None:
    what = {"domains": domain("a.example"), "ips": ip("192.0.2.1"), "urls": url("http://a.example/")}
    item = what[relationship.split("_")[1]]
    server.answer(SEARCH, {"data": [file("f", {"c2": "b.example.com"}, **{relationship: [item]})]})
    result = run(NAME, "p:5+", "--relationship", relationship)
    assert set(result.stdout.splitlines()) == lines_of({"f": {relationship: [item]}})
    assert server.seen[0].query["relationships"] == relationship


def test_the_query_goes_as_it_is(run: Run, server: Server) -> None:
    server.answer(SEARCH, {"data": []})
    query = 'entity:file  content:"AbC {x} &=é" P:5+'
    assert run(NAME, query).code == 0
    assert dict(server.seen[0].query) == {
        "query": query,
        "limit": "100",
        "relationships": ",".join(CONTACTED),
        "exclude_attributes": "last_analysis_results",
    }


# ---- Malware configurations


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"domain": "C2.Example.com", "port": "18354"}, {("domain", "c2.example.com", 18354)}),
        ({"c2": "192.0.2.7:8080,a.example.net"}, {("ip_address", "192.0.2.7", 8080), ("domain", "a.example.net", 0)}),
        (
            {"hosts": '["a.example.net:1", "b.example.net"]', "ports": "80|443"},
            {("domain", "a.example.net", 1), ("domain", "b.example.net", 80), ("domain", "b.example.net", 443)},
        ),
        (
            {"gate": "http://a.example.net:81/g.php?id=1"},
            {("url", "http://a.example.net:81/g.php?id=1", 0), ("domain", "a.example.net", 81)},
        ),
        ({"u": "HTTP://c2.bazar/x"}, {("url", "HTTP://c2.bazar/x", 0)}),
        ({"C2Server": "a.example.net,/dot.gif"}, {("domain", "a.example.net", 0)}),
        ({"x": "tcp://a.example.net:9000"}, {("domain", "a.example.net", 9000)}),
        (
            {"x": "[2001:db8::1]:443 2001:DB8::2"},
            {("ip_address", "2001:db8::1", 443), ("ip_address", "2001:db8::2", 0)},
        ),
        ({"x": f"{'a' * 56}.onion"}, {("domain", f"{'a' * 56}.onion", 0)}),
        ({"ftp": "ftp://u:p@a.example.net/"}, {("url", "ftp://u:p@a.example.net/", 0), ("domain", "a.example.net", 0)}),
        ({"families": [{"host": "a.example.net"}], "none": None}, {("domain", "a.example.net", 0)}),
        ({"port": "18354", "sleep": "60000", "family": "njRat", "campaign_id": "Hcwfjr"}, set()),
        ({"version": "1.2.3.4", "install_name": "client.zip", "file_path": "a.b.net", "mutex": "a.net"}, set()),
        ({"key": r"HKLM\Software\Microsoft.NET\Run", "exe": "server1.exe", "sep": "|'|'|", "v": "0.7d"}, set()),
        ({"mail": "victim@example.com", "ua": "Mozilla/5.0 (Windows NT 10.0; rv:11.0)", "host": "localhost:80"}, set()),
        ({"x": "a.example.net:99999 http:// com a..example.net -- ] [ ://"}, set()),
    ],
)
def test_hosts_ports_and_urls_of_a_configuration_are_recognised_by_value(config: Any, found: Any) -> None:
    assert script.parse_config(config) == found


def test_a_configuration_counts_by_default_and_is_marked(run: Run, server: Server) -> None:
    config = {"family": "njRat", "domain": "c2.example.com", "port": "18354"}
    one = file("f", config, contacted_domains=[domain("c2.example.com")])
    server.answer(SEARCH, {"data": [one, file("g", {"host": "c2.example.com:443"}), file("h", None)]})
    assert run(NAME, "p:5+").stdout == "DOMAIN: c2.example.com\n"
    assert run(NAME, "p:5+", "--format", "jsonl").objects == [
        {
            "type": "domain",
            "value": "c2.example.com",
            "files": 2,
            "file_ids": ["f", "g"],
            "relationships": ["contacted_domains", "malware_config"],
            "ports": [443, 18354],
        }
    ]
    assert "malware_config" in run(NAME, "p:5+", "--format", "csv").stdout


def test_only_configurations_can_be_requested(run: Run, server: Server) -> None:
    server.answer(SEARCH, {"data": [file("f", {"host": "c2.example.com"})]})
    assert run(NAME, "p:5+", "--relationship", "malware_config").stdout == "DOMAIN: c2.example.com\n"
    assert "relationships" not in server.seen[0].query


# ---- Odd answers


@pytest.mark.parametrize(
    ("related", "found"),
    [
        (None, []),
        ({}, []),
        ({"data": None}, []),
        ({"data": domain("a.example")}, ["DOMAIN: a.example"]),
        ({"data": [domain("a.example")], "meta": None, "links": None}, ["DOMAIN: a.example"]),
        ({"data": [domain("a.example") | {"error": {"code": "NotFoundError"}}]}, ["DOMAIN: a.example"]),
        ({"data": [{"type": "domain", "id": 42}]}, ["DOMAIN: 42"]),
    ],
)
def test_a_relationship_may_be_null_or_one_object_or_hold_errors(
    run: Run, server: Server, related: Any, found: list[str]
) -> None:
    bare: dict[str, Any] = {"type": "file", "id": "g"}
    server.answer(SEARCH, {"data": [file("f", contacted_domains=related), bare, bare | {"relationships": None}]})
    result = run(NAME, "p:5+")
    assert (result.code, result.stdout.splitlines()) == (0, found)


def test_the_same_contact_is_one_row_and_counts_each_file_once(run: Run, server: Server) -> None:
    one = file("f", contacted_domains=[domain("A.example"), domain("a.EXAMPLE")], contacted_ips=[ip("2001:DB8::1")])
    two = file("g", contacted_domains=[domain("a.example")], contacted_ips=[ip("2001:db8::1")])
    two["relationships"]["contacted_urls"] = {"data": [url("http://a.example/A"), url("http://a.example/a", 1)]}
    server.answer(SEARCH, {"data": [one, two]})
    assert [
        (row["value"], row["files"], row["file_ids"]) for row in run(NAME, "p:5+", "--format", "jsonl").objects
    ] == [
        ("a.example", 2, ["f", "g"]),
        ("2001:db8::1", 2, ["f", "g"]),
        ("http://a.example/A", 1, ["g"]),
        ("http://a.example/a", 1, ["g"]),
    ]


def test_a_url_without_its_address_is_named_by_its_hash(run: Run, server: Server) -> None:
    server.answer(SEARCH, {"data": [file("f", contacted_urls=[url(None, 7), url("http://a.example/", 8)])]})
    result = run(NAME, "p:5+")
    assert (result.code, result.stdout) == (3, "URL: http://a.example/\n")
    assert f"missing: f: the address of URL {7:064x}" in result.stderr


def test_an_error_in_a_files_place_is_listed(run: Run, server: Server) -> None:
    gone = {"type": "file", "id": "gone", "error": {"code": "NotFoundError", "message": "File gone"}}
    server.answer(SEARCH, {"data": [gone, file("f", contacted_ips=[ip("192.0.2.1")])]})
    result = run(NAME, "p:5+")
    assert (result.code, result.stdout) == (3, "IP_ADDRESS: 192.0.2.1\n")
    assert "missing: file gone: NotFoundError: File gone" in result.stderr


@pytest.mark.parametrize("name", ["..", "../../users", "a/b?c#d", "{}", "\x1b[2J"])
def test_a_files_id_is_never_a_path(run: Run, server: Server, name: str) -> None:
    server.answer(
        SEARCH, {"data": [file(name, contacted_domains={"data": [domain("a.example")], "meta": {"cursor": "c"}})]}
    )
    result = run(NAME, "p:5+")
    assert (result.code, result.stdout) == (3, "DOMAIN: a.example\n")
    assert all(path.count("/") == 4 and "/relationships/contacted_domains?" in path for path in server.paths[1:])


# ---- Output


HOSTILE = [
    "http://a.example/\nDOMAIN: forged.example",
    "http://a.example/\r\x1b[2J\x07",
    "http://a.example/\u202e\ud800\x00",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(("style", "lines"), [("text", 2), ("csv", 3), ("jsonl", 2)])
def test_a_hostile_value_neither_forges_a_line_nor_moves_a_terminal(
    run: Run, server: Server, hostile: str, style: str, lines: int
) -> None:
    mean = [domain(hostile.removeprefix("http://"))]
    server.answer(SEARCH, {"data": [file("f", contacted_urls=[url(hostile)], contacted_domains=mean)]})
    rows = run(NAME, "p:5+", "--format", style).stdout.removesuffix("\n").split("\n")
    assert len(rows) == lines
    assert all(row.isprintable() for row in rows)


@pytest.mark.parametrize("value", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", " =1", '"=1', "http://a/;=1", "＝1"])
def test_no_cell_of_a_csv_file_starts_a_formula(run: Run, server: Server, value: str) -> None:
    server.answer(SEARCH, {"data": [file("=f", contacted_urls=[url(value)])]})
    assert run(NAME, "p:5+", "-o", "a.csv").code == 0
    row = next(csv.DictReader(io.StringIO(Path("a.csv").read_text(encoding="utf-8"))))
    assert not any(part.lstrip('\t "').startswith(tuple("=+-@＝")) for cell in row.values() for part in cell.split(";"))


def three(server: Server) -> None:
    """Three files; two contact shared.example."""
    shared = domain("shared.example")
    one = file("f", contacted_domains=[domain("a.example"), shared], contacted_urls=[url("http://f.example/")])
    server.answer(SEARCH, {"data": [one, file("g", contacted_domains=[shared]), file("h", contacted_ips=[ip("::1")])]})


def test_rows_are_sorted_by_type_then_files_then_value(run: Run, server: Server) -> None:
    three(server)
    assert run(NAME, "p:5+", "--format", "csv").stdout.splitlines() == [
        ",".join(script.COLUMNS),
        "domain,shared.example,2,f g,contacted_domains,",
        "domain,a.example,1,f,contacted_domains,",
        "ip_address,::1,1,h,contacted_ips,",
        "url,http://f.example/,1,f,contacted_urls,",
    ]


def test_min_files_keeps_what_several_files_share(run: Run, server: Server) -> None:
    three(server)
    result = run(NAME, "p:5+", "--min-files", 2)
    assert (result.code, result.stdout) == (0, "DOMAIN: shared.example\n")
    assert result.last_line == "1 indicator of 3 files, 1 request, complete"


@pytest.mark.parametrize("style", ["text", "csv", "jsonl"])
def test_defanged_nothing_is_a_link(run: Run, server: Server, style: str) -> None:
    three(server)
    output = run(NAME, "p:5+", "--defang", "--format", style).stdout
    assert all(value in output for value in ("shared[.]example", "[:][:]1", "hxxp://f[.]example/"))


@pytest.mark.parametrize("name", ["out.csv", "OUT.CSV", "out.jsonl"])
def test_a_file_holds_the_rows_and_stdout_stays_empty(run: Run, server: Server, name: str) -> None:
    three(server)
    expected = run(NAME, "p:5+", "--format", name.lower().partition(".")[2]).stdout
    result = run(NAME, "p:5+", "-o", name)
    assert (result.code, result.stdout, Path(name).read_text(encoding="utf-8")) == (0, "", expected)
    assert [path.name for path in Path().iterdir()] == [name]


@pytest.mark.parametrize("style", ["text", "csv", "jsonl"])
def test_an_empty_result_is_a_result(run: Run, server: Server, style: str) -> None:
    server.answer(SEARCH, {"data": []})
    result = run(NAME, "p:99+", "--format", style)
    assert (result.code, result.stdout) == (0, ",".join(script.COLUMNS) + "\n" if style == "csv" else "")
    assert result.last_line == "0 indicators of 0 files, 1 request, complete"


def test_rows_that_cannot_be_written_are_saved_in_another_file(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    three(server)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    result = run(NAME, "p:5+", "-o", "out.csv")
    saved = next(tmp_path.glob("vt-*.jsonl"))
    assert (result.code, list(Path().iterdir())) == (1, [])
    assert str(saved) in result.last_line
    assert len(saved.read_text().splitlines()) == 4


def test_recorded_contacts(run: Run, server: Server) -> None:
    server.serve_recordings()
    result = run(NAME, "entity:file p:20+ tag:signed", "--format", "csv")
    rows = {row["value"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert {f"c2-{i:02}.example" for i in range(1, 24)} <= rows.keys()
    assert (rows["c2.example.net"]["ports"], rows["c2-01.example"]["files"]) == ("18354", "2")
    assert (result.code, len(server.seen)) == (3, 2)


def test_recorded_configurations(run: Run, server: Server) -> None:
    server.serve_recordings(SEARCH)
    result = run(NAME, "entity:file p:50+ tag:rat", "--relationship", "malware_config", "--format", "jsonl")
    assert [(row["value"], row["files"], row["ports"]) for row in result.objects] == [
        ("c2.example.net", 2, [6606, 7707, 18354]),
        ("panel.example.org", 1, [8080]),
        ("198.51.100.23", 1, [6606, 7707]),
        ("http://panel.example.org:8080/gate.php", 1, []),
    ]


@pytest.mark.skipif("VT_EXTRA_RECORDINGS" not in os.environ, reason="VT_EXTRA_RECORDINGS names no folder")
def test_real_answers(run: Run, server: Server) -> None:
    folder = Path(os.environ["VT_EXTRA_RECORDINGS"])
    for path in [*folder.rglob("intelligence_search/*.json"), *folder.rglob("relationship_page/*.json")]:
        answer = json.loads(path.read_text(encoding="utf-8"))
        items = answer["data"] if isinstance(answer["data"], list) else [answer["data"]] if answer["data"] else []
        server.answer(SEARCH, {"data": [file("f", contacted_urls=answer), *(i for i in items if i["type"] == "file")]})
        server.answer("/files/f/relationships/contacted_urls", {"data": []})
        result = run(NAME, "p:5+")
        assert (result.code, len(result.stdout.splitlines())) == (0, len({item["id"] for item in items}))


# ---- Failures


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    files = {"f": contacts("f", 45, 45, 45)}
    world(server, files)
    server.fail(number, TRANSIENT[fault])
    result = run(NAME, "p:5+")
    assert (result.code, set(result.stdout.splitlines()), len(server.seen)) == (0, lines_of(files), 5)


@pytest.mark.parametrize("status", [400, 403, 404, 503])
def test_a_relationship_that_fails_costs_its_file_only(run: Run, server: Server, status: int) -> None:
    world(server, {name: contacts(name, 45, 45, 45) for name in ("aa", "bb", "cc")})
    server.answer("/files/bb/relationships/contacted_ips", error(status, "SomeError", **LATER))
    result = run(NAME, "p:5+")
    assert (result.code, len(result.stdout.splitlines())) == (3, 3 * 135 - 25)
    missing = [line for line in result.stderr.splitlines() if line.startswith("missing: ")]
    assert len(missing) == 1 and "bb" in missing[0] and "contacted_ips" in missing[0]
    assert "IP_ADDRESS: 2001:db8::bb:0" in result.stdout


@pytest.mark.parametrize(("status", "code"), [(401, 3), (429, 4)])
def test_a_failure_of_the_key_or_the_quota_stops_and_keeps_what_came(
    run: Run, server: Server, status: int, code: int
) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 21, 21, 21) for i in range(100)})
    server.answer("/files/*", error(status, "SomeError", **LATER))
    result = run(NAME, "p:5+")
    assert (result.code, len(result.stdout.splitlines())) == (code, 100 * 60)
    assert len(server.seen) <= 1 + 20
    assert "SomeError" in result.last_line and "--cursor" not in result.last_line
    assert "resume with the same command" in result.last_line


def test_answers_that_cost_quota_are_kept_when_it_ends(run: Run, server: Server) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 45, 0, 0) for i in range(20)})
    result = run(NAME, "p:5+", VT_MAX_REQUESTS="11")
    assert (result.code, len(result.stdout.splitlines())) == (4, 20 * 20 + 10 * 25)


def test_a_lost_network_is_not_waited_for_by_every_file(run: Run, server: Server) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 21, 21, 21) for i in range(100)})
    server.answer("/files/*", TRANSIENT["reset"])
    result = run(NAME, "p:5+", VT_MAX_WAIT="0.05")
    assert (result.code, len(result.stdout.splitlines())) == (3, 100 * 60)
    assert len(server.seen) < 200


def test_resuming_at_the_cursor_loses_nothing(run: Run, server: Server) -> None:
    files = {f"{i:x}": contacts(f"{i:x}", 21 if i % 6 == 0 else 1, 1, 1) for i in range(600)}
    world(server, files)
    first = run(NAME, "p:5+", "--limit", 0, VT_MAX_REQUESTS="80")
    assert first.code == 4
    assert first.last_line.endswith("resume with --cursor 300")
    second = run(NAME, "p:5+", "--limit", 0, "--cursor", "300", "--min-files", "1")
    assert second.code == 0
    assert set((first.stdout + second.stdout).splitlines()) == lines_of(files)


def test_a_search_page_that_fails_keeps_the_pages_before(run: Run, server: Server) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 1, 1, 1) for i in range(301)})
    server.answer(SEARCH, server.handlers[SEARCH], error(503, "TransientError", **LATER))
    result = run(NAME, "p:5+", "--limit", 0)
    assert (result.code, len(result.stdout.splitlines())) == (3, 900)
    assert result.last_line.endswith("resume with --cursor 300")


def test_min_files_with_a_cursor_warns(run: Run, server: Server) -> None:
    three(server)
    result = run(NAME, "p:5+", "--cursor", "c", "--min-files", 2)
    assert (result.code, result.stderr.startswith("warning: ")) == (0, True)
    assert "warning" not in run(NAME, "p:5+", "--min-files", 2).stderr + run(NAME, "p:5+", "--cursor", "c").stderr


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "BadRequestError"), 2),
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(429, "QuotaExceededError", **LATER), 4),
    ],
)
def test_an_error_on_the_first_page_is_one_line(run: Run, server: Server, answer: Handler, code: int) -> None:
    server.answer(SEARCH, answer)
    result = run(NAME, "p:5+", "-o", "x.csv")
    assert (result.code, result.stdout, len(result.stderr.splitlines())) == (code, "", 1)
    assert not Path("x.csv").exists()


# ---- Wrong usage


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["entity:url p:5+"],
        ['p:5+ AND (ENTITY: "domain")'],
        ['name:"a" entity:collection'],
        ["p:5+", "--relationship", "dropped_files"],
        ["p:5+", "--limit", "-1"],
        ["p:5+", "--min-files", "0"],
        ["p:5+", "--format", "xml"],
        ["p:5+", "-o", "out.xlsx"],
        ["p:5+", "-o", "out"],
        ["p:5+", "-o", "nowhere/out.csv"],
        ["p:5+", "-o", "existing.csv", "--cursor", "c"],
    ],
)
def test_wrong_usage_is_one_line_and_costs_nothing(run: Run, server: Server, args: list[str]) -> None:
    Path("existing.csv").write_text("precious")
    result = run(NAME, *args)
    assert (result.code, result.stdout, len(result.stderr.splitlines()), server.seen) == (2, "", 1, [])
    assert Path("existing.csv").read_text() == "precious"


@pytest.mark.parametrize("query", ["p:5+", "ENTITY: FILE", 'content:"entity:url"'])
def test_a_query_for_files_is_accepted(run: Run, server: Server, query: str) -> None:
    server.answer(SEARCH, {"data": []})
    assert run(NAME, query).code == 0


# ---- In a notebook, on a terminal, interrupted


def notebook(server: Server, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[dict[str, Any]]:
    monkeypatch.setenv("VT_HOST", server.url)
    return asyncio.run(script.search_to_infrastructure("p:5+", apikey=KEY, **options))


def test_a_notebook_gets_rows_and_is_told_whether_they_are_all(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    three(server)
    rows = notebook(server, monkeypatch, relationships=["contacted_domains"], min_files=2)
    assert [(row["value"], row["files"]) for row in rows] == [("shared.example", 2)]
    assert server.seen[0].query["relationships"] == "contacted_domains"
    assert capsys.readouterr().err.endswith("complete\n")
    world(server, {"f": contacts("f", 45, 45, 45)})
    server.answer("/files/f/relationships/contacted_ips", error(404, "NotFoundError"))
    assert len(notebook(server, monkeypatch)) == 110
    assert "INCOMPLETE" in capsys.readouterr().err


def test_a_notebook_is_told_that_a_string_is_no_list(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="relationships must be a list"):
        notebook(server, monkeypatch, relationships="contacted_ips")


@pytest.mark.parametrize("style", [[], ["--format", "text"]])
def test_text_has_a_headline(run: Run, server: Server, style: list[str]) -> None:
    server.answer(SEARCH, {"data": []})
    assert "=== Results: ===" in run(NAME, "p:5+", *style).stderr
    assert "=== Results: ===" not in run(NAME, "p:5+", "--format", "csv").stderr


def test_progress_is_shown_on_a_terminal(tmp_path: Path, server: Server) -> None:
    world(server, {"f": contacts("f", 45, 45, 45)})
    ours, theirs = pty.openpty()
    env = environment(tmp_path, server, TERM="xterm")
    command = [sys.executable, str(SCRIPTS / f"{NAME}.py"), "p:5+"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        output = process.stdout.read()
    assert len(output.splitlines()) == 135
    assert b"1 file, 135 found" in os.read(ours, 1 << 16)
    os.close(ours)


def test_ctrl_c_keeps_what_came(tmp_path: Path, server: Server) -> None:
    world(server, {f"{i:x}": contacts(f"{i:x}", 21, 21, 21) for i in range(30)})
    asked = threading.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.sleep(60)
        return web.Response()

    server.answer("/files/*", hang)
    process = start(NAME, "p:5+", "--format", "jsonl", tmp_path=tmp_path, server=server)
    assert asked.wait(30)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, len([json.loads(line) for line in stdout.splitlines()])) == (130, 30 * 60)
    assert "interrupted" in stderr.splitlines()[-1]
