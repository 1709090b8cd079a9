"""lookup: what VirusTotal knows about a list of indicators; the output file is the checkpoint."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import vt
from aiohttp import web
from conftest import TRANSIENT, Handler, Result, Run, Server, collection, error, file_object, load, start

lookup = load("lookup")
ROUNDS = int(os.environ.get("VT_TEST_ROUNDS", "5"))
RELATIONSHIPS = {
    "file": ["behaviours", "contacted_ips"],
    "domain": ["communicating_files", "resolutions"],
    "ip_address": ["communicating_files", "downloaded_files"],
    "url": ["last_serving_ip_address"],
}


def answers(server: Server, *unknown: str) -> None:
    """Answer every object but the `unknown` ids, and the list of relationships."""

    async def handle(request: web.Request) -> web.StreamResponse:
        kind, value = request.path.removeprefix("/api/v3/").split("/", 1)
        if value in unknown:
            return await error(404, "NotFoundError", f"{value} not found")(request)
        return web.json_response({"data": {"type": kind.rstrip("s"), "id": value, "attributes": {"tags": [None]}}})

    for kind in ("files", "domains", "ip_addresses", "urls"):
        server.answer(f"/{kind}/*", handle)
    listed = {kind: [{"name": name, "description": "…"} for name in names] for kind, names in RELATIONSHIPS.items()}
    server.answer("/metadata", {"data": {"relationships": listed}})


def domains(count: int) -> list[str]:
    return [f"d{number}.example" for number in range(count)]


def as_file(entries: list[str], name: str = "list.txt") -> str:
    Path(name).write_text("\n".join(entries) + "\n", encoding="utf-8")
    return name


def lines(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def looked_up(path: str = "out.jsonl") -> list[str]:
    return [item["lookup"] for item in lines(path)]


# ---- Indicators


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("44D88612FEA8A8F36DE82E1278ABB02F", "file", "44d88612fea8a8f36de82e1278abb02f"),
        ("3395856ce81f2b7382dee72602f798b642f14140", "file", "3395856ce81f2b7382dee72602f798b642f14140"),
        ("a" * 64, "file", "a" * 64),
        ("Evil[.]Example.", "domain", "evil.example"),
        ("evil[dot]example", "domain", "evil.example"),
        ("evil.example:8080", "domain", "evil.example"),
        ("a-dot-b.example", "domain", "a-dot-b.example"),
        ("_dmarc.evil.example", "domain", "_dmarc.evil.example"),
        ("bücher.example", "domain", "xn--bcher-kva.example"),
        ("192.0.2[.]7", "ip_address", "192.0.2.7"),
        ("192.0.2.7.", "ip_address", "192.0.2.7"),
        ("192[.]0[.]2[.]7[:]443", "ip_address", "192.0.2.7"),
        ("2001:DB8:0:0::1", "ip_address", "2001:db8::1"),
        ("2001[:]db8[:][:]1", "ip_address", "2001:db8::1"),
        ("[2001:db8::1]:443", "ip_address", "2001:db8::1"),
        ("hxxp://1.1.1[.]1", "url", "http://1.1.1.1"),
        ("hXXps[:]//evil[.]example/a(b)?c=1#d", "url", "https://evil.example/a(b)?c=1#d"),
        ("hxxp://[2001[:]db8[:][:]1]:80/x", "url", "http://[2001:db8::1]:80/x"),
        ("http://Evil.example/a b/☃.", "url", "http://Evil.example/a b/☃."),
        ("http://user:pw@evil.example/[.]", "url", "http://user:pw@evil.example/[.]"),
        ("evil.example/a?u=http://b.example", "url", "http://evil.example/a?u=http://b.example"),
    ],
)
def test_an_indicator_is_recognised_defanged_or_not(text: str, kind: str, value: str) -> None:
    assert lookup.parse_indicator(text) == (kind, value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "x",
            "localhost",
            "a" * 63,
            "999.1.1.1",
            "192.0.2.0/24",
            "2001:db8::/32",
            "a@evil.example",
            "[",
            "://",
        ),
        *("two words.example", "tcp://192.0.2.7:80", "http://", "http:///a", "-a.example", "\x1b[31m.example"),
        *("evil.example:99999", "http://evil.exa\u202emple/"),
    ],
)
def test_what_is_no_indicator_is_refused(run: Run, server: Server, text: str) -> None:
    result = run("lookup", "--", text)
    assert (result.code, server.seen) == (2, [])
    assert "argument 1: " in result.stderr
    assert "\x1b" not in result.stderr and "\u202e" not in result.stderr


def test_bad_entries_are_reported_with_their_line_and_the_others_looked_up(run: Run, server: Server) -> None:
    answers(server)
    text = "\ufeff# a list\r\nevil.example\r\n\r\n  x y  \r\n192.0.2.7\r\n\xff\udcff\r\n".encode(
        "utf-8", "surrogateescape"
    )
    result = run("lookup", "oops", "--file", "-", stdin=text)
    assert result.code == 3
    assert [item["lookup"] for item in result.objects] == ["evil.example", "192.0.2.7"]
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()[:-1]] == ["argument 1", "line 4", "line 6"]


# ---- Look-ups


def test_each_object_once_in_the_order_of_the_input(run: Run, server: Server) -> None:
    answers(server)
    entries = ["hxxp://evil[.]example/a", "2001:db8::1", "d[.]example", "b" * 32, "D.example.", "2001:DB8::1"]
    result = run("lookup", *entries[:2], "--file", as_file(entries))
    assert (result.code, len(server.seen)) == (0, 4)
    assert [item.pop("lookup") for item in result.objects] == [
        "http://evil.example/a",
        "2001:db8::1",
        "d.example",
        "b" * 32,
    ]
    assert {request.path.removeprefix("/api/v3") for request in server.seen} == {
        f"/urls/{vt.url_id('http://evil.example/a')}",
        "/ip_addresses/2001:db8::1",
        "/domains/d.example",
        f"/files/{'b' * 32}",
    }


def test_an_object_is_printed_unchanged(run: Run, server: Server) -> None:
    item = file_object(1, meaningful_name="\x1b[2J\ud800\u202e=cmd|", last_analysis_results={"A": None})
    server.answer(f"/files/{item['id']}", {"data": item})
    result = run("lookup", item["id"])
    assert result.objects == [{"lookup": item["id"]} | item]
    assert result.stdout.isascii()
    assert result.last_line == "1 of 1 indicator, 0 not found, 1 request, complete"


def test_what_virustotal_does_not_know_is_an_answer(run: Run, server: Server) -> None:
    url = "http://evil.example/"
    answers(server, "a.example", vt.url_id(url))
    server.answer("/domains/b.example", error(400, "InvalidArgumentError", "not a valid domain pattern"))
    result = run("lookup", "a.example", "b.example", url, "c.example")
    assert result.code == 0
    assert [item.get("error", {}).get("code") for item in result.objects] == [
        "NotFoundError", "InvalidArgumentError", "NotFoundError", None
    ]  # fmt: skip
    assert result.objects[0] == {
        "lookup": "a.example",
        "type": "domain",
        "id": "a.example",
        "error": {"code": "NotFoundError", "message": "a.example not found"},
    }
    assert (result.objects[2]["type"], result.objects[2]["id"]) == ("url", url)


def test_text_is_a_line_for_each_object(run: Run, server: Server) -> None:
    answers(server, "a.example", vt.url_id("http://evil.example/"))
    assert run("lookup", "a.example", "b.example", "http://evil.example/", "--format", "text").stdout.splitlines() == [
        "a.example  NotFoundError: a.example not found",
        "b.example",
        f"http://evil.example/  NotFoundError: {vt.url_id('http://evil.example/')} not found",
    ]


def test_an_empty_list_is_no_error(run: Run, server: Server) -> None:
    assert run("lookup", "--file", "-", stdin="\n# nothing today\n").code == 0
    assert server.seen == []


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 20, 40])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    answers(server)
    server.fail(number, TRANSIENT[fault])
    result = run("lookup", "--file", as_file(domains(40)))
    assert (result.code, len(server.seen)) == (0, 41)
    assert [item["lookup"] for item in result.objects] == domains(40)


def test_a_slow_answer_holds_a_bounded_window(run: Run, server: Server) -> None:
    answers(server)
    seen_before_the_first_answer = []

    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        seen_before_the_first_answer.append(len(server.seen))
        return web.json_response({"data": {"type": "domain", "id": "d0.example"}})

    server.answer("/domains/d0.example", slow)
    result = run("lookup", "--file", as_file(domains(200)))
    assert [item["lookup"] for item in result.objects] == domains(200)
    assert seen_before_the_first_answer == [32]


def test_many_requests_are_under_way_at_once(run: Run, server: Server) -> None:
    answers(server)
    under_way, most = 0, 0

    async def count(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way, most = under_way + 1, max(most, under_way + 1)
        await asyncio.sleep(0.02)
        under_way -= 1
        return web.json_response({"data": {"type": "domain", "id": "x"}})

    server.answer("/domains/*", count)
    assert run("lookup", "--file", as_file(domains(200))).code == 0
    assert 16 < most <= 32


# ---- The checkpoint


def test_an_existing_file_is_refused_before_any_request(run: Run, server: Server) -> None:
    Path("out.jsonl").write_text("precious\n")
    result = run("lookup", "evil.example", "-o", "out.jsonl")
    assert (result.code, server.seen, Path("out.jsonl").read_text()) == (2, [], "precious\n")
    assert "--resume" in result.last_line


@pytest.mark.parametrize("content", ["precious", '{"type": "file"}\n', '{"lookup": "a.example"}\nprecious', '\n{"loo'])
def test_another_file_is_not_continued(run: Run, server: Server, content: str) -> None:
    Path("out.jsonl").write_text(content)
    result = run("lookup", "evil.example", "-o", "out.jsonl", "--resume")
    assert (result.code, server.seen, Path("out.jsonl").read_text()) == (2, [], content)


def test_resume_needs_a_file(run: Run, server: Server) -> None:
    assert (run("lookup", "evil.example", "--resume").code, server.seen) == (2, [])


def test_resume_requests_only_what_is_missing(run: Run, server: Server) -> None:
    answers(server, "d1.example")
    assert run("lookup", *domains(3), "-o", "out.jsonl", "--resume").code == 0
    assert run("lookup", *domains(5), "-o", "out.jsonl", "--resume").code == 0
    assert looked_up() == domains(5)
    assert len(server.seen) == 5
    result = run("lookup", *domains(5), "-o", "out.jsonl", "--resume")
    assert (result.code, len(server.seen), looked_up()) == (0, 5, domains(5))


def test_a_wrong_key_is_a_wrong_key_when_resuming_too(run: Run, server: Server) -> None:
    answers(server)
    run("lookup", *domains(3), "-o", "out.jsonl")
    server.answer("/domains/*", error(401, "WrongCredentialsError"))
    result = run("lookup", *domains(5), "-o", "out.jsonl", "--resume")
    assert (result.code, looked_up()) == (2, domains(3))


def test_a_failure_is_listed_and_left_to_the_next_run(run: Run, server: Server) -> None:
    answers(server)
    server.answer("/domains/d3.example", error(503, "TransientError"))
    result = run("lookup", *domains(40), "-o", "out.jsonl", VT_MAX_WAIT="0.01")
    assert (result.code, looked_up()) == (3, [name for name in domains(40) if name != "d3.example"])
    assert any(line.startswith("d3.example: TransientError") for line in result.stderr.splitlines())
    assert "--resume" in result.last_line

    answers(server)
    server.answer("/domains/d3.example", {"data": {"type": "domain", "id": "d3.example"}})
    server.seen.clear()
    result = run("lookup", *domains(40), "-o", "out.jsonl", "--resume")
    assert (result.code, server.paths, len(looked_up())) == (0, ["GET /domains/d3.example"], 40)


def test_an_outage_fails_what_it_hits_and_nothing_else(run: Run, server: Server) -> None:
    answers(server)
    for name in domains(60)[10:50]:
        server.answer(f"/domains/{name}", error(503, "TransientError"))
    result = run("lookup", *domains(60), "-o", "out.jsonl", VT_MAX_WAIT="0.01")
    assert (result.code, looked_up()) == (3, domains(10) + domains(60)[50:])
    assert {name for name in domains(60) if f"\n{name}: " in f"\n{result.stderr}"} == set(domains(50)[10:])


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(401, "WrongCredentialsError"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(429, "QuotaExceededError"), 4),
    ],
)
def test_an_error_of_every_look_up_is_one_line_and_no_file(
    run: Run, server: Server, answer: Handler, code: int
) -> None:
    server.answer("/domains/*", answer)
    result = run("lookup", *domains(50), "-o", "out.jsonl", VT_MAX_WAIT="0.01")
    assert result.code == code
    assert [line for line in result.stderr.splitlines() if "retrying" not in line] == [result.last_line]
    assert not Path("out.jsonl").exists()


def test_an_exhausted_quota_keeps_what_came_and_continues_tomorrow(run: Run, server: Server) -> None:
    names = as_file(domains(100))
    answers(server)
    result = run("lookup", "--file", names, "-o", "out.jsonl", VT_MAX_REQUESTS="70")
    first = looked_up()
    assert (result.code, len(server.seen)) == (4, 70)
    assert 60 < len(first) <= 70  # the last answers may come too late on a busy machine
    assert f"{len(first)} of 100 indicators" in result.last_line and "--resume" in result.last_line
    result = run("lookup", "--file", names, "-o", "out.jsonl", "--resume", VT_MAX_REQUESTS="70")
    assert (result.code, len(server.seen)) == (0, 170 - len(first))
    assert looked_up() == first + [name for name in domains(100) if name not in first]


def test_answers_behind_the_one_that_hit_the_quota_are_kept(run: Run, server: Server) -> None:
    answers(server)

    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return await error(429, "QuotaExceededError")(request)

    server.answer("/domains/d2.example", late)
    result = run("lookup", *domains(10), "-o", "out.jsonl", VT_MAX_WAIT="0.001")
    assert (result.code, looked_up()) == (4, [name for name in domains(10) if name != "d2.example"])


@pytest.mark.parametrize("seed", range(3 * ROUNDS))
def test_a_file_that_a_kill_cut_anywhere_is_completed(run: Run, server: Server, seed: int) -> None:
    answers(server, "d1.example")
    run("lookup", *domains(20), "-o", "out.jsonl")
    content = Path("out.jsonl").read_bytes()
    cut = random.Random(seed).randrange(len(content))
    Path("out.jsonl").write_bytes(content[:cut])
    server.seen.clear()
    assert run("lookup", *domains(20), "-o", "out.jsonl", "--resume").code == 0
    assert Path("out.jsonl").read_bytes() == content
    assert len(server.seen) == 20 - content[:cut].count(b"\n")


# ---- Relationships


def communicating(server: Server, value: str, *pages: list[int], embedded: bool = True) -> None:
    """Answer an IP address with `pages` of communicating files; the object comes with descriptors of the first."""
    descriptors = [{"type": "file", "id": file_object(number)["id"]} for number in (pages[0] if pages else [])]
    related = {"communicating_files": {"data": descriptors, "links": {}}} if embedded else {}
    server.answer(f"/ip_addresses/{value}", {"data": {"type": "ip_address", "id": value, "relationships": related}})

    async def page(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("cursor", 0))
        more = str(number + 1) if number + 1 < len(pages) else None
        return web.json_response(collection(*map(file_object, pages[number]), cursor=more))

    server.answer(f"/ip_addresses/{value}/communicating_files", page)


def related(run: Run, *args: str, **env: str) -> Result:
    return run("lookup", *args, "--relationship", "communicating_files", **env)


def numbers(objects: list[dict[str, Any]]) -> list[tuple[str, int | None]]:
    """Return each line's `lookup`, and the number of the related file (None: the indicator's own object)."""
    return [(item["lookup"], int(item["id"], 16) if "relationship" in item else None) for item in objects]


A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
EXPECTED = [*[(A, n) for n in range(5)], (A, None), (B, None), *[(C, n) for n in (7, 8)], (C, None)]


def three_addresses(server: Server) -> None:
    answers(server)
    communicating(server, A, [0, 1], [2, 3], [4])
    communicating(server, B)
    communicating(server, C, [7, 8], embedded=False)


def test_a_relationship_is_paged_to_its_end(run: Run, server: Server) -> None:
    three_addresses(server)
    result = related(run, A, B, C)
    assert (result.code, numbers(result.objects)) == (0, EXPECTED)
    assert result.objects[0] == {"lookup": A, "relationship": "communicating_files"} | file_object(0)
    assert sorted(server.paths) == [
        "GET /ip_addresses/192.0.2.1/communicating_files?limit=40",
        "GET /ip_addresses/192.0.2.1/communicating_files?limit=40&cursor=1",
        "GET /ip_addresses/192.0.2.1/communicating_files?limit=40&cursor=2",
        "GET /ip_addresses/192.0.2.1?relationships=communicating_files",
        "GET /ip_addresses/192.0.2.2?relationships=communicating_files",  # has none, so there is nothing to page
        "GET /ip_addresses/192.0.2.3/communicating_files?limit=40",
        "GET /ip_addresses/192.0.2.3?relationships=communicating_files",
        "GET /metadata",
    ]


def test_a_type_without_the_relationship_is_looked_up_without_it(run: Run, server: Server) -> None:
    three_addresses(server)
    result = related(run, "b" * 32, A, "--limit", "2")
    assert "at most 2 objects of each relationship" in result.last_line
    assert result.code == 0
    assert numbers(result.objects) == [("b" * 32, None), (A, 0), (A, 1), (A, None)]
    assert f"GET /files/{'b' * 32}" in server.paths


@pytest.mark.parametrize(
    ("name", "hint"),
    [("comunicating_file", "did you mean communicating_files"), ("xyz", "https://docs.virustotal.com/")],
)
def test_an_unknown_relationship_costs_one_request(run: Run, server: Server, name: str, hint: str) -> None:
    three_addresses(server)
    result = run("lookup", A, "--relationship", name, "-o", "out.jsonl")
    assert (result.code, server.paths, Path("out.jsonl").exists()) == (2, ["GET /metadata"], False)
    assert hint in result.last_line


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 5, 8])
def test_a_transient_failure_while_paging_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    three_addresses(server)
    server.fail(number, TRANSIENT[fault])
    result = related(run, A, B, C)
    assert (result.code, numbers(result.objects), len(server.seen)) == (0, EXPECTED, 9)


def test_an_indicator_that_fails_half_way_is_removed_and_requested_again(run: Run, server: Server) -> None:
    three_addresses(server)
    files = collection(file_object(0), file_object(1), cursor="1")
    server.answer(f"/ip_addresses/{A}/communicating_files", files, error(503, "TransientError"))
    result = related(run, A, B, C, "-o", "out.jsonl", VT_MAX_WAIT="0.01")
    assert (result.code, numbers(lines())) == (3, EXPECTED[6:])

    communicating(server, A, [0, 1], [2, 3], [4])
    assert related(run, A, B, C, "-o", "out.jsonl", "--resume").code == 0
    assert numbers(lines()) == EXPECTED[6:] + EXPECTED[:6]


@pytest.mark.parametrize("status", [400, 404, 503])
def test_an_error_of_a_relationship_is_a_failure_of_the_indicator(run: Run, server: Server, status: int) -> None:
    three_addresses(server)
    server.answer(f"/ip_addresses/{A}/communicating_files", error(status, "NotFoundError"))
    result = related(run, A, B, C, "-o", "out.jsonl", VT_MAX_WAIT="0.01")
    assert (result.code, numbers(lines())) == (3, EXPECTED[6:])
    assert f"{A}: NotFoundError" in result.stderr


def test_a_refused_request_for_relationships_is_no_answer(run: Run, server: Server) -> None:
    three_addresses(server)
    server.answer(f"/ip_addresses/{B}", error(400, "BadRequestError", "unknown relationship"))
    server.answer(f"/ip_addresses/{C}", error(404, "NotFoundError"))
    result = related(run, A, B, C, "-o", "out.jsonl")
    assert (result.code, numbers(lines())) == (3, [*EXPECTED[:6], (C, None)])


@pytest.mark.parametrize("quota", range(3, 9))
def test_a_quota_that_ends_half_way_repeats_only_the_last_indicator(run: Run, server: Server, quota: int) -> None:
    three_addresses(server)
    result = related(run, A, B, C, "-o", "out.jsonl", VT_MAX_REQUESTS=str(quota))
    assert result.code == (0 if quota == 8 else 4)
    assert related(run, A, B, C, "-o", "out.jsonl", "--resume").code == 0
    assert sorted(map(str, numbers(lines()))) == sorted(map(str, EXPECTED))
    assert len(server.seen) <= 2 * 8


@pytest.mark.parametrize("seed", range(3 * ROUNDS))
def test_related_objects_that_a_kill_cut_anywhere_are_completed(run: Run, server: Server, seed: int) -> None:
    three_addresses(server)
    related(run, A, B, C, "-o", "out.jsonl")
    content = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(content[: random.Random(seed).randrange(len(content))])
    assert related(run, A, B, C, "-o", "out.jsonl", "--resume").code == 0
    assert Path("out.jsonl").read_bytes() == content


# ---- In a notebook


def test_a_notebook_iterates_over_the_objects(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    three_addresses(server)
    monkeypatch.setenv("VT_HOST", server.url)

    async def collect(**options: Any) -> list[dict[str, Any]]:
        return [item async for item in lookup.lookup([A, "b" * 32], apikey="k", **options)]

    assert [item["lookup"] for item in asyncio.run(collect())] == [A, "b" * 32]
    names = ["communicating_files"]
    assert len(asyncio.run(collect(relationships=names))) == 7


@pytest.mark.parametrize("indicators", ["evil.example", ["oops"]])
def test_a_notebook_learns_of_a_wrong_argument(server: Server, indicators: Any) -> None:
    async def first() -> Any:
        return await anext(lookup.lookup(indicators, apikey="k"))

    with pytest.raises((TypeError, lookup.UsageError)):
        asyncio.run(first())
    assert server.seen == []


# ---- Processes


def test_after_kill_9_only_what_was_in_flight_is_repeated(server: Server, tmp_path: Path) -> None:
    answers(server)
    names, out = tmp_path / "list.txt", tmp_path / "out.jsonl"
    names.write_text("\n".join(domains(1000)))
    kills = max(1, ROUNDS // 5)
    for kill in range(kills + 1):
        enough = len(server.seen) + 800 // kills
        args = ["--file", names, "-o", out, "--resume"]
        process = start("lookup", *args, tmp_path=tmp_path, server=server, VT_RATE="30000")
        while kill < kills and process.poll() is None and len(server.seen) < enough:
            time.sleep(0.001)
        if kill < kills:
            process.kill()
        assert process.wait(60) == (-signal.SIGKILL if kill < kills else 0)
    assert looked_up(str(out)) == domains(1000)
    assert 1000 <= len(server.seen) <= 1000 + kills * 33


def test_a_signal_keeps_what_came(tmp_path: Path, server: Server) -> None:
    answers(server)
    (tmp_path / "list.txt").write_text("\n".join(domains(10_000)))
    args = ["--file", "list.txt", "-o", "out.jsonl"]
    process = start("lookup", *args, tmp_path=tmp_path, server=server, VT_RATE="6000")
    while len(server.seen) < 50:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert process.stderr is not None
    assert "--resume" in process.stderr.read().splitlines()[-1]
    assert looked_up(str(tmp_path / "out.jsonl"))[:10] == domains(10)


def test_quotes_and_commas_around_an_entry_are_dropped_and_two_on_a_line_are_refused(run: Run, server: Server) -> None:
    server.answer("/*", {"data": file_object(1)})
    hash_line = "d41d8cd98f00b204e9800998ecf8427e"
    result = run("lookup", "--file", "-", stdin=f'"{hash_line}",\n{hash_line}\tevil.exe\n')
    assert (result.code, [item["lookup"] for item in result.objects]) == (3, [hash_line])
    assert "line 2" in result.stderr


def test_the_name_of_a_file_is_no_domain(run: Run, server: Server) -> None:
    Path("iocs.txt").write_text("evil.example\n")
    result = run("lookup", "iocs.txt")
    assert (result.code, server.seen) == (2, [])
    assert "--file iocs.txt" in result.stderr
