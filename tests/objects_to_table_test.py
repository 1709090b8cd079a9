"""objects_to_table: a sink for the objects that everything else prints."""

from __future__ import annotations

import bz2
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zstandard
from conftest import SCRIPTS, Run, environment, file_object, load

FILES = [file_object(n) for n in range(3)]
IDS = [item["id"] for item in FILES]


def lines(*items: Any) -> str:
    return "".join(f"{json.dumps(item)}\n" for item in items)


def ids(text: str) -> list[str]:
    return [json.loads(line)["id"] for line in text.splitlines()]


# ---- Input

VT_CLI = [
    {"_id": item["id"], "_type": "file", "_context_attributes": {"rule_name": "r"}} | item["attributes"]
    for item in FILES
]


@pytest.mark.parametrize(
    "content",
    [
        lines(*FILES),
        "\n".join(json.dumps(item, indent=2) for item in FILES),
        json.dumps({"data": FILES, "meta": {"cursor": "x"}, "links": {"self": "y"}}),
        json.dumps({"data": FILES}, indent=4),
        lines({"data": FILES[0]}, {"data": FILES[1:]}),
        json.dumps(FILES),
        json.dumps(VT_CLI, indent=2),
        lines(*FILES).rstrip("\n"),
        "\ufeff" + lines(*FILES),
        "\r\n\r\n" + lines(*FILES).replace("\n", "\r\n"),
        lines(*FILES).encode("utf-16"),
        bz2.compress(lines(*FILES[:2]).encode()) + bz2.compress(lines(FILES[2]).encode()),
        zstandard.compress(lines(*FILES[:2]).encode()) + zstandard.compress(lines(FILES[2]).encode()),
    ],
)
def test_every_kind_of_input(run: Run, content: str | bytes) -> None:
    result = run("objects_to_table", "--format", "jsonl", stdin=content)
    assert (result.code, ids(result.stdout), result.last_line) == (0, IDS, "3 objects, complete")
    assert result.objects[1]["last_analysis_stats.malicious"] == 1


def test_files_and_stdin_are_read_in_order(run: Run) -> None:
    Path("a.jsonl").write_text(lines(FILES[0]))
    Path("b.jsonl.ZST").write_bytes(zstandard.compress(lines(FILES[2]).encode()))
    result = run("objects_to_table", "a.jsonl", "-", "b.jsonl.ZST", "--format", "jsonl", stdin=lines(FILES[1]))
    assert ids(result.stdout) == IDS


def test_rows_that_are_not_reports(run: Run) -> None:
    items = [
        {"type": "file", "id": "gone", "error": {"code": "NotFoundError", "message": "gone"}},
        {"type": "domain", "value": "a.example", "files": 3, "ids": ["x", "y"]},
        FILES[1] | {"lookup": "d41d8cd98f00b204e9800998ecf8427e"},
        {"_id": "v", "_type": "url", "_context_attributes": {"url": "http://a.example"}, "title": "Login"},
        {
            "type": "file",
            "id": "f",
            "context_attributes": {"download_url": "https://b.example"},
            "submitter": {"country": "NL"},
        },
    ]
    result = run("objects_to_table", "--format", "jsonl", stdin=lines(*items))
    rows = result.objects
    assert [row["type"] for row in rows] == ["file", "domain", "file", "url", "file"]
    assert rows[0]["error.code"] == "NotFoundError"
    assert rows[1] == {"type": "domain", "value": "a.example", "files": 3, "ids": ["x", "y"]}
    assert rows[2]["lookup"] == "d41d8cd98f00b204e9800998ecf8427e"
    assert (rows[3]["url"], rows[3]["title"]) == ("http://a.example", "Login")
    assert (rows[4]["context_attributes.download_url"], rows[4]["submitter.country"]) == ("https://b.example", "NL")


@pytest.mark.parametrize(
    ("content", "skipped"),
    [
        (lines(*FILES) + '{"id": "half a li', "1 line"),
        ("not JSON\n" + lines(*FILES), "1 line"),
        (lines(FILES[0]) + '{"id":\n' + lines(*FILES[1:]) + "5\n", "2 lines"),
        (json.dumps([*FILES, None, "x"]), "2 lines"),
    ],
)
def test_what_is_not_an_object_is_skipped_and_counted(run: Run, content: str, skipped: str) -> None:
    result = run("objects_to_table", "--format", "jsonl", stdin=content)
    assert (result.code, ids(result.stdout)) == (3, IDS)
    assert skipped in result.last_line


@pytest.mark.parametrize("content", ["", "\n", "[]", '{"data": null, "links": {}}', '{"data": []}'])
def test_nothing_is_a_valid_table(run: Run, content: str) -> None:
    result = run("objects_to_table", "-o", "o.csv", "-o", "o.xlsx", "-o", "o.parquet", "-o", "o.db", stdin=content)
    assert (result.code, result.stdout, result.last_line) == (0, "", "0 objects, complete")
    assert Path("o.csv").read_text() == "id,type\n"
    assert run("objects_to_table", stdin=content).stdout == ""


# ---- Output


def test_one_input_makes_every_output(run: Run, tmp_path: Path) -> None:
    outputs = ["o.csv", "o.jsonl", "o.md", "o.parquet", "o.xlsx", "o.sqlite", f"sqlite:///{tmp_path}/server.db"]
    result = run("objects_to_table", *(part for output in outputs for part in ("-o", output)), stdin=lines(*FILES))
    assert (result.code, result.stdout) == (0, "")
    assert list(pd.read_csv("o.csv", dtype=str)["id"]) == list(pd.read_excel("o.xlsx", dtype=str)["id"]) == IDS
    for database in ("o.sqlite", tmp_path / "server.db"):
        with closing(sqlite3.connect(database)) as connection:
            assert [row[0] for row in connection.execute("select id from file")] == IDS


def test_output_and_format_together(run: Run) -> None:
    result = run("objects_to_table", "-o", "o.csv", "--format", "csv", "--column", "size", stdin=lines(*FILES))
    assert result.stdout == Path("o.csv").read_text() == "size\n1000\n1001\n1002\n"


def test_a_table_shows_the_useful_columns(run: Run) -> None:
    items = [file_object(n, whatever="zzz", gti_assessment={"verdict": {"value": "VERDICT_MALICIOUS"}}) for n in (1, 2)]
    header, *rows = run("objects_to_table", stdin=lines(*items)).stdout.splitlines()
    assert header.split() == ["id", "malicious", "verdict", "meaningful_name", "size"]
    assert rows[0].split() == [items[0]["id"], "1", "VERDICT_MALICIOUS", "sample-1.exe", "1001"]


def test_hostile_strings_reach_no_terminal_and_no_spreadsheet(run: Run) -> None:
    hostile = "=cmd|'/c calc'!A1\x1b]0;owned\x07\u202e\x00\ud800;@x"
    item = file_object(1, meaningful_name=hostile, tags=[hostile, hostile], **{hostile: hostile})
    for style in ("table", "csv", "jsonl", "markdown"):
        result = run("objects_to_table", "--format", style, stdin=lines(item))
        assert result.code == 0
        assert "".join(result.stdout.splitlines()).isprintable()
    cell = run(
        "objects_to_table", "--format", "csv", "--column", "meaningful_name", stdin=lines(item)
    ).stdout.splitlines()[1]
    assert cell.strip('"').startswith("'=") and ";'@x" in cell
    raw = run("objects_to_table", "--format", "csv", "--column", "meaningful_name", "--raw", stdin=lines(item)).stdout
    assert hostile.replace("\ud800", "\ufffd") in raw


def test_a_column_that_matches_nothing_is_announced(run: Run) -> None:
    result = run("objects_to_table", "--column", "size", "--column", "sise", "--format", "csv", stdin=lines(*FILES))
    assert (result.code, result.stdout.splitlines()[0]) == (0, "size,sise")
    assert "sise" in result.stderr


def test_a_table_that_cannot_be_written_costs_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd()))
    with closing(sqlite3.connect("mine.db")) as database:
        database.execute("create table file (id text)")
    result = run("objects_to_table", "-o", "mine.db", stdin=lines(*FILES))
    assert result.code == 1
    saved = Path(result.last_line.rpartition(" ")[2])
    assert [json.loads(line) for line in saved.read_text().splitlines()] == FILES


# ---- Wrong usage


@pytest.mark.parametrize(
    ("args", "stdin", "hint"),
    [
        (["-o", "o.txt"], "", ".parquet"),
        (["-o", "nowhere/o.csv"], "", "folder"),
        (["--column", "a=$.["], "", "bad JSONPath"),
        (["--format", "json"], "", "jsonl"),
        ([], "text that is not JSON\nat all\n", "no JSON objects"),
        ([], b"BZh91AY&SY damaged", "-:"),
        ([], b"\x28\xb5\x2f\xfd damaged", "-:"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, args: list[str], stdin: str | bytes, hint: str) -> None:
    result = run("objects_to_table", *args, stdin=stdin)
    assert (result.code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert hint in result.stderr


def test_a_missing_file_is_one_line(run: Run) -> None:
    result = run("objects_to_table", "absent.jsonl")
    assert (result.code, len(result.stderr.splitlines())) == (1, 1)
    assert "absent.jsonl" in result.stderr


# ---- In a notebook, and as a process


def test_a_notebook_gets_a_dataframe() -> None:
    objects_to_dataframe = load("objects_to_table").objects_to_dataframe
    frame = objects_to_dataframe(FILES, column=["id", "bytes=size"])
    assert frame["bytes"].tolist() == [1000, 1001, 1002]
    assert frame.attrs == {"complete": True, "error": None, "cursor": None, "requests": 0}
    assert list(objects_to_dataframe(item for item in FILES)["id"]) == IDS
    with pytest.raises(TypeError, match="column must be a list"):
        objects_to_dataframe(FILES, column="size")


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_text(lines(*(file_object(n) for n in range(20_000))))
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "objects_to_table.py"), "o.jsonl", "--format", "csv"],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() in (b"", b"20000 objects, complete\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
def test_a_full_disk_behind_stdout_saves_the_objects(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, str(SCRIPTS / "objects_to_table.py"), "--column", "id"],
            input=lines(*FILES).encode(),
            env=environment(tmp_path, TMPDIR=str(tmp_path)),
            stdout=full,
            stderr=subprocess.PIPE,
        )
    (saved,) = tmp_path.glob("vt-*.jsonl")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert os.fsencode(saved) in result.stderr
    assert ids(saved.read_text()) == IDS
