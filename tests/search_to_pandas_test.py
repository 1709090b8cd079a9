"""search_to_pandas.py as its user runs it, and as a notebook awaits it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from aiohttp import web
from conftest import KEY, SCRIPTS, Run, Server, environment, error, html, reset, silence, truncated
from search_to_pandas import search_to_dataframe

SEARCH = "/intelligence/search"


def file(number: int, **attributes: Any) -> dict[str, Any]:
    return {"type": "file", "id": f"{number:064x}", "attributes": {"size": number} | attributes}


def ids(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


def test_the_query_goes_as_it_is_with_the_order_and_the_limit(server: Server, run: Run) -> None:
    server.answer(SEARCH, {"data": [file(1)]})
    query = 'entity:file content:"AbC {x} &=é" p:5+'
    assert run("search_to_pandas", query, "--limit", 7, "--order", "size+", server=server).returncode == 0
    assert dict(server.seen[0].query) == {"query": query, "order": "size+", "limit": "7"}


def test_stdout_is_data_and_the_last_line_of_stderr_says_what_happened(server: Server, run: Run) -> None:
    server.answer(SEARCH, {"data": [file(1), file(2)], "meta": {"total_hits": 2}})
    result = run("search_to_pandas", "p:5+", "--format", "jsonl", server=server)
    assert ids(result.stdout) == [file(1)["id"], file(2)["id"]]
    assert result.stderr.splitlines() == ["2 objects, 1 request, complete"]


def test_an_empty_result_is_a_result(server: Server, run: Run) -> None:
    server.answer(SEARCH, {"data": [], "meta": {"total_hits": 0}})
    for form, stdout in (("table", ""), ("jsonl", ""), ("csv", "id,type,size\n")):
        result = run("search_to_pandas", "p:99+", "--column", "size", "--format", form, server=server)
        assert (result.returncode, result.stdout) == (0, stdout)
        assert result.stderr == "0 objects, 1 request, complete\n"


@pytest.mark.parametrize(
    ("kind", "attributes", "context", "shown"),
    [
        ("file", {"meaningful_name": "a.exe", "type_description": "Win32 EXE"}, {}, "a.exe"),
        ("url", {"title": "Login"}, {"url": "http://a.example/"}, "http://a.example/"),
        ("domain", {"registrar": "Registrar One"}, {}, "Registrar One"),
        ("ip_address", {"country": "NL", "asn": 64500}, {}, "64500"),
        ("collection", {"name": "Campaign"}, {}, "Campaign"),
    ],
)
def test_the_table_shows_what_tells_most_of_each_entity(
    server: Server, run: Run, kind: str, attributes: dict[str, Any], context: dict[str, Any], shown: str
) -> None:
    item = {"type": kind, "id": "x", "attributes": attributes | {"whatever": "zzz"}, "context_attributes": context}
    server.answer(SEARCH, {"data": [item]})
    result = run("search_to_pandas", f"entity:{kind}", server=server)
    assert shown in result.stdout
    assert "zzz" not in result.stdout


def test_value_counts_stand_under_the_table(server: Server, run: Run) -> None:
    items = [file(n, type_description="ELF" if n else "Win32 EXE", tags=["packed", f"t{n}"]) for n in range(3)]
    server.answer(SEARCH, {"data": items})
    lines = run("search_to_pandas", "x", server=server).stdout.splitlines()
    assert lines[-2] == "type_description: ELF 2, Win32 EXE 1"
    assert lines[-1] == "tags: packed 3, t0 1, t1 1, t2 1"


def test_hostile_strings_reach_no_terminal_and_no_spreadsheet(server: Server, run: Run) -> None:
    hostile = "=cmd|'/c calc'!A1\x1b]0;owned\x07\u202e\x00\ud800"
    server.answer(SEARCH, {"data": [file(1, meaningful_name=hostile, tags=[hostile, hostile], **{hostile: hostile})]})
    for form in ("table", "csv", "jsonl", "markdown"):
        result = run("search_to_pandas", "x", "--format", form, server=server)
        assert "".join(result.stdout.splitlines()).isprintable()
    csv = run("search_to_pandas", "x", "--column", "meaningful_name", "--format", "csv", server=server).stdout
    assert csv.splitlines()[1].partition(",file,")[2].startswith("'=")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "query"),
        ([" "], "the query is empty"),
        (["x", "--column", "a=$.["], "bad JSONPath '$.['"),
        (["x", "--output", "a.txt"], "ends in none of"),
        (["x", "--limit", "-1"], "--limit"),
        (["x", "--format", "xml"], "--format"),
    ],
)
def test_wrong_usage_is_one_line_and_no_request(server: Server, run: Run, args: list[str], why: str) -> None:
    result = run("search_to_pandas", *args, server=server)
    assert result.returncode == 2
    assert why in result.stderr
    assert (len(result.stderr.splitlines()), server.seen) == (1, [])


def test_without_a_key_it_says_where_it_looked(run: Run) -> None:
    result = run("search_to_pandas", "x")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "VTCLI_APIKEY" in result.stderr
    assert "replay.py" in result.stderr


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "InvalidArgumentError", "bad query"), 2),
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 2),
        (error(403, "ForbiddenError", "not allowed"), 2),
        (error(429, "QuotaExceededError", "Quota exceeded", **{"Retry-After": "999"}), 4),
    ],
)
def test_what_virustotal_refuses_is_said_in_its_words(server: Server, run: Run, answer: Any, code: int) -> None:
    server.answer(SEARCH, answer)
    result = run("search_to_pandas", "x", server=server)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (code, "", 1)
    assert "Error: " in result.stderr


@pytest.mark.parametrize("misfortune", [reset, truncated, html(502), html(200), silence, error(503, "TransientError")])
def test_a_lasting_misfortune_ends_with_one_clear_line(server: Server, run: Run, misfortune: Any) -> None:
    server.answer(SEARCH, misfortune)
    result = run("search_to_pandas", "x", server=server, VT_MAX_WAIT="1")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("misfortune", "code"),
    [(error(429, "QuotaExceededError", **{"Retry-After": "999"}), 4), (error(400, "BadRequestError"), 3)],
)
def test_what_came_before_a_failure_is_written_and_the_rest_resumed(
    server: Server, run: Run, tmp_path: Path, misfortune: Any, code: int
) -> None:
    first = {"data": [file(n) for n in range(300)], "meta": {"cursor": "next"}}
    server.answer(SEARCH, first, misfortune)
    result = run("search_to_pandas", "x", "--limit", 0, "--output", "first.csv", server=server)
    assert result.returncode == code
    assert result.stderr.splitlines()[-1].startswith("INCOMPLETE: 300 objects, 2 requests; ")
    assert result.stderr.endswith("go on with --cursor next\n")
    assert len(pd.read_csv(tmp_path / "first.csv")) == 300

    server.answer(SEARCH, {"data": [file(300)]})
    again = run("search_to_pandas", "x", "--limit", 0, "--output", "first.csv", "--cursor", "next", server=server)
    assert (again.returncode, "name another file" in again.stderr) == (2, True)
    rest = run("search_to_pandas", "x", "--limit", 0, "--output", "rest.csv", "--cursor", "next", server=server)
    assert rest.returncode == 0
    assert server.seen[-1].query["cursor"] == "next"
    assert len(pd.read_csv(tmp_path / "rest.csv")) == 1


@pytest.mark.skipif(os.name != "posix", reason="signals differ on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_writes_what_it_has(server: Server, tmp_path: Path, number: int) -> None:
    server.answer(SEARCH, {"data": [file(n) for n in range(300)], "meta": {"cursor": "next"}}, silence)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "search_to_pandas.py"), "x", "--limit", "0", "--output", "o.jsonl"],
        env=environment(tmp_path, server, VT_MAX_WAIT="60"),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while len(server.seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr == "INCOMPLETE: 300 objects, 2 requests; interrupted; go on with --cursor next\n"
    assert len(ids((tmp_path / "o.jsonl").read_text())) == 300


def test_several_outputs_and_a_database_url_are_written_from_one_search(
    server: Server, run: Run, tmp_path: Path
) -> None:
    server.answer(SEARCH, {"data": [file(1), file(2)]})
    outputs = ["a.csv", "a.jsonl", "a.parquet", "a.xlsx", "a.md", "a.db", f"sqlite:///{tmp_path / 'b.db'}"]
    args = [part for output in outputs for part in ("--output", output)]
    result = run("search_to_pandas", "x", *args, server=server)
    assert (result.returncode, result.stdout, len(server.seen)) == (0, "", 1)
    assert all((tmp_path / name).stat().st_size for name in [*outputs[:6], "b.db"])
    for name in ("a.db", "b.db"):
        assert len(pd.read_sql("file", f"sqlite:///{tmp_path / name}")) == 2


def test_an_output_that_fails_costs_neither_the_others_nor_the_cursor(server: Server, run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("create view file as select 1 as id")
    server.answer(SEARCH, {"data": [file(1)], "meta": {"cursor": "next"}})
    result = run("search_to_pandas", "x", "--limit", 1, "--output", "a.db", "--output", "a.csv", server=server)
    assert (result.returncode, len(pd.read_csv(tmp_path / "a.csv"))) == (1, 1)
    said = result.stderr.splitlines()[-1]
    assert said.startswith("INCOMPLETE: 1 object, 1 request; cannot write a.db: ")
    assert said.endswith("; go on with --cursor next")
    kept = Path(said.partition("; the rows are kept in ")[2].partition(";")[0])
    assert ids(kept.read_text()) == [file(1)["id"]]
    kept.unlink()


def test_an_error_in_an_object_s_place_is_counted_whatever_the_columns(server: Server, run: Run) -> None:
    gone = {"type": "file", "id": "gone", "error": {"code": "NotFoundError", "message": "gone"}}
    server.answer(SEARCH, {"data": [file(1), gone]})
    for args in ((), ("--column", "size")):
        last = run("search_to_pandas", "x", *args, server=server).stderr.splitlines()[-1]
        assert last == "2 objects (1 of them an error in a report's place), 1 request, complete"


def test_an_error_at_once_is_one_line_though_pandas_still_loads(run: Run, server: Server) -> None:
    server.answer(SEARCH, error(400, "InvalidArgumentError", "no such query"))
    result = run("search_to_pandas", "x", server=server)
    assert (result.returncode, result.stderr) == (2, "error: InvalidArgumentError: no such query\n")


def test_a_file_that_is_no_database_is_refused_before_the_search(server: Server, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("no database, whatever its name says")
    result = run("search_to_pandas", "x", "--output", "a.db", server=server)
    assert (result.returncode, len(server.seen)) == (2, 0)
    assert result.stderr.startswith("error: --output a.db: ") and "file is not a database" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is Linux's")
@pytest.mark.parametrize("form", ["jsonl", "table", "markdown"])
def test_rows_that_stdout_does_not_take_are_kept(server: Server, tmp_path: Path, form: str) -> None:
    server.answer(SEARCH, {"data": [file(1)], "meta": {"cursor": "next"}})
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, str(SCRIPTS / "search_to_pandas.py"), "x", "--limit", "1", "--format", form],
            env=environment(tmp_path, server, TMPDIR=str(tmp_path)),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 1
    assert "INCOMPLETE: 1 object, 1 request; cannot write to stdout: No space left on device" in result.stderr
    assert "go on with --cursor next" in result.stderr
    assert ids(next(tmp_path.glob("vt-*.jsonl")).read_text()) == [file(1)["id"]]


def test_a_table_goes_through_the_pages_of_a_large_search(server: Server, run: Run) -> None:
    async def pages(request: web.Request) -> web.Response:
        start, limit = int(request.query.get("cursor", 0)), int(request.query["limit"])
        stop = min(start + limit, 700)
        meta = {"total_hits": 700} | ({"cursor": str(stop)} if stop < 700 else {})
        return web.json_response({"data": [file(n) for n in range(start, stop)], "meta": meta})

    server.answer(SEARCH, pages)
    result = run("search_to_pandas", "x", "--limit", 0, "--format", "jsonl", server=server)
    assert ids(result.stdout) == [file(n)["id"] for n in range(700)]
    assert result.stderr == "700 objects, 3 requests, complete\n"
    result = run("search_to_pandas", "x", "--limit", 10, "--format", "jsonl", server=server)
    assert result.stderr == (
        "10 of 700 objects, 1 request; there is more (--limit 0 takes all); go on with --cursor 10\n"
    )


def test_a_notebook_awaits_a_dataframe(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VT_HOST", server.url)
    first = {"data": [file(1, first_submission_date=0)], "meta": {"cursor": "next"}}
    server.answer(SEARCH, first, error(400, "BadRequestError", "no more"))

    async def notebook() -> pd.DataFrame:
        return await search_to_dataframe("p:5+", column=["size", "seen=first_submission_date"], limit=0, apikey=KEY)

    frame = asyncio.run(notebook())
    assert list(frame) == ["id", "type", "size", "seen"]
    assert frame["seen"][0] == pd.Timestamp(0, tz="UTC")
    assert frame.attrs["cursor"] == "next"
    assert "no more" in frame.attrs["incomplete"]


@pytest.mark.parametrize(
    "items",
    [
        [{"type": ["file"], "id": "1"}, file(2)],
        [{"type": {"a": 1}, "id": {"b": 2}}],
        [{"type": "new", "id": "1"}, {"type": "new", "id": "2"}, file(3)],
        [{"type": "new", "id": "1", "attributes": {"error": "x"}, "error": {"code": "y"}}],
        [{"type": "file", "error": {"code": "NotFoundError"}}],
        [{"type": "url", "id": "1"}, {"type": "url", "id": "2"}],
        [{"type": "url", "id": 5, "context_attributes": {"url": 7}}, {"type": "url", "id": "6"}],
        [file(1, creation_date="٣٣"), file(2, creation_date=3)],
        [file(1, creation_date={"a": [1]}, tags=5, last_analysis_stats=["x"])],
    ],
)
@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_objects_of_odd_shapes_are_rows(server: Server, run: Run, items: list[Any], form: str) -> None:
    server.answer(SEARCH, {"data": items})
    result = run("search_to_pandas", "p:1+", "--format", form, server=server)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.partition("\n\n")[0].splitlines()) == len(items) + (form == "table")


@pytest.mark.parametrize("kind", ["users", "sqlite_master", "", None, ["x"], "a\0b"])
def test_rows_go_to_no_table_that_virustotal_names(server: Server, run: Run, tmp_path: Path, kind: Any) -> None:
    with sqlite3.connect(tmp_path / "mine.db") as database:
        database.execute("CREATE TABLE users (id TEXT, type TEXT)")
    server.answer(SEARCH, {"data": [{"type": kind, "id": "1"}]})
    result = run("search_to_pandas", "p:1+", "--output", "mine.db", server=server)
    assert result.returncode == 0, result.stderr
    assert database.execute("SELECT count(*) FROM users").fetchone() == (0,)
    assert database.execute("SELECT id FROM virustotal").fetchone() == ("1",)
