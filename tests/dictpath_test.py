"""dictpath: look-ups in nested attributes, as in the talk."""

from __future__ import annotations

from typing import Any

import pytest

import dictpath

FILE = {
    "attributes": {
        "pe_info": {"sections": [{"name": "UPX0", "md5": "d41d"}, {"name": "UPX1", "md5": "0cc1"}], "imphash": None},
        "sandbox_verdicts": {"Zenbox": {"sandbox_name": "Zenbox"}, "CAPE Sandbox": {"sandbox_name": "CAPE"}},
        "signature_info": {"signers details": [{"status": "Valid"}]},
        "last_analysis_results": {
            "A": {"category": "malicious", "engine_name": "A"},
            "B": {"category": "harmless", "engine_name": "B"},
            "C": {"category": None, "engine_name": "C"},
        },
    }
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.attributes.pe_info.sections[*].md5", ["d41d", "0cc1"]),
        ("$.attributes.sandbox_verdicts.*.sandbox_name", ["Zenbox", "CAPE"]),
        ("$.attributes.signature_info.'signers details'[0].status", ["Valid"]),
        ("$.attributes.last_analysis_results[?(@.category == 'malicious')].engine_name", ["A"]),
        ("$.attributes.pe_info.imphash", [None]),
        ("$.attributes.pe_info.absent", []),
        ("$.attributes.pe_info.imphash.deeper", []),
    ],
)
def test_every_match_in_order(path: str, expected: list[object]) -> None:
    assert dictpath.get_all(FILE, path) == expected
    assert list(dictpath.iterate(FILE, path)) == expected


def test_get_tells_null_from_absent() -> None:
    assert dictpath.get(FILE, "$.attributes.pe_info.imphash", "absent") is None
    assert dictpath.get(FILE, "$.attributes.pe_info.absent", "absent") == "absent"


def test_get_does_not_choose_among_several_matches() -> None:
    with pytest.raises(ValueError, match="2 values"):
        dictpath.get(FILE, "$.attributes.pe_info.sections[*].md5")


@pytest.mark.parametrize("path", ["", "$.a.two words", "$.a[", "$.a~", "$.'a", "$.a.`split(x)`"])
def test_a_bad_path_is_named(path: str) -> None:
    with pytest.raises(ValueError, match="bad JSONPath") as raised:
        dictpath.get_all(FILE, path)
    assert repr(path) in str(raised.value)


def test_a_path_is_parsed_once() -> None:
    assert dictpath.dictpath.parse("$.attributes.size") is dictpath.dictpath.parse("$.attributes.size")


@pytest.mark.parametrize("path", ["$.a.`sorted`", "$.a.`sub(/x/, y)`", "$.`parent`.`parent`", "$.a.b[?(@.x > 'y')]"])
@pytest.mark.parametrize("value", [None, 5, True, [1, "a", None]])
def test_a_value_that_a_path_cannot_handle_is_no_match(path: str, value: Any) -> None:
    assert dictpath.get_all({"a": value}, path) == []
