"""search_to_pandas: a search and its table, as its user runs it and as a notebook awaits it."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import KEY, TRANSIENT, Handler, Run, Server, collection, error, file_object, load, silence, start

SEARCH = "/intelligence/search"


def three_pages(server: Server) -> None:
    files = [file_object(n) for n in range(7)]
    server.answer(
        SEARCH,
        collection(*files[:3], cursor="b", total_hits=7),
        collection(*files[3:5], cursor="c", total_hits=7),
        collection(*files[5:], total_hits=7),
    )


def ids(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


# ---- The request


def test_the_query_is_sent_as_it_is_and_verdicts_are_left_out(run: Run, server: Server) -> None:
    server.answer(SEARCH, collection(file_object(1)))
    query = 'entity:file content:"AbC {x} &=é" p:5+'
    assert run("search_to_pandas", query, "--limit", "7", "--order", "size+").code == 0
    assert dict(server.seen[0].query) == {
        "query": query,
        "order": "size+",
        "limit": "7",
        "exclude_attributes": "last_analysis_results",
    }
    assert server.seen[0].headers["X-Apikey"] == KEY


@pytest.mark.parametrize(
    "args",
    [
        ["--verdicts"],
        ["--column", "av=last_analysis_results.Kaspersky.result"],
        ["--column", "av=$.attributes.last_analysis_results[?(@.category=='malicious')].engine_name"],
        ["--column", "av=$..engine_name"],
        ["--column", "av=$.attributes.*.Kaspersky"],
    ],
)
def test_verdicts_are_requested_when_they_are_wanted(run: Run, server: Server, args: list[str]) -> None:
    server.answer(SEARCH, collection(file_object(1, last_analysis_results={"Kaspersky": {"result": "x"}})))
    assert run("search_to_pandas", "q", *args).code == 0
    assert "exclude_attributes" not in server.seen[0].query


def test_all_pages_in_few_requests(run: Run, server: Server) -> None:
    three_pages(server)
    result = run("search_to_pandas", "q", "--limit", "0", "--format", "jsonl")
    assert (ids(result.stdout), len(server.seen)) == ([file_object(n)["id"] for n in range(7)], 3)
    assert result.last_line == "7 objects, 3 requests, complete"


def test_a_limit_says_that_there_is_more(run: Run, server: Server) -> None:
    server.answer(SEARCH, collection(*(file_object(n) for n in range(2)), cursor="next", total_hits=9))
    result = run("search_to_pandas", "q", "--limit", "2")
    assert result.code == 0
    assert result.last_line.startswith("2 of 9 objects, 1 request; there is more")
    assert "--cursor next" in result.last_line


# ---- The table


@pytest.mark.parametrize(
    ("kind", "attributes", "context", "shown"),
    [
        ("file", {"meaningful_name": "a.exe", "type_description": "Win32 EXE"}, {}, ["a.exe", "Win32 EXE"]),
        ("url", {"title": "Login", "tld": "example"}, {"url": "http://a.example/"}, ["http://a.example/", "Login"]),
        ("domain", {"registrar": "Registrar One", "tags": ["dga"]}, {}, ["Registrar One", "dga"]),
        ("ip_address", {"country": "NL", "asn": 64500}, {}, ["NL", "64500"]),
        ("collection", {"name": "Campaign", "creation_date": 0}, {}, ["Campaign", "1970-01-01 00:00"]),
    ],
)
def test_a_table_shows_the_useful_columns_of_each_entity(
    run: Run, server: Server, kind: str, attributes: dict[str, Any], context: dict[str, Any], shown: list[str]
) -> None:
    item = {"type": kind, "id": "x", "attributes": attributes | {"whatever": "zzz"}, "context_attributes": context}
    server.answer(SEARCH, collection(item))
    table = run("search_to_pandas", f"entity:{kind}").stdout
    assert all(text in table for text in shown)
    assert "zzz" not in table


def test_values_that_repeat_are_counted_below_the_table(run: Run, server: Server) -> None:
    items = [
        file_object(n, type_description="ELF" if n else "Win32 EXE", tags=["packed", f"t{n}"], size=5) for n in range(3)
    ]
    server.answer(SEARCH, collection(*items))
    assert run("search_to_pandas", "q").stdout.splitlines()[-3:] == [
        "",
        "type_description: ELF 2, Win32 EXE 1",
        "tags: packed 3, t0 1, t1 1, t2 1",
    ]
    assert run("search_to_pandas", "q", "--column", "id", "--column", "size").stdout.splitlines()[-1] == "size: 5 3"
    assert "packed 3" not in run("search_to_pandas", "q", "--format", "csv").stdout


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}, {"a": 1}], [[1], [1]]])
def test_dicts_are_not_counted(run: Run, server: Server, value: Any) -> None:
    server.answer(SEARCH, collection(*(file_object(n, exiftool=value) for n in range(3))))
    assert len(run("search_to_pandas", "q", "--column", "exiftool").stdout.splitlines()) == 4


def test_an_empty_result_is_a_result(run: Run, server: Server) -> None:
    server.answer(SEARCH, collection(total_hits=0))
    for style, stdout in (("table", ""), ("jsonl", ""), ("csv", "size\n"), ("markdown", "| size |\n| --- |\n")):
        result = run("search_to_pandas", "q", "--column", "size", "--format", style)
        assert (result.code, result.stdout, result.stderr) == (0, stdout, "0 objects, 1 request, complete\n")


def test_a_failed_item_is_a_row(run: Run, server: Server) -> None:
    gone = {"type": "file", "id": "gone", "error": {"code": "NotFoundError", "message": "gone"}}
    server.answer(SEARCH, collection(file_object(1), gone))
    assert run("search_to_pandas", "q", "--format", "jsonl").objects[1] == {
        "id": "gone",
        "type": "file",
        "error.code": "NotFoundError",
        "error.message": "gone",
    }


def test_one_search_makes_several_outputs(run: Run, server: Server, tmp_path: Path) -> None:
    server.answer(SEARCH, collection(file_object(1), file_object(2)))
    outputs = ["o.CSV", "o.jsonl", "o.parquet", "o.xlsx", "o.md", "o.db", f"sqlite:///{tmp_path}/server.db"]
    for _ in range(2):
        result = run("search_to_pandas", "q", *(part for output in outputs for part in ("--output", output)))
        assert (result.code, result.stdout) == (0, "")
    assert len(server.seen) == 2
    assert len(pd.read_csv("o.CSV")) == len(pd.read_excel("o.xlsx")) == len(pd.read_parquet("o.parquet")) == 2
    for database, rows in (("o.db", 2), (tmp_path / "server.db", 4)):  # a file is updated, a server appended to
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("select count(*) from file").fetchone() == (rows,)


# ---- Failures


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_transient_failure_at_any_request_loses_nothing(run: Run, server: Server, fault: str, number: int) -> None:
    three_pages(server)
    server.fail(number, TRANSIENT[fault])
    result = run("search_to_pandas", "q", "--limit", "0", "--column", "id", "--format", "csv")
    assert (result.code, len(result.stdout.splitlines()), len(server.seen)) == (0, 8, 4)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(400, "InvalidArgumentError"), 2),
        (error(401, "WrongCredentialsError", f"Wrong API key {KEY}"), 2),
        (error(403, "ForbiddenError"), 2),
        (error(429, "QuotaExceededError"), 4),
        (error(503, "TransientError"), 1),
    ],
)
def test_an_error_on_the_first_page_is_one_line(run: Run, server: Server, answer: Handler, code: int) -> None:
    server.answer(SEARCH, answer)
    result = run("search_to_pandas", "q", "--cursor", "refused", "-o", "x.csv", VT_MAX_WAIT="0.01")
    assert (result.code, result.stdout) == (code, "")
    assert result.last_line.startswith("error: ")
    assert "--cursor" not in result.last_line
    assert not Path("x.csv").exists()


@pytest.mark.parametrize(("status", "code"), [(429, 4), (503, 3), (400, 3)])
def test_an_error_later_keeps_what_came_and_resumes(run: Run, server: Server, status: int, code: int) -> None:
    three_pages(server)
    for number in range(3, 99):
        server.fail(number, error(status, "QuotaExceededError"))
    result = run("search_to_pandas", "q", "--limit", "0", "-o", "first.csv", VT_MAX_WAIT="0.05")
    assert (result.code, len(pd.read_csv("first.csv"))) == (code, 5)
    assert result.last_line.startswith("INCOMPLETE: 5 of 7 objects")
    assert "resume with --cursor c" in result.last_line

    server.faults.clear()
    server.answer(SEARCH, collection(file_object(5), file_object(6)))
    seen = len(server.seen)
    again = run("search_to_pandas", "q", "--limit", "0", "-o", "first.csv", "--cursor", "c")
    assert (again.code, len(server.seen)) == (2, seen)
    rest = run("search_to_pandas", "q", "--limit", "0", "-o", "rest.csv", "--cursor", "c")
    assert (rest.code, server.seen[-1].query["cursor"], len(pd.read_csv("rest.csv"))) == (0, "c", 2)


def test_vt_max_requests_ends_like_a_spent_quota(run: Run, server: Server) -> None:
    three_pages(server)
    result = run("search_to_pandas", "q", "--limit", "0", "--format", "jsonl", VT_MAX_REQUESTS="2")
    assert (result.code, len(result.objects), len(server.seen)) == (4, 5, 2)


def test_objects_that_cannot_be_written_are_saved(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd()))
    with closing(sqlite3.connect("mine.db")) as database:
        database.execute("create view file as select 1 as id")
    server.answer(SEARCH, collection(file_object(1), cursor="next"))
    result = run("search_to_pandas", "q", "--limit", "1", "-o", "mine.db")
    assert (result.code, result.last_line.startswith("INCOMPLETE: 1 object, 1 request; cannot write mine.db")) == (
        1,
        True,
    )
    (saved,) = Path.cwd().glob("vt-*.jsonl")
    assert str(saved) in result.last_line
    assert [json.loads(line) for line in saved.read_text().splitlines()] == [file_object(1)]
    assert result.last_line.endswith("resume with --cursor next")


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        ([], "query"),
        (["entity:file", "p:5+"], "quote an argument"),
        (["q", "--column", "a=$.["], "bad JSONPath"),
        (["q", "--column", "size", "--column", "size"], "NAME=PATH"),
        (["q", "--output", "a.txt"], ".parquet"),
        (["q", "--output", "nowhere/a.csv"], "folder"),
        (["q", "--limit", "-1"], "--limit"),
        (["q", "--format", "xml"], "markdown"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, server: Server, args: list[str], hint: str) -> None:
    result = run("search_to_pandas", *args)
    assert (result.code, len(result.stderr.splitlines()), server.seen) == (2, 1, [])
    assert hint in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_what_came(tmp_path: Path, server: Server, number: int) -> None:
    server.answer(SEARCH, collection(*(file_object(n) for n in range(300)), cursor="next"), silence)
    process = start("search_to_pandas", "q", "--limit", "0", "-o", "o.jsonl", tmp_path=tmp_path, server=server)
    deadline = time.monotonic() + 60
    while len(server.seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "INCOMPLETE: 300 objects, 2 requests; interrupted; resume with --cursor next\n"
    assert len(ids((tmp_path / "o.jsonl").read_text())) == 300


# ---- In a notebook


@pytest.fixture
def notebook(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a notebook imports it."""
    monkeypatch.setenv("VT_HOST", server.url)
    return load("search_to_pandas")


def test_a_notebook_awaits_a_dataframe(server: Server, notebook: Any) -> None:
    server.answer(SEARCH, collection(file_object(1, first_submission_date=0)))
    frame = asyncio.run(notebook.search_to_dataframe("p:5+", column=["size", "seen=first_submission_date"], apikey=KEY))
    assert frame.to_dict("list") == {"size": [1001], "seen": [pd.Timestamp(0, tz="UTC")]}
    assert frame.attrs == {"complete": True, "error": None, "cursor": None, "requests": 1}
    assert server.seen[0].query["limit"] == "100"


def test_a_notebook_learns_why_a_search_ended_early(server: Server, notebook: Any) -> None:
    server.answer(SEARCH, collection(file_object(1), cursor="next"), error(400, "BadRequestError", "no more"))
    frame = asyncio.run(notebook.search_to_dataframe("p:5+", limit=0, apikey=KEY))
    assert len(frame) == 1
    assert frame.attrs == {"complete": False, "error": "BadRequestError: no more", "cursor": "next", "requests": 2}
    server.answer(SEARCH, collection(file_object(1), cursor="next"))
    attrs = asyncio.run(notebook.search_to_dataframe("p:5+", limit=1, apikey=KEY)).attrs
    assert (attrs["complete"], attrs["error"], attrs["cursor"]) == (False, None, "next")


def test_a_string_for_a_list_is_refused(server: Server, notebook: Any) -> None:
    with pytest.raises(TypeError, match="column must be a list"):
        asyncio.run(notebook.search_to_dataframe("p:5+", column="size", apikey=KEY))
    assert server.seen == []
