"""indicators: what every script that lists indicators does with them."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from indicators import (
    Indicators,
    check_output,
    csv_cell,
    entity_of,
    indicator_rows,
    print_result,
    value_of,
    write_indicators,
    write_rows,
)
from output import UsageError
from virustotal import VirusTotalError

COLUMNS = ("type", "value", "files", "file_ids", "ports")
FOUND = {
    ("url", "http://a.example/", "f", 0),
    ("domain", "b.example", "f", 443),
    ("domain", "b.example", "g", 80),
    ("domain", "b.example", "g", 443),
    ("domain", "a.example", "f", 0),
}
ROWS = [
    {"type": "domain", "value": "b.example", "files": 2, "file_ids": ["f", "g"], "ports": [80, 443]},
    {"type": "domain", "value": "a.example", "files": 1, "file_ids": ["f"], "ports": []},
    {"type": "url", "value": "http://a.example/", "files": 1, "file_ids": ["f"], "ports": []},
]


@pytest.mark.parametrize(
    ("query", "entity"),
    [
        ("entity:url p:3+", "url"),
        ('p:3+ AND (ENTITY : "Domain")', "domain"),
        ("p:3+\nentity:ip", "ip"),
        ("p:3+", None),
        ("identity:url", None),
        ('content:"entity:url"', None),
        ("", None),
    ],
)
def test_the_entity_that_a_query_asks_for(query: str, entity: str | None) -> None:
    assert entity_of(query) == entity


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ({"type": "domain", "id": "A.example"}, "a.example"),
        ({"type": "ip_address", "id": 42}, "42"),
        ({"type": "url", "id": "hash", "context_attributes": {"url": "http://A.example/"}}, "http://A.example/"),
        ({"type": "url", "id": "hash", "context_attributes": {"url": ["http://a.example/"]}}, "http://a.example/"),
        (
            {"type": "url", "id": "hash", "context_attributes": None, "attributes": {"url": "http://a.example/"}},
            "http://a.example/",
        ),
        ({"type": "url", "id": "hash", "error": {"code": "NotFoundError"}}, None),
    ],
)
def test_the_value_of_an_object_is_never_the_hash_of_a_url(item: dict[str, Any], value: str | None) -> None:
    assert value_of(item) == value


def test_a_url_without_its_address_is_missing() -> None:
    result = Indicators("file")
    result.add([{"type": "url", "id": "hash"}, {"type": "domain", "id": "a.example"}], "f", 0)
    assert result.found == {("domain", "a.example", "f", 0)}
    assert result.missing == ["f: the address of URL hash"]


@pytest.mark.parametrize(("status", "ends"), [(0, True), (401, True), (429, True), (403, False), (404, False)])
def test_only_what_every_request_would_meet_ends_the_run(status: int, ends: bool) -> None:
    result, error = Indicators("file"), VirusTotalError("Code", "message", status)
    result.fail(error, "f: the rest")
    assert (result.error, result.failure) == ((error, None) if ends else (None, error))
    assert result.missing == ([] if ends else ["f: the rest: Code: message"])


def test_rows_are_sorted_by_type_then_count_then_value() -> None:
    assert indicator_rows(FOUND, COLUMNS) == ROWS
    assert indicator_rows(FOUND, COLUMNS, at_least=2) == ROWS[:1]
    assert [row["value"] for row in indicator_rows(FOUND, COLUMNS, defanged=True)][2] == "hxxp://a[.]example/"
    assert indicator_rows([], COLUMNS) == []


@pytest.mark.parametrize(
    "value", ["=1", "+1", "-1", "@SUM(1)", "\t=1", " =1", '"=1', "http://a/;=1", "＝1", ["=f", "g"]]
)
def test_no_cell_starts_a_formula(value: Any) -> None:
    assert not any(part.lstrip('\t "').startswith(tuple("=+-@＝")) for part in csv_cell(value).split(";"))


@pytest.mark.parametrize(("value", "cell"), [("a.example", "a.example"), (["f", "g"], "f g"), ([], ""), (3, "3")])
def test_other_cells_stay_as_they_are(value: Any, cell: str) -> None:
    assert csv_cell(value) == cell


@pytest.mark.parametrize(("style", "lines"), [("text", 1), ("csv", 2), ("jsonl", 1)])
def test_a_hostile_row_is_one_printable_line(style: str, lines: int) -> None:
    hostile = '\nDOMAIN: forged.example\r\x1b[2J\u202e\ud800\x00,"'
    file = io.StringIO()
    write_rows(indicator_rows({(hostile, hostile, hostile, 0)}, COLUMNS), COLUMNS, style, file)
    written = file.getvalue().removesuffix("\n").split("\n")
    assert len(written) == lines
    assert all(line.isprintable() for line in written)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        assert write_indicators(ROWS, COLUMNS, "text", tmp_path / name) is None
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == ROWS
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert [row["file_ids"] for row in csv.DictReader(file)] == ["f g", "f", "f"]


def test_rows_that_cannot_be_written_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "saved").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "saved"))
    monkeypatch.setattr("sys.stdout", None)  # restored after the test
    monkeypatch.setattr(os, "replace", full)
    error = write_indicators(ROWS, COLUMNS, "text", tmp_path / "a.csv")
    (saved,) = (tmp_path / "saved").iterdir()
    assert str(saved) in str(error)
    assert [json.loads(line) for line in saved.read_text().splitlines()] == ROWS
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize(
    ("name", "cursor"), [("a.txt", None), ("a", None), ("nowhere/a.csv", None), ("old.csv", "cursor")]
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, cursor: str | None) -> None:
    (tmp_path / "old.csv").touch()
    with pytest.raises(UsageError):
        check_output(tmp_path / name, cursor)
    check_output(tmp_path / "old.csv", None)
    check_output(tmp_path / "NEW.JSONL", "cursor")


@pytest.mark.parametrize(
    ("error", "missing", "cursor", "code"),
    [
        (None, [], None, 0),
        (None, [], "c", 0),
        (None, ["f: the rest"], None, 3),
        (VirusTotalError("Reset", "", 0), [], "c", 3),
        (VirusTotalError("QuotaExceededError", "", 429), [], None, 4),
        (OSError("disk full"), [], "c", 1),
    ],
)
def test_the_exit_code(error: Exception | None, missing: list[str], cursor: str | None, code: int) -> None:
    assert print_result(Indicators("file", cursor, missing=missing, error=error), ROWS) == code
