"""Objects as rows, rows as a table, a table as files: hostile, missing and mixed values included."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from output import UsageError
from table import check_outputs, columns, row, to_frame, to_text, write

HOSTILE = "=cmd|'/c calc'!A1\x1b[31m\u202e\x00<script>|`x`"
FILE: dict[str, Any] = {
    "type": "file",
    "id": "a" * 64,
    "attributes": {
        "size": 5,
        "type": "not the object's",
        "names": [],
        "tags": ["pe", "=x"],
        "meaningful_name": HOSTILE,
        "first_submission_date": 1,
        "signature_info": {"signing date": "10:00 AM"},
        "last_analysis_results": {"Engine": {"category": "malicious", "engine_name": "Engine"}},
        "exiftool": {"=HYPERLINK(1)": "x"},
        "reputation": None,
    },
}
ERROR: dict[str, Any] = {"type": "file", "id": "b" * 64, "error": {"code": "NotFoundError", "message": "gone"}}
URL: dict[str, Any] = {
    "type": "url",
    "id": "c" * 64,
    "context_attributes": {"url": "http://a.example/", "similarity_score": 0.5},
}


def frame(*items: dict[str, Any], column: tuple[str, ...] = ()) -> pd.DataFrame:
    chosen = columns(column)
    return to_frame([row(item, chosen) for item in items], chosen)


# ---- columns and rows


@pytest.mark.parametrize(
    ("spec", "name", "path"),
    [
        ("pe_info.imphash", "pe_info.imphash", "$.attributes.pe_info.imphash"),
        ("hash=pe_info.imphash", "hash", "$.attributes.pe_info.imphash"),
        ("signature_info.signing date", "signature_info.signing date", "$.attributes.signature_info.'signing date'"),
        ("pe_info.sections[*].md5", "pe_info.sections[*].md5", "$.attributes.pe_info.sections[*].md5"),
        ("rule=$.context_attributes.rule_name", "rule", "$.context_attributes.rule_name"),
        ("$.a[?(@.b=='c')].d", "$.a[?(@.b=='c')].d", "$.a[?(@.b=='c')].d"),
        (
            "last_analysis_stats.confirmed-timeout",
            "last_analysis_stats.confirmed-timeout",
            "$.attributes.last_analysis_stats.'confirmed-timeout'",
        ),
    ],
)
def test_a_column_is_a_name_and_a_path(spec: str, name: str, path: str) -> None:
    assert columns([spec]) == {name: path}


def test_a_column_that_does_not_parse_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"--column x=\$\.\["):
        columns(["x=$.["])


@pytest.mark.parametrize("specs", [["a=size", "a=tags"], ["id=size"], ["url=$.x"]])
def test_a_column_s_name_is_its_own(specs: list[str]) -> None:
    with pytest.raises(UsageError, match="already"):
        columns(specs)


def test_one_match_is_a_scalar_several_a_list_none_empty() -> None:
    chosen = columns(["size", "tags[*]", "absent", "one=tags[0]", "reputation"])
    found = row(FILE, chosen)
    assert (found["size"], found["tags[*]"], found["one"]) == (5, ["pe", "=x"], "pe")
    assert (found["absent"], found["reputation"]) == (None, None)


def test_a_row_has_everything_but_the_verdicts() -> None:
    found = row(FILE, {})
    assert found["attributes.type"] == "not the object's"
    assert (found["type"], found["exiftool.=HYPERLINK(1)"], found["names"]) == ("file", "x", [])
    assert not any(name.startswith("last_analysis_results") for name in found)
    assert row(FILE, {}, verdicts=True)["last_analysis_results.Engine.category"] == "malicious"


def test_the_url_of_a_url_is_a_column_whatever_holds_it() -> None:
    assert row(URL, {})["url"] == "http://a.example/"
    assert row({"type": "url", "id": "x", "attributes": {"url": "http://b.example/"}}, {})["url"] == "http://b.example/"
    assert "url" not in row(FILE, {})


@pytest.mark.parametrize("item", [{}, {"id": 7, "type": "file", "attributes": None, "context_attributes": None}, ERROR])
def test_an_object_that_lacks_nearly_all_is_a_row(item: dict[str, Any]) -> None:
    assert row(item, {})["id"] == item.get("id")


# ---- the table


def test_columns_stand_in_the_same_order_whatever_the_rows() -> None:
    assert list(frame(FILE, URL, ERROR)) == list(frame(ERROR, URL, FILE))
    assert list(frame(FILE, URL))[:3] == ["id", "type", "url"]


def test_no_rows_are_a_table_with_the_chosen_columns() -> None:
    empty = frame(column=("size", "x=$.y"))
    assert (list(empty), len(empty)) == (["id", "type", "size", "x"], 0)
    assert to_text(empty, "csv") == "id,type,size,x\n"
    assert to_text(empty, "jsonl") == ""


def test_dates_are_utc_timestamps_and_what_is_no_date_stays() -> None:
    table = frame(FILE, ERROR)
    assert table["first_submission_date"][0] == pd.Timestamp("1970-01-01T00:00:01Z")
    assert pd.isna(table["first_submission_date"][1])
    assert table["signature_info.signing date"][0] == "10:00 AM"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4250000000, 1], [pd.Timestamp("2104-09-04T19:33:20Z"), pd.Timestamp("1970-01-01T00:00:01Z")]),
        (["1718000000"], [pd.Timestamp("2024-06-10T06:13:20Z")]),
        ([1, "yesterday", 10**30], ["1970-01-01T00:00:01Z", "yesterday", str(10**30)]),
        ([10**30], [10**30]),
        (["9" * 5000], ["9" * 5000]),
        ([-1], [-1]),
    ],
)
def test_absurd_dates_lose_nothing(values: list[Any], expected: list[Any]) -> None:
    items = [{"id": str(i), "type": "file", "attributes": {"creation_date": value}} for i, value in enumerate(values)]
    assert frame(*items)["creation_date"].tolist() == expected


def test_a_chosen_column_is_a_date_by_the_path_it_names() -> None:
    table = frame(FILE, column=("seen=first_submission_date",))
    assert table["seen"][0] == pd.Timestamp("1970-01-01T00:00:01Z")


def test_whole_numbers_stay_whole_where_a_row_lacks_them() -> None:
    assert frame(FILE, ERROR)["size"].dtype == "Int64"
    assert to_text(frame(FILE, ERROR, column=("size",)), "csv").splitlines()[1].endswith(",5")


# ---- text


def test_csv_cells_and_headers_start_no_formula() -> None:
    for cell in (cell for line in csv.reader(io.StringIO(to_text(frame(FILE, ERROR, URL), "csv"))) for cell in line):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("start", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "＝1", "|x", "%x"])
def test_every_way_to_start_a_formula_is_defused(start: str) -> None:
    text = to_text(frame({"id": start, "type": "file"}), "csv")
    assert text.splitlines()[1].startswith(("'", "\"'"))


def test_raw_csv_keeps_the_cells() -> None:
    text = to_text(frame({"id": "=1", "type": "file"}), "csv", raw=True)
    assert text == "id,type\n=1,file\n"


@pytest.mark.parametrize("form", ["table", "csv", "jsonl", "markdown"])
def test_no_form_of_the_table_holds_a_control_character(form: str) -> None:
    text = to_text(frame(FILE, ERROR, URL), form)
    assert "".join(text.splitlines()).isprintable()
    assert "aaaa" in text


def test_json_lines_say_what_virustotal_said() -> None:
    line = json.loads(to_text(frame(FILE, ERROR), "jsonl").splitlines()[0])
    assert line["meaningful_name"] == HOSTILE
    assert line["first_submission_date"] == "1970-01-01T00:00:01Z"
    assert line["tags"] == ["pe", "=x"]
    assert "error.code" not in line


def test_markdown_is_text_and_no_markup() -> None:
    text = to_text(frame(FILE, {"id": "http://a.example/ www.b.example <img>", "type": "x"}), "markdown")
    assert "\\<script\\>\\|\\`x\\`" in text
    assert "http\\://a.example/ www\\.b.example \\<img\\>" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_fits_the_terminal_with_a_line_a_row(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    lines = to_text(frame(FILE, ERROR, column=("size", "meaningful_name", "tags")), "table").splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width


def test_a_narrow_terminal_gives_half_of_itself_to_what_tells_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    long = {"type": "domain", "id": "a" * 36 + ".example", "attributes": dict.fromkeys("bcdef", "x" * 40)}
    assert "a" * 36 in to_text(frame(long).drop(columns="type"), "table")


def test_the_columns_of_a_terminal_use_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    long = {"type": "domain", "id": "a" * 38, "attributes": {"b": "x" * 30, "c": 7, "d": "x" * 90, "e": "y" * 14}}
    head, cells = to_text(frame(long).drop(columns="type"), "table").splitlines()
    assert head.split() == ["id", "b", "c", "d"]
    assert cells.split()[0] == "a" * 38 and cells.split()[2] == "7"
    assert 77 <= len(cells) <= 80


def test_a_table_in_a_pipe_is_not_cut() -> None:
    assert "a" * 64 in to_text(frame(FILE), "table")


# ---- files


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".md", ".parquet", ".xlsx", ".db"])
def test_every_format_is_written_and_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(frame(FILE, ERROR, URL), [str(path)], table="file")
    if suffix == ".csv":
        ids = list(pd.read_csv(path)["id"])
    elif suffix == ".jsonl":
        ids = list(pd.read_json(path, lines=True)["id"])
    elif suffix == ".md":
        ids = [line.split("|")[1].strip() for line in path.read_text().splitlines()[2:]]
    elif suffix == ".parquet":
        ids = list(pd.read_parquet(path)["id"])
    elif suffix == ".xlsx":
        with zipfile.ZipFile(path) as book:
            sheet = book.read("xl/worksheets/sheet1.xml").decode()
            ids = [c * 64 for c in "abc" if c * 64 in book.read("xl/sharedStrings.xml").decode()]
        assert "<f>" not in sheet
    else:
        with sqlite3.connect(path) as database:
            ids = [found for (found,) in database.execute("select id from file")]
    assert ids == ["a" * 64, "b" * 64, "c" * 64]


def test_parquet_keeps_types_and_mixed_columns(tmp_path: Path) -> None:
    mixed = [
        {"id": str(i), "type": "x", "attributes": {"v": v, "n": i, "tags": ["a"]}}
        for i, v in enumerate([1, "a", ["b"], None])
    ]
    write(frame(*mixed), [str(tmp_path / "o.parquet")])
    table = pd.read_parquet(tmp_path / "o.parquet")
    assert table["v"].tolist()[:3] == ["1", '"a"', '["b"]']
    assert table["n"].dtype == "int64" or table["n"].dtype == "Int64"
    assert list(table["tags"][0]) == ["a"]


@pytest.mark.parametrize("items", [[FILE, ERROR, URL], []])
def test_a_workbook_can_be_filtered_and_its_columns_are_as_wide_as_their_cells(
    tmp_path: Path, items: list[dict[str, Any]]
) -> None:
    write(frame(*items), [str(tmp_path / "o.xlsx")])
    with zipfile.ZipFile(tmp_path / "o.xlsx") as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    assert "<autoFilter" in sheet and 'customWidth="1"' in sheet


def test_a_raw_workbook_keeps_the_cell_and_a_long_one_says_what_was_cut(tmp_path: Path) -> None:
    write(frame({"id": "=1+1", "type": "x" * 40_000}), [str(tmp_path / "o.xlsx")])
    with zipfile.ZipFile(tmp_path / "o.xlsx") as book:
        strings = book.read("xl/sharedStrings.xml").decode()
    assert "'=1+1" in strings
    assert "[cut: 40000 characters]" in strings


def test_a_database_keeps_its_rows_and_takes_new_columns(tmp_path: Path) -> None:
    path = str(tmp_path / "o.db")
    write(frame({"id": "1", "type": "url", "attributes": {"a": 1}}), [path], table="url")
    write(
        frame({"id": "2", "type": "url", "attributes": {"Server:x": "y", "server:X": "z", "l": [1]}}),
        [path],
        table="url",
    )
    with sqlite3.connect(path) as database:
        assert database.execute('select id, a, "Server:x", l from url').fetchall() == [
            ("1", 1, None, None),
            ("2", None, "y", "[1]"),
        ]
        assert database.execute('select "server:X_4361de95" from url').fetchall() == [(None,), ("z",)]


def test_a_column_that_a_database_gains_has_its_type(tmp_path: Path) -> None:
    path = str(tmp_path / "o.db")
    write(frame({"id": "1", "type": "file", "attributes": {"a": "x"}}), [path], table="file")
    numbers = {"size": 9, "score": 0.5, "good": True, "first_submission_date": 1}
    write(
        frame(*({"id": str(n), "type": "file", "attributes": numbers | {"size": n}} for n in (9, 41))),
        [path],
        table="file",
    )
    write(frame({"id": "2", "type": "file", "attributes": {"a": "z"}}), [path], table="file")
    with sqlite3.connect(path) as database:
        assert database.execute("select id from file where size > 10").fetchall() == [("41",)]
        types = {name: of for _, name, of, *_ in database.execute("pragma table_info(file)")}
    assert types["size"] == "BIGINT" and types["good"] == "BOOLEAN" and types["first_submission_date"] == "TIMESTAMP"
    again = pd.read_sql("file", f"sqlite:///{path}")
    assert list(again["size"].dropna()) == [9, 41]
    assert str(again["first_submission_date"].dropna().iloc[0]).startswith("1970-01-01 00:00:01")


def test_a_database_s_name_is_its_file_s(tmp_path: Path) -> None:
    write(frame(FILE), [str(tmp_path / "a?mode=memory.db")])
    assert [path.name for path in tmp_path.iterdir()] == ["a?mode=memory.db"]


def test_an_interrupt_while_files_are_written_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("table.to_parquet", interrupted)
    failed = write(frame(FILE), [str(tmp_path / "o.csv"), str(tmp_path / "o.parquet")])
    assert isinstance(failed, KeyboardInterrupt)
    what, _, kept = str(failed).rpartition("; the rows are kept in ")
    assert what == "interrupted" and json.loads(Path(kept).read_text())["meaningful_name"] == HOSTILE
    assert (tmp_path / "o.csv").exists() and not (tmp_path / "o.parquet").exists()


def test_rows_that_cannot_be_written_are_kept_and_the_error_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failed = write(frame(FILE), [str(tmp_path / "absent" / "o.csv"), str(tmp_path / "o.csv")])
    assert (tmp_path / "o.csv").exists()
    kept = Path(str(failed).rpartition("; the rows are kept in ")[2])
    assert json.loads(kept.read_text())["meaningful_name"] == HOSTILE


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("a.txt", "ends in none of"),
        ("nowhere/a.csv", "no folder nowhere"),
        ("nosuch://u:secret@h/d", "nosuch"),
        (".", "ends in none"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_search(output: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as raised:
        check_outputs([output])
    assert "secret" not in str(raised.value)


def test_the_part_before_a_cursor_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text("the first part")
    check_outputs([str(tmp_path / "o.csv")])
    with pytest.raises(UsageError, match="name another file"):
        check_outputs([str(tmp_path / "o.csv")], resuming=True)


# ---- hostile sizes, names and shapes


def test_a_semicolon_starts_no_formula_where_it_separates_cells() -> None:
    hostile = ["a;=HYPERLINK(1)", 'a;"" =x', "a; ＝x", "a;b", "a; b=c"]
    text = to_text(frame(*({"id": value} for value in hostile)), "csv")
    assert [line[0] for line in csv.reader(io.StringIO(text))][1:] == [
        "a;'=HYPERLINK(1)",
        'a;\'"" =x',
        "a;' ＝x",
        "a;b",
        "a; b=c",
    ]


def many(objects: int, each: int) -> list[dict[str, Any]]:
    """URLs of one site that answers each visitor with headers of other names."""
    headers = [{f"h{i}-{j}": f"v{i}" for j in range(each)} | {"server": "x"} for i in range(objects)]
    return [{"type": "url", "id": str(i), "attributes": {"headers": h}} for i, h in enumerate(headers)]


def test_names_without_end_are_gathered_in_one_column(tmp_path: Path) -> None:
    made = frame(*many(3, 1000))
    assert len(made.columns) == 1503
    assert list(made["headers.server"]) == ["x"] * 3
    names = {name for name in made.columns if name.startswith("headers.h")}
    for others in made["others"].dropna().map(json.loads):
        assert not names & set(others)
        names |= set(others)
    assert len(names) == 3000  # nothing is lost
    write(made, [str(tmp_path / "a.db"), str(tmp_path / "a.xlsx"), str(tmp_path / "a.parquet")])
    assert sqlite3.connect(tmp_path / "a.db").execute("SELECT count(*) FROM virustotal").fetchone() == (3,)


def test_an_attribute_of_that_name_is_not_lost_among_the_others() -> None:
    made = frame({"id": "1", "attributes": {"others": 5} | {f"h{i}": i for i in range(1600)}})
    assert json.loads(made["others"][0])["others"] == 5


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_one_long_cell_does_not_make_a_megabyte_of_each_row(form: str) -> None:
    made = frame(*({"id": "x" * (1_000_000 if i == 0 else 1)} for i in range(100)))
    text = to_text(made, form)
    assert "[cut: 1000000 characters]" in text.replace("\\", "")
    assert len(text) < 1_000_000


@pytest.mark.parametrize(
    "attributes",
    [
        {"": "x"},
        {"a\0b": "x", "a\\x00b": "y"},
        {'"; DROP TABLE x; --': "x", "a:b": "y", "a%(b)s": "z", "?": "q", "[x]": "r", "'": "s"},
        {"size": 10**30, "more": -(10**20)},
    ],
)
def test_a_database_takes_whatever_name_and_number_comes(tmp_path: Path, attributes: dict[str, Any]) -> None:
    output = str(tmp_path / "a.db")
    write(frame({"id": "1"}), [output])
    write(frame({"id": "2", "attributes": attributes}), [output])
    stored = sqlite3.connect(output).execute("SELECT * FROM virustotal WHERE id = 2").fetchone()
    assert {str(value) for value in attributes.values()} <= {str(value) for value in stored}


@pytest.mark.parametrize("value", [[{}], [{"a": {}}], [[{}], 5]])
def test_parquet_takes_dicts_without_keys(tmp_path: Path, value: Any) -> None:
    write(frame({"id": "1", "attributes": {"x": value}}), [str(tmp_path / "a.parquet")])
    assert json.loads(pd.read_parquet(tmp_path / "a.parquet")["x"][0]) == value


def test_what_is_nested_deeply_is_a_cell() -> None:
    deep: dict[str, Any] = {"end": 1}
    for _ in range(3000):
        deep = {"a": deep}
    made = row({"id": "1", "attributes": deep}, {})
    assert len(made) == 3
