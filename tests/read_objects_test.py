"""read_objects: every form in which VirusTotal's objects come to a sink."""

from __future__ import annotations

import bz2
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from output import UsageError
from read_objects import parse_json, read_objects, unwrap

ITEM = {"type": "file", "id": "a", "attributes": {"size": 1}}
VT_CLI = {"_type": "file", "_id": "a", "size": 1}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": 1}\n{"b": 2}', [{"a": 1}, {"b": 2}]),
        ('{"a":\n 1}\r\n\r\n[]\n', [{"a": 1}, []]),
        ("", []),
        (" \n", []),
        ('no\n{"a": 1}\n{"b":', [None, {"a": 1}, None]),
        ("[" * 100_000, [None]),
    ],
)
def test_values_follow_each_other_in_a_text(text: str, values: list[Any]) -> None:
    assert list(parse_json(text)) == values


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (ITEM, [ITEM]),
        ([ITEM, 5], [ITEM, None]),
        ({"data": ITEM}, [ITEM]),
        ({"data": [ITEM], "meta": {"cursor": "x"}, "links": {}}, [ITEM]),
        ({"data": None}, []),
        ({"data": [], "id": "an object of its own"}, [{"data": [], "id": "an object of its own"}]),
        ([VT_CLI], [ITEM]),
        ("text", [None]),
    ],
)
def test_objects_are_taken_out_of_what_holds_them(value: Any, items: list[Any]) -> None:
    assert list(unwrap(value)) == items


LINE = json.dumps(ITEM).encode()


@pytest.mark.parametrize(
    "content",
    [
        LINE,
        json.dumps(ITEM).encode("utf-8-sig"),
        json.dumps(ITEM).encode("utf-16"),
        bz2.compress(LINE),
        zstandard.compress(LINE[:20]) + zstandard.compress(LINE[20:]),
    ],
)
def test_a_file_may_be_compressed_or_utf_16(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "input").write_bytes(content)
    assert read_objects([str(tmp_path / "input")]) == ([ITEM], 0)


def test_files_are_read_in_order_and_lines_that_are_no_objects_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "b"}\n{"cut o')))
    (tmp_path / "first").write_text('{"id": "a"}\n5\n')
    assert read_objects([str(tmp_path / "first"), "-"]) == ([{"id": "a"}, {"id": "b"}], 2)


@pytest.mark.parametrize("content", [b"BZh9 damaged", b"\x28\xb5\x2f\xfd damaged", b"<html>", b"5\n"])
def test_a_file_without_any_object_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "input").write_bytes(content)
    with pytest.raises(UsageError, match="input"):
        read_objects([str(tmp_path / "input")])
