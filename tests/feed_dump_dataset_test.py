"""The directory as a data set: the formats, and the readers that people use, for real."""

from __future__ import annotations

import bz2
import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import feed_dump
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from conftest import Run, Server, error
from feed_dump_faults_test import read_zst
from feed_dump_test import START, body, files, layout, lines, minutes, package, publish

NAMES = minutes(58, 4)
RANGE = ("--from", START, "--to", "209611220103")


@pytest.fixture
def dumped(server: Server, run: Run, tmp_path: Path) -> Any:
    """`dumped("zst", "--where", …)`: a directory of 4 minutes with 5 reports each, a missing one among them."""
    publish(server, NAMES)
    server.answer("/feeds/files/209611220102", error(404, "NotFoundError"))

    def dump(form: str, *args: str) -> Path:
        out = tmp_path / form
        result = run("feed_dump", "files", *RANGE, "--out", out, "--format", form, *args, server=server)
        assert result.returncode == 0, result.stderr
        assert list(out.rglob("*.missing"))
        return out

    return dump


@pytest.mark.parametrize("form", ["bz2", "zst"])
def test_duckdb_pandas_and_dask_read_json_lines_as_one_data_set(dumped: Any, form: str) -> None:
    out = dumped(form)
    expected = [line for name in NAMES for line in lines(name)]
    if form == "zst":  # DuckDB reads gzip and zstandard, not bzip2
        options = "format='newline_delimited', hive_partitioning=true"
        query = f"SELECT id, date, hour FROM read_json('{out}/*/*/*.jsonl.zst', {options}) ORDER BY id"
        rows = duckdb.sql(query).fetchall()
        assert [row[0] for row in rows] == [line["id"] for line in expected]
        assert {str(row[1]) for row in rows} == {"2096-11-22"} and {int(row[2]) for row in rows} == {0, 1}
    # dtype=False: pandas takes a hash of digits for a number.
    paths = sorted(out.glob(f"*/*/*.jsonl.{form}"))
    frame = pd.concat(pd.read_json(path, lines=True, dtype=False) for path in paths)
    assert list(frame["id"]) == [line["id"] for line in expected]
    import dask.bag

    compression = {"bz2": "bz2", "zst": "zstd"}[form]
    bag = dask.bag.read_text(f"{out}/*/*/*.jsonl.{form}", compression=compression).map(json.loads)
    assert bag.compute(scheduler="synchronous") == expected


COLUMNS = ("--column", "sha256=$.id", "--column", "size", "--column", "tags=$.attributes.tags[*]",
           "--column", "seen=$.attributes.last_analysis_date", "--column", "absent=$.attributes.nope")  # fmt: skip


def test_parquet_is_typed_and_every_minute_agrees(dumped: Any, server: Server) -> None:
    server.answer("/feeds/files/209611220100", body(package([{"id": "no attributes at all"}])))
    out = dumped("parquet", *COLUMNS)
    schemas = {str(pq.read_schema(path).remove_metadata()) for path in out.rglob("*.parquet")}
    assert len(schemas) == 1
    table = pa.dataset.dataset(out, format="parquet", partitioning="hive").to_table()
    assert {field.name: str(field.type) for field in table.schema} == {
        "sha256": "string", "size": "int64", "tags": "list<element: string>", "seen": "timestamp[ms, tz=UTC]",
        "absent": "string", "date": "string", "hour": "int32",
    }  # fmt: skip
    frame = pd.read_parquet(out).sort_values("sha256").reset_index(drop=True)
    assert len(frame) == 16
    assert frame["seen"].min() == datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC)
    assert list(frame["tags"][2]) == ["peexe", "signed"] and frame["tags"][0] is None
    query = f"SELECT count(*), sum(size), min(date)::VARCHAR FROM read_parquet('{out}/*/*/*.parquet')"
    assert duckdb.sql(query).fetchall() == [(16, 30, "2096-11-22")]


def test_types_are_those_of_all_lines_not_only_of_those_kept(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, NAMES)
    out = tmp_path / "d"
    args = ("--format", "parquet", "--column", "size", "--where", f"$[?(@ == '{NAMES[2]}{4:052d}')]", "--out", out)
    run("feed_dump", "files", *RANGE, *args, server=server)
    assert {str(pq.read_schema(path).field("size").type) for path in out.rglob("*.parquet")} == {"int64"}
    assert list(pd.read_parquet(out)["size"]) == [4]


def test_minutes_in_hand_at_once_agree_on_the_types(tmp_path: Path) -> None:
    columns = tuple(feed_dump.columns(["size", "n:int=$.n"]))
    dump = feed_dump.Dump("files", str(tmp_path / "d"), "parquet", columns=columns)
    schemas = []
    for minute, size in enumerate([3, "three", [3]]):  # an hour's, or those of runs side by side: none knows another
        content = tmp_path / "package"
        content.write_bytes(package([{"attributes": {"size": size}, "n": 1}]))
        dump.path(minute).parent.mkdir(parents=True, exist_ok=True)
        outcome = feed_dump.publish(dump, minute, content)
        schemas.append(pq.read_schema(dump.path(minute)).remove_metadata())
    assert schemas[0] == schemas[1] == schemas[2] == pa.schema({"size": pa.int64(), "n": pa.int64()})
    assert outcome.misfits == {"size": 1}


HOSTILE = {
    "a path that raises": b'{"id": 7, "attributes": 3}',
    "a number of 5000 digits": b'{"id": 7, "n": ' + b"9" * 5000 + b"}",
    "an object in an object in an object": b'{"id":' * 995 + b"7" + b"}" * 995,
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", ["zst", "parquet"])
def test_no_line_costs_more_than_itself(server: Server, run: Run, tmp_path: Path, form: str, line: bytes) -> None:
    publish(server, NAMES)
    content = b"\n".join([*(json.dumps(one).encode() for one in lines(START)), line, b""])
    server.answer(f"/feeds/files/{START}", body(bz2.compress(content)))
    paths = ("--column", "a=$.id.`sub(/9/, x)`", "--column", "b=$..size") if form == "parquet" else ()
    where = ("--where", "$.attributes.`sorted`") if form == "zst" else ("--where", "$..id")
    args = ("--format", form, *paths, *where, "--out", tmp_path / "d")
    result = run("feed_dump", "files", *RANGE, *args, server=server)
    assert f"failed: {START}" not in result.stderr and "4 minutes (2" in result.stderr, result.stderr


def test_a_value_that_does_not_fit_is_null_and_reported(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, NAMES)
    odd = [{"id": "a", "attributes": {"size": "big"}}, {"id": 7, "attributes": {"size": 2**70}}]
    server.answer("/feeds/files/209611220100", body(package(odd)))
    out = tmp_path / "d"
    args = ("--column", "id=$.id", "--column", "size", "--format", "parquet", "--out", out)
    result = run("feed_dump", "files", *RANGE, *args, server=server)
    assert result.returncode == 3 and "2 values did not fit, null in size" in result.stderr.splitlines()[-1]
    assert "209611220100: null for what did not fit the column's type: size 2" in result.stderr
    verified = run("feed_dump", "verify", out)
    assert verified.returncode == 3 and "2 values did not fit, null in size" in verified.stderr, "no later run knows"
    assert verified.stdout == f"null\t{out / layout('209611220100', '.parquet')}\tsize 2 did not fit\n"
    odd_minute = pq.read_table(out / layout("209611220100", ".parquet"), partitioning=None)
    assert odd_minute.to_pylist() == [{"id": "a", "size": None}, {"id": "7", "size": None}]


def test_hostile_values_reach_parquet_as_text(server: Server, run: Run, tmp_path: Path) -> None:
    hostile = b'{"id": "\\ud800\\u0000\\u202e", "attributes": {"a b": {"x": [1, "=2"]}, "l": [1, "a", null, {}]}}\n'
    server.answer("/feeds/files/" + START, body(bz2.compress(hostile)))
    out = tmp_path / "d"
    args = ("--column", "id=$.id", "--column", "a b", "--column", "l", "--column", "n:int[]=$.attributes.l")
    result = run(
        "feed_dump", "files", "--from", START, "--to", "209611220059", "--out", out, "--format", "parquet", *args,
        server=server,
    )  # fmt: skip
    assert result.returncode == 3 and "2 values did not fit" in result.stderr
    assert pq.read_table(out / layout(START, ".parquet"), partitioning=None).to_pylist() == [
        {"id": "\ufffd\0\u202e", "a b": '{"x": [1, "=2"]}', "l": ["1", "a", None, "{}"], "n": [1, None, None, None]}
    ]


@pytest.mark.parametrize("form", ["bz2", "zst", "parquet"])
def test_where_keeps_the_lines_that_match_as_they_came(server: Server, run: Run, tmp_path: Path, form: str) -> None:
    packages = publish(server, NAMES)
    args = ("--where", "$.attributes[?(@.tags[*] == 'signed')]", "--where", "$.attributes.tags[?(@ == 'signed')]")
    result = run("feed_dump", "files", *RANGE, "--out", tmp_path / "d", "--format", form, *args, server=server)
    assert "20 lines, 4 kept" in result.stderr
    for name, content in packages.items():
        kept = b"".join(line for line in bz2.decompress(content).splitlines(True) if b"signed" in line)
        path = tmp_path / "d" / layout(name, ".parquet" if form == "parquet" else f".jsonl.{form}")
        if form == "parquet":
            assert [json.loads(text) for text in pq.read_table(path, partitioning=None)["json"].to_pylist()] == [
                json.loads(kept)
            ]
        else:
            assert (bz2.decompress(path.read_bytes()) if form == "bz2" else read_zst(path)) == kept


def test_nothing_that_matches_is_a_minute_too(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, NAMES)
    for form in ("bz2", "zst", "parquet"):
        args = ("--out", tmp_path / form, "--format", form, "--where", "$.nope")
        run("feed_dump", "files", *RANGE, *args, server=server)
        assert len(files(tmp_path / form)) == len(NAMES)
        assert run("feed_dump", "verify", tmp_path / form).returncode == 0
    assert len(pd.read_parquet(tmp_path / "parquet")) == 0


def test_a_where_that_keeps_nothing_and_what_is_no_directory_are_said(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, NAMES)
    range_of_one = ("--from", START, "--to", "209611220059")
    result = run("feed_dump", "files", *range_of_one, "--where", "$[?(@.attributes.size > 0)]", server=server)
    assert result.returncode == 0 and "--where kept no line" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("1 minute (")
    (tmp_path / "file").write_text("")
    result = run("feed_dump", "files", *RANGE, "--out", "file", server=server)
    assert result.returncode == 2 and result.stderr == "error: --out file is a file, not a directory\n"
    assert "error: filez: not a feed" in run("feed_dump", "filez", *RANGE).stderr


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        ({}, {"feed": "urls"}, "feed files"),
        ({}, {"format": "zst"}, "format bz2"),
        ({}, {"where": "$.id"}, "bz2 without --where"),
        ({"format": "zst", "where": "$[?(@.size > 1)]"}, {"where": ""}, "zst --where '$[?(@.size > 1)]'"),
        (
            {"format": "parquet", "columns": ["size", "n:int=$.n"]}, {"columns": ["size"]},
            "parquet --column 'size=$.attributes.size' --column 'n:int=$.n'",
        ),
    ],
)  # fmt: skip
def test_one_directory_is_one_dump(tmp_path: Path, there: dict[str, Any], asked: dict[str, Any], said: str) -> None:
    def dump(feed: str = "files", columns: Sequence[str] = (), **settings: str) -> feed_dump.Dump:
        return feed_dump.Dump(feed, str(tmp_path), columns=feed_dump.columns(columns), **settings)

    for _ in range(2):
        with feed_dump.claimed(dump(**there)):
            pass
    refused = pytest.raises(feed_dump.UsageError, match=re.escape(f"holds another dump ({said}): name another --out"))
    with refused, feed_dump.claimed(dump(**there | asked)):
        pass


def test_a_directory_of_an_earlier_version_is_known(tmp_path: Path) -> None:
    (tmp_path / ".feed_dump.feed.json").write_text('"files"')
    (tmp_path / ".feed_dump.bz2.json").write_text("[]")
    with feed_dump.claimed(feed_dump.Dump("files", str(tmp_path))):
        pass


@pytest.mark.parametrize(("what", "content"), [("feed", ""), ("format", "{"), ("parquet", "5"), ("types", "[]")])
def test_a_damaged_record_is_named(server: Server, run: Run, tmp_path: Path, what: str, content: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / f"d/.feed_dump.{what}.json").write_text(content)
    result = run("feed_dump", "files", *RANGE, "--out", tmp_path / "d", "--format", "parquet", server=server)
    assert result.returncode == 2 and not server.seen
    assert result.stderr == f"error: {tmp_path / 'd'}/.feed_dump.{what}.json is damaged: delete it and run again\n"


def test_a_column_without_a_value_in_the_first_minute_is_told(server: Server, run: Run, tmp_path: Path) -> None:
    publish(server, NAMES)
    nulls = [{"attributes": {"size": 1, "late": None, "lists": []}}]
    server.answer(f"/feeds/files/{START}", body(package(nulls)))
    args = ("--format", "parquet", *(part for c in ("size", "late", "lists", "n:int=$.n") for part in ("--column", c)))
    result = run("feed_dump", "files", *RANGE, *args, "--out", tmp_path / "d", server=server)
    assert result.stderr.count("\n") == 2 and result.stderr.startswith("late, lists: string, as the first minute has")
    schema = pq.read_schema(tmp_path / "d" / layout(NAMES[1], ".parquet"))
    assert [str(kind) for kind in schema.types] == ["int64", "string", "list<element: string>", "int64"]
    again = run("feed_dump", "files", *RANGE, *args, "--out", tmp_path / "d", server=server)
    assert again.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "specs",
    [
        ["a="], ["a:int="], ["=x"], [":int=$.x"], ["a:=$.x"], ["a:b:int=$.x"], ["  "], [" =x"],
        ["size", "size=$.id"], ["size", "Size=$.id"], ["Date=$.a"], ["HOUR"],
    ],
)  # fmt: skip
def test_columns_that_cannot_be_meant_are_refused(specs: list[str]) -> None:
    with pytest.raises(feed_dump.UsageError, match=re.escape(f"--column {specs[-1]}: ")):
        feed_dump.columns(specs)


def test_columns_have_a_name_a_type_and_a_path() -> None:
    assert feed_dump.columns(
        ["a:int[]=$.x", "b=x", "s[?(@.n == 'x')].md5", "c=$.a[?(@.b=='c:d')]", "signers details"]
    ) == (
        ("a", "$.x", "int[]"),
        ("b", "$.attributes.x", ""),
        ("s[?(@.n == 'x')].md5", "$.attributes.s[?(@.n == 'x')].md5", ""),
        ("c", "$.a[?(@.b=='c:d')]", ""),
        ("signers details", "$.attributes.'signers details'", ""),
    )


@pytest.mark.parametrize(
    "args",
    [
        ("--column", "a"), ("--format", "csv"), ("--where", "$["), ("--format", "parquet", "--column", "a=$["),
        ("--format", "parquet", "--column", "a:decimal=$.a"), ("--format", "parquet", "--column", "date=$.a"),
        ("--jobs", "-1"), ("--from", "yesterday"), ("--to", "209611220000"), ("--from", ""),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_before_anything_is_asked(
    server: Server, run: Run, tmp_path: Path, args: tuple[str, ...]
) -> None:
    result = run("feed_dump", "files", *RANGE, "--out", tmp_path / "d", *args, server=server)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert not server.seen and not (tmp_path / "d").exists()
