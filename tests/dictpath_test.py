"""dictpath: the talk's look-ups in nested attributes."""

from __future__ import annotations

from typing import Any

import pytest

import dictpath as module
from dictpath import dictpath

FILE = {
    "attributes": {
        "pe_info": {"sections": [{"name": "UPX0", "md5": "d41d"}, {"name": "UPX1", "md5": "0cc1"}], "imphash": None},
        "sandbox_verdicts": {"Zenbox": {"sandbox_name": "Zenbox"}, "CAPE Sandbox": {"sandbox_name": "CAPE"}},
        "signature_info": {"signers details": [{"status": "Valid"}], "signing date": "10:00 AM"},
        "last_analysis_stats": {"confirmed-timeout": 3},
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
        ("$.attributes.last_analysis_stats.confirmed-timeout", [3]),
        ("$.attributes.last_analysis_results[?(@.category == 'malicious')].engine_name", ["A"]),
        ("$.attributes.pe_info.imphash", [None]),
        ("$.attributes.pe_info.absent", []),
        ("$.attributes.pe_info.imphash.deeper", []),
    ],
)
def test_get_all_gives_what_the_path_matches_in_order(path: str, expected: list[object]) -> None:
    assert dictpath.get_all(FILE, path) == expected
    assert list(dictpath.iterate(FILE, path)) == expected


def test_get_tells_null_from_absent() -> None:
    assert dictpath.get(FILE, "$.attributes.pe_info.imphash", default="absent") is None
    assert dictpath.get(FILE, "$.attributes.pe_info.absent", default="absent") == "absent"


def test_get_refuses_to_choose_among_several_matches() -> None:
    with pytest.raises(ValueError, match=r"2 values match '\$\.attributes\.pe_info\.sections\[\*\]\.md5'"):
        dictpath.get(FILE, "$.attributes.pe_info.sections[*].md5")


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("$.a.signers details", "at position 12"),
        ("$.a[", r"at its end \(position 4\)"),
        ("", "at its end"),
        ("$.a~", "position 3"),
        ("$.a#b.c", "at position 3"),
        ("$.'a", "at its end"),
        ('$.a[?(@ =~ "(")]', "unterminated subpattern at position 0"),
        ("$.a.`sub(/(/, x)`", "unterminated subpattern at position 0"),
        ("$.a.`split(x)`", "not valid"),
    ],
)
def test_a_bad_path_is_named_with_the_position_of_its_fault(path: str, where: str) -> None:
    with pytest.raises(ValueError, match=where) as raised:
        dictpath.get_all(FILE, path)
    assert repr(path) in str(raised.value)


def test_a_path_is_parsed_once() -> None:
    assert dictpath.parse("$.attributes.size") is dictpath.parse("$.attributes.size")


def test_import_dictpath_works_as_in_the_talk() -> None:
    assert module.get_all(FILE, "$.attributes.pe_info.sections[*].md5") == ["d41d", "0cc1"]
    assert module.get(FILE, "$.attributes.last_analysis_stats.confirmed-timeout") == 3


@pytest.mark.parametrize("path", ["$.a.`sorted`", "$.a.`sub(/x/, y)`", "$.`parent`.`parent`", "$.a.b[?(@.x > 'y')]"])
@pytest.mark.parametrize("value", [None, 5, True, [1, "a", None]])
def test_what_a_path_cannot_be_applied_to_is_no_traceback(path: str, value: Any) -> None:
    assert dictpath.get_all({"a": value}, path) == []
