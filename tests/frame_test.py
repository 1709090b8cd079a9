"""frame: objects as a table, the table as text, files and databases. Hostile, missing and mixed values included."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from conftest import file_object
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frame as module
from frame import SUFFIXES, check_outputs, fit_widths, format_frame, parse_columns, to_frame, write_output, write_table
from output import UsageError

HOSTILE = "=cmd|'/c calc'!A1\x1b[31m\u202e\x00\ud800<script>|`x`\r\n"
FILE = file_object(
    7,
    type="not the object's",
    names=[],
    tags=["pe", "=x"],
    meaningful_name=HOSTILE,
    first_submission_date=1,
    signature_info={"signing date": "10:00 AM"},
    exiftool={"=HYPERLINK(1)": "x"},
    crowdsourced_yara_results=[{"rule_name": "r"}],
    reputation=None,
)
GONE: dict[str, Any] = {"type": "file", "id": "b" * 64, "error": {"code": "NotFoundError", "message": "gone"}}
URL: dict[str, Any] = {
    "type": "url",
    "id": "c" * 64,
    "context_attributes": {"url": "http://a.example/", "similarity_score": 0.5},
}
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠\t\r]")


def table(*items: dict[str, Any], column: list[str] | None = None) -> pd.DataFrame:
    return to_frame(list(items), parse_columns(column or []))


def attributes(*values: Any, name: str = "v") -> list[dict[str, Any]]:
    return [{"id": str(number), "type": "x", "attributes": {name: value}} for number, value in enumerate(values)]


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; temporary files go into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# ---- Columns


@pytest.mark.parametrize(
    ("spec", "name", "value"),
    [
        ("size", "size", 5),
        ("bytes=size", "bytes", 5),
        ("signature_info.signing date", "signature_info.signing date", "10:00"),
        ("n=last_analysis_stats.confirmed-timeout", "n", 3),
        ("sections[0].md5", "sections[0].md5", "d41d"),
        ("md5=$.attributes.sections[0].md5", "md5", "d41d"),
        ("$.attributes.sections[?(@.md5=='0cc1')].name", "$.attributes.sections[?(@.md5=='0cc1')].name", "b"),
        ("rule_name", "rule_name", "r"),
        ("context_attributes.origin", "context_attributes.origin", "hunting"),
        ("id", "id", "x"),
        ("lookup", "lookup", "evil.example"),
        ("error.code", "error.code", "E"),
    ],
)
def test_a_column_is_an_attribute_path_or_a_jsonpath(spec: str, name: str, value: Any) -> None:
    item = {
        "id": "x",
        "lookup": "evil.example",
        "error": {"code": "E"},
        "attributes": {
            "size": 5,
            "signature_info": {"signing date": "10:00"},
            "last_analysis_stats": {"confirmed-timeout": 3},
            "sections": [{"name": "a", "md5": "d41d"}, {"name": "b", "md5": "0cc1"}],
        },
        "context_attributes": {"rule_name": "r", "origin": "hunting"},
    }
    frame = table(item, column=[spec])
    assert (list(frame), frame[name].tolist()) == ([name], [value])


@pytest.mark.parametrize("specs", [["x=$.["], ["a=size", "a=tags"], ["size", "size"], ["a b["]])
def test_a_wrong_column_is_a_usage_error(specs: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_columns(specs)


def test_several_matches_in_any_object_make_a_column_of_lists() -> None:
    items = [{"attributes": {"tags": tags}} for tags in (["a", "b"], ["c"], [])]
    assert table(*items, column=["tags[*]"])["tags[*]"].tolist()[:2] == [["a", "b"], ["c"]]
    assert table(*items[1:], column=["tags[*]"])["tags[*]"].tolist()[0] == "c"


def test_a_column_that_matches_nothing_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(table(FILE, column=["size", "sise"])) == ["size", "sise"]
    assert "sise" in capsys.readouterr().err
    table(column=["size"])
    assert capsys.readouterr().err == ""


def test_useful_columns_come_first_whatever_the_rows() -> None:
    names = list(table(FILE, URL, GONE))
    assert names == list(table(GONE, URL, FILE))
    assert names[:6] == ["id", "url", "type", "error.code", "last_analysis_stats.malicious", "meaningful_name"]
    rest = names[names.index("tags") + 1 :]
    assert rest == sorted(rest)


def test_dicts_with_arbitrary_keys_are_one_cell() -> None:
    item = file_object(
        1, html_meta={"a b": ["x"]}, last_analysis_results={"Engine": {"result": None}}, pe_info={"a": 1}
    )
    frame = table(item)
    assert {"html_meta", "last_analysis_results", "pe_info.a"} <= set(frame)
    assert rows_of(format_frame(frame, "csv"))[1][list(frame).index("html_meta")] == '{"a b": ["x"]}'


def test_an_attribute_that_is_called_like_a_part_of_the_object_is_kept() -> None:
    frame = table({"id": "x", "type": "file", "attributes": {"type": "PE", "error": "none", "a": 1}})
    assert (frame["type"][0], frame["attributes.type"][0]) == ("file", "PE")
    item = {"id": "n", "attributes": {"tags": ["a"]}, "context_attributes": {"tags": ["hunting"], "rule_name": "r"}}
    frame = table(item)
    assert (frame["tags"][0], frame["context_attributes.tags"][0], frame["rule_name"][0]) == (["a"], ["hunting"], "r")


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"type": "domain", "value": "a.example", "files": 3, "ids": ["x"]}, {"value": "a.example", "files": 3}),
        (GONE, {"error.code": "NotFoundError", "error.message": "gone"}),
        ({"id": 7, "type": "file", "attributes": None, "context_attributes": None}, {"id": 7}),
        ({"type": "url", "id": "x", "context_attributes": {"url": "http://a.example"}}, {"url": "http://a.example"}),
        ({"links": 3, "x": {"y": 1}}, {"links": 3, "x.y": 1}),
    ],
)
def test_a_dict_without_attributes_is_a_row(item: dict[str, Any], expected: dict[str, Any]) -> None:
    row = table(item).iloc[0].to_dict()
    assert {name: row[name] for name in expected} == expected


# ---- Types


def test_dates_are_utc_timestamps_by_their_name() -> None:
    frame = table(FILE, GONE)
    assert frame["first_submission_date"][0] == pd.Timestamp("1970-01-01T00:00:01Z")
    assert pd.isna(frame["first_submission_date"][1])
    assert frame["signature_info.signing date"][0] == "10:00 AM"
    assert table(FILE, column=["seen=first_submission_date"])["seen"][0] == pd.Timestamp(1, unit="s", tz="UTC")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4250000000, 1], [pd.Timestamp("2104-09-04T19:33:20Z"), pd.Timestamp("1970-01-01T00:00:01Z")]),
        ([1, "yesterday", 10**30], ["1970-01-01T00:00:01Z", "yesterday", str(10**30)]),
        ([10**30, None], [str(10**30), None]),
        ([-1], [-1]),
        ([True], [True]),
    ],
)
def test_absurd_dates_lose_nothing(values: list[Any], expected: list[Any]) -> None:
    column = table(*attributes(*values, name="creation_date"))["creation_date"]
    assert column.astype(object).where(column.notna(), None).tolist() == expected


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, None], "Int64", [1, None]),
        ([1, 2.5], "Float64", [1.0, 2.5]),
        ([True, None], "boolean", [True, None]),
        (["a", None], "str", ["a", None]),
        ([["a"], []], "object", [["a"], []]),
        ([None, None], "object", [None, None]),
        ([1, "a", ["b"], None], "str", ["1", "a", '["b"]', None]),
        ([True, 1], "str", ["true", "1"]),
        ([2**70, 1], "str", [str(2**70), "1"]),
        ([float("inf"), 1.5], "str", ["Infinity", "1.5"]),
        (["\ud800x"], "str", ["\ufffdx"]),
        ([["\ud800"]], "object", [["\ufffd"]]),
    ],
)
def test_a_column_has_one_type(values: list[Any], dtype: str, expected: list[Any]) -> None:
    column = table(*attributes(*values))["v"]
    assert column.dtype == dtype
    assert column.astype(object).where(column.notna(), None).tolist() == expected


def test_no_objects_are_an_empty_table() -> None:
    assert format_frame(table(), "csv") == "id,type\n"
    assert format_frame(table(column=["size", "x=$.y"]), "csv") == "size,x\n"
    assert format_frame(table(), "jsonl") == ""


# ---- Text


@pytest.mark.parametrize("start", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "＝1", "a;=1", 'a;" ＋1', "a\t;-1"])
def test_text_that_starts_a_formula_is_escaped_in_csv(start: str) -> None:
    cell = rows_of(format_frame(table(*attributes(start, 1)), "csv"))[1][-1]
    assert not any(FORMULA.match(part.strip('" ')) for part in cell.split(";"))
    assert rows_of(format_frame(table(*attributes(start, 1)), "csv", raw=True))[1][-1] == start


def test_numbers_and_dates_are_not_escaped() -> None:
    frame = table(
        file_object(1, reputation=-3, first_submission_date=0, ratio=-0.5),
        column=["reputation", "ratio", "first_submission_date"],
    )
    assert rows_of(format_frame(frame, "csv"))[1] == ["-3", "-0.5", "1970-01-01T00:00:00Z"]


def test_json_lines_have_the_values_and_omit_missing_ones() -> None:
    first, second = map(json.loads, format_frame(table(FILE, GONE), "jsonl").splitlines())
    assert first["meaningful_name"] == HOSTILE.replace("\ud800", "\ufffd")
    assert (first["first_submission_date"], first["tags"]) == ("1970-01-01T00:00:01Z", ["pe", "=x"])
    assert first["exiftool"] == {"=HYPERLINK(1)": "x"}
    assert "error.code" not in first
    assert "meaningful_name" not in second


def test_markdown_has_no_markup_and_no_links() -> None:
    text = format_frame(table({"id": "http://a.example/ www.b.example <img>|`x`", "type": "*x*"}), "markdown")
    assert text.splitlines()[2] == r"| http\://a.example/ www\.b.example \<img\>\|\`x\` | \*x\* |"


def test_a_long_cell_says_how_long_it_was() -> None:
    frame = table({"id": "x" * 100_000, "type": "y"})
    for style in ("csv", "markdown"):
        text = format_frame(frame, style)
        assert "cut: 100000 characters" in text
        assert len(text) < 33_000


def show(capsys: pytest.CaptureFixture[str], *items: dict[str, Any], column: list[str] | None = None) -> list[str]:
    assert write_table(list(items), parse_columns(column or []), []) is None
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_table_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = show(capsys, FILE, GONE, file_object(3, meaningful_name="名" * 90, type_description="x" * 90))
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert max(len(line) + line.count("名") for line in lines) <= width
    assert ("0" * 63 + "7" in lines[1]) == (width >= 100)


def test_a_pipe_gets_every_column_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, str] = {name: name * 30 for name in ("meaningful_name", "type_description", "registrar", "title")}
    line = show(capsys, file_object(1, **names))[1]
    assert all(value in line for value in names.values())


def test_a_table_shows_the_url_in_place_of_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    lines = show(capsys, URL | {"attributes": {"title": "Login"}}, GONE)
    assert lines[0].split()[0] == "url"
    assert "http://a.example/" in lines[1]
    assert GONE["id"] in lines[2]


@pytest.mark.parametrize(
    ("widths", "room", "expected"),
    [
        ([64, 9, 16, 16], 120, [64, 9, 16, 16]),
        ([64, 9, 40, 16], 100, [64, 9, 23]),
        ([64, 9, 40, 16], 80, [32, 9, 17, 16]),
        ([90, 30, 16], 100, [64, 16, 16]),
        ([64, 9], 10, [10]),
        ([90, 9, 16], 80, [51, 9, 16]),
        ([5], 80, [5]),
        ([], 80, []),
    ],
)
def test_column_widths(widths: list[int], room: int, expected: list[int]) -> None:
    assert fit_widths(widths, room) == expected


# ---- Files


def read_ids(path: Path) -> list[str]:
    """Return the ids in a table that was written to a file."""
    match path.suffix.lower():
        case ".csv":
            return [row[0] for row in rows_of(path.read_text())[1:]]
        case ".jsonl":
            return [json.loads(line)["id"] for line in path.read_text().splitlines()]
        case ".md":
            return [line.split("|")[1].strip() for line in path.read_text().splitlines()[2:]]
        case ".parquet":
            return list(pd.read_parquet(path)["id"])
        case ".xlsx":
            return [row[0].value for row in list(openpyxl.load_workbook(path).active.rows)[1:]]
    with closing(sqlite3.connect(path)) as database:
        return sorted(row[0] for name in ("file", "url") for row in database.execute(f"select id from {name}"))


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".CSV", ".Xlsx", ".DB"])
def test_every_format_is_written_and_read_back(folder: Path, suffix: str) -> None:
    assert write_table([FILE, GONE, URL], {}, [f"out{suffix}"]) is None
    assert read_ids(folder / f"out{suffix}") == [FILE["id"], GONE["id"], URL["id"]]
    assert [path.name for path in folder.iterdir()] == [f"out{suffix}"]


def test_parquet_has_types(folder: Path) -> None:
    write_table([FILE, GONE], {}, ["o.parquet"])
    frame = pd.read_parquet("o.parquet")
    assert list(frame["tags"][0]) == ["pe", "=x"]
    assert frame["crowdsourced_yara_results"][0] == '[{"rule_name": "r"}]'
    assert str(frame["first_submission_date"].dtype).startswith("datetime64")
    assert frame["size"].dtype == "Int64"


def test_excel_gets_no_formula_no_link_and_dates(folder: Path) -> None:
    write_table([FILE, URL], {}, ["o.xlsx"])
    sheet = openpyxl.load_workbook("o.xlsx").active
    rows = list(sheet.rows)
    names = [cell.value for cell in rows[0]]
    assert {cell.data_type for row in rows for cell in row} <= {"s", "n", "d", "b"}
    assert not any(cell.hyperlink for row in rows for cell in row)
    assert rows[1][names.index("first_submission_date")].is_date
    assert rows[1][names.index("meaningful_name")].value.startswith("'=cmd")
    assert (sheet.freeze_panes, bool(sheet.auto_filter.ref)) == ("B2", True)


def test_excel_refuses_more_than_it_holds(folder: Path) -> None:
    with pytest.raises(OSError, match="16384"):
        write_output(pd.DataFrame([range(16_385)]), [], "o.xlsx")
    assert not Path("o.xlsx").exists()


# ---- Databases


def query(path: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(statement).fetchall()


def store(*items: dict[str, Any], column: list[str] | None = None, output: str = "o.db") -> str | None:
    error = write_table(list(items), parse_columns(column or []), [output])
    return str(error) if error else None


@pytest.mark.usefixtures("folder")
def test_a_database_is_updated_by_id() -> None:
    for size in (1, 2):
        assert (
            store(file_object(1, size=size), file_object(2, new=[1, {"a": "b"}], first_submission_date=0), URL) is None
        )
    assert query("o.db", "select id, size from file") == [(file_object(1)["id"], 2), (file_object(2)["id"], 1002)]
    assert query("o.db", "select new, first_submission_date from file where new is not null") == [
        ('[1, {"a": "b"}]', "1970-01-01T00:00:00Z")
    ]
    assert query("o.db", "select url from url") == [("http://a.example/",)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("key", ["rule_name", "notification_id"])
def test_a_database_keeps_each_rule_and_each_notification(key: str) -> None:
    items = [file_object(1) | {"context_attributes": {key: value}} for value in ("a", "b")]
    for _ in range(2):
        assert store(*items, column=["size"]) is None
    assert query("o.db", f"select id, {key}, size from file") == [
        (items[0]["id"], "a", 1001),
        (items[0]["id"], "b", 1001),
    ]
    assert store(file_object(1)) is None  # a table with more keys takes an object without them
    assert len(query("o.db", "select * from file")) == 3


@pytest.mark.usefixtures("folder")
def test_rows_that_would_overwrite_each_other_are_refused() -> None:
    assert store(file_object(1)) is None
    message = store(file_object(1) | {"context_attributes": {"rule_name": "a"}})
    assert message is not None and "primary key" in message
    assert query("o.db", "select count(*) from file") == [(1,)]


@pytest.mark.usefixtures("folder")
def test_a_table_without_a_primary_key_is_refused() -> None:
    with closing(sqlite3.connect("o.db")) as database:
        database.execute("create table file (id text, size integer)")
    message = store(URL, FILE)
    assert message is not None and "primary key" in message
    assert query("o.db", "select name from sqlite_master where type = 'table'") == [("file",)]  # nothing half done


@pytest.mark.usefixtures("folder")
def test_rows_without_an_id_are_refused_but_indicators_are_not() -> None:
    assert store({"type": "domain", "value": "a.example", "files": 3}) is None
    assert query("o.db", "select id, files from domain") == [("a.example", 3)]
    message = store({"type": "domain", "x": 1})
    assert message is not None and ".csv" in message


@pytest.mark.usefixtures("folder")
def test_more_than_900_columns_are_refused_with_a_hint() -> None:
    message = store(file_object(1, **{f"a{n}": n for n in range(900)}))
    assert message is not None and "--column" in message


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("output", ["o.db", "sqlite:///o.db"])
@pytest.mark.parametrize(
    "values",
    [
        {"Server": "x", "server": "y", "SERVER": "z"},
        {"a\0b": "x\0y", "a\\x00b": "z"},
        {'"; DROP TABLE x; --': "x", "a:b": "y", "a%(b)s": "z", "?": "q", "[x]": "r", "'": "s", "a b": "t"},
        {"size": 10**30, "more": -(10**20)},
        {"": "x"},
    ],
)
def test_a_database_takes_any_name_and_number(output: str, values: dict[str, Any]) -> None:
    assert store(file_object(1, **values), output=output) is None
    (row,) = query("o.db", "select * from file")
    assert {str(value).replace("\0", "\ufffd") for value in values.values()} <= {str(cell) for cell in row}


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_no_database_stays_as_it_is() -> None:
    Path("o.db").write_text("whatever its name says, this is text")
    message = store(FILE)
    assert message is not None and "o.db: file is not a database" in message
    assert Path("o.db").read_text() == "whatever its name says, this is text"


@pytest.mark.usefixtures("folder")
def test_a_server_is_appended_to_and_columns_it_lacks_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    url = "sqlite:///server.db"
    for item in (file_object(1, first_submission_date=0, tags=["a"]), file_object(2, added=5), URL):
        assert store(item, output=url) is None
    assert query("server.db", "select id, size, tags from file") == [
        (file_object(1)["id"], 1001, '["a"]'),
        (file_object(2)["id"], 1002, None),
    ]
    assert query("server.db", "select count(*) from url") == [(1,)]
    assert "added" in capsys.readouterr().err


# ---- What cannot be written


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("a.txt", "expected a database URL"),
        ("a", "expected a database URL"),
        ("nowhere/a.csv", "folder"),
        ("folder.csv", "folder"),
        ("nosuch://u:secret@h/d", "nosuch"),
        ("postgresql://u:secret@h/d", "--with"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_impossible_output_is_refused_beforehand(output: str, why: str) -> None:
    Path("folder.csv").mkdir()
    with pytest.raises(UsageError, match=why) as raised:
        check_outputs([output])
    assert "secret" not in str(raised.value)


@pytest.mark.usefixtures("folder")
def test_the_part_before_a_cursor_is_not_overwritten() -> None:
    Path("o.csv").write_text("the first part")
    check_outputs(["o.csv"])
    with pytest.raises(UsageError, match="another file"):
        check_outputs(["o.csv"], resuming=True)


@pytest.mark.parametrize("failure", [OSError("no space"), KeyboardInterrupt(), RuntimeError("first line\nsecond line")])
def test_objects_that_cannot_be_written_are_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr(module, "make_parquet", fail)
    error = write_table([FILE, GONE], {}, ["o.parquet"])
    assert isinstance(error, KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else OSError)
    (saved,) = folder.glob("vt-*.jsonl")
    assert str(error).endswith(str(saved)) and "\n" not in str(error)
    assert [json.loads(line) for line in saved.read_text().splitlines()] == [FILE, GONE]
    assert list(folder.iterdir()) == [saved]


# ---- Any JSON

TEXT = st.text(st.characters(exclude_categories=[]), max_size=8) | st.sampled_from(
    ["=1+1", ";=1", "\t@x", "＝1", "\x1b[2J", "\u202e", "\x00", "\ud800", "|`<b>", "a.b", "id", "type", "value", "ID"]
)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**70)
    | st.floats(allow_nan=False, allow_infinity=True)
    | TEXT
)
KEY = TEXT | st.sampled_from(["creation_date", "date", "tags", "exiftool", "url", "rule_name", "error"])
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4), max_leaves=12
)
OBJECT = st.fixed_dictionaries(
    {
        "id": st.text("0123456789abcdef", min_size=1, max_size=8) | st.integers(1),
        "type": st.sampled_from(["file", "url"]),
    },
    optional={
        "attributes": st.none() | st.dictionaries(KEY, JSON, max_size=6),
        "context_attributes": st.none() | st.dictionaries(KEY, JSON, max_size=3),
        "error": st.fixed_dictionaries({"code": TEXT, "message": TEXT}),
        "lookup": TEXT,
    },
)


def leaves(value: Any) -> Iterator[str]:
    """Yield the text that a value must leave in a CSV cell."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    elif isinstance(value, str) and value.isalnum() and value.isascii():
        yield value


@settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(OBJECT, max_size=4))
def test_any_json_becomes_a_table_in_every_format(objects: list[dict[str, Any]]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        frame = to_frame(objects, {})
        for suffix in SUFFIXES:
            write_output(frame, objects, str(folder / f"o{suffix}"), raw=False)
        cells = rows_of((folder / "o.csv").read_text())
        assert len(cells) == len(objects) + 1
        for cell in (cell for row in cells for cell in row):
            assert cell.isprintable()
            numeric = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", cell)
            assert numeric or not any(FORMULA.match(part.strip('" ')) for part in cell.split(";"))
        assert all(
            "".join(path.read_text().splitlines()).isprintable() for path in (folder / "o.md", folder / "o.jsonl")
        )
        for row, item in zip(cells[1:], objects, strict=True):
            parts = [item.get("attributes"), item.get("context_attributes"), item.get("error")]
            assert set(leaves(parts)) <= set(re.findall("[A-Za-z0-9]+", " ".join(row))) | set(leaves(list(row)))
        assert len(pd.read_parquet(folder / "o.parquet")) == len(objects)
        sheet = openpyxl.load_workbook(folder / "o.xlsx").active
        assert {cell.data_type for row in sheet.rows for cell in row} <= {"s", "n", "d", "b"}
        stored = {(item["type"], str(item["id"])) for item in objects}
        tables = {
            name for (name,) in query(str(folder / "o.db"), "select name from sqlite_master where type = 'table'")
        }
        assert stored <= {
            (name, row[0]) for name in tables for row in query(str(folder / "o.db"), f"select id from {name}")
        }
    finally:
        shutil.rmtree(folder)
