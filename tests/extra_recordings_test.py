"""Real answers, if VT_EXTRA_RECORDINGS names a folder of them, through all that extracts, shapes and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import replay
import search_to_network_infrastructure as network

import dictpath
import table

FOLDER = os.environ.get("VT_EXTRA_RECORDINGS")
ANSWERS = sorted(Path(FOLDER).rglob("*.json")) if FOLDER else []
pytestmark = pytest.mark.skipif(not FOLDER, reason="VT_EXTRA_RECORDINGS names no folder of response bodies")


def objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a response body: a collection's, one, or a bare one as a feed's line has it."""
    body = json.loads(path.read_text(encoding="utf-8"))
    data = body.get("data", body) if "error" not in body else []
    return [data] if isinstance(data, dict) else data or []


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def test_there_are_answers_in_the_folder() -> None:
    assert any(objects(path) for path in ANSWERS), f"no response bodies in {FOLDER}"


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_no_value_of_a_real_object_is_lost_on_its_way_into_a_row(path: Path) -> None:
    for item in objects(path):
        row = table.row(item, {}, verdicts=True)
        assert row["id"] == item["id"]
        parts = [item.get(part) or {} for part in ("attributes", "context_attributes", "error")]
        assert {repr(v) for v in leaves(parts)} <= {repr(v) for v in leaves(list(row.values()))}


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_real_objects_make_a_table_and_every_kind_of_file(path: Path, tmp_path: Path) -> None:
    items = objects(path)
    frame = table.to_frame([table.row(item, {}) for item in items], {})
    assert frame["id"].tolist() == [item["id"] for item in items]
    for form in ("csv", "jsonl", "markdown"):
        text = table.to_text(frame, form)
        assert "\x1b" not in text and "\x00" not in text
    lines = [json.loads(line) for line in table.to_text(frame, "jsonl").splitlines()]
    assert [line["id"] for line in lines] == [item["id"] for item in items]
    for suffix in table.SUFFIXES:
        output = tmp_path / f"out{suffix}"
        table.write(frame, [str(output)])
        assert output.stat().st_size or not items


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_dictpath_finds_by_its_path_what_stands_in_a_real_object(path: Path) -> None:
    for item in objects(path):
        for key, value in (item.get("attributes") or {}).items():
            assert dictpath.get(item, f"$.attributes.'{key}'") == value


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_a_real_answer_is_recorded_and_served_as_it_was(path: Path) -> None:
    body = path.read_bytes()
    recorded = json.loads(json.dumps(replay.readable(body)))
    assert json.loads(replay.content(recorded)) == json.loads(body)


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_every_contact_that_a_real_object_carries_is_found(path: Path) -> None:
    for item in objects(path):
        found = network.Found()
        list(network.embedded(found, item, network.RELATIONSHIPS, None))
        carried = set()
        for name in network.RELATIONSHIPS:
            data = ((item.get("relationships") or {}).get(name) or {}).get("data") or []
            for contact in [data] if isinstance(data, dict) else data:
                url = (contact.get("context_attributes") or {}).get("url")
                if contact["type"] != "url" or url:
                    carried.add((contact["type"], url if contact["type"] == "url" else contact["id"].lower()))
        assert {(row["type"], row["value"]) for row in found.rows()} == carried
