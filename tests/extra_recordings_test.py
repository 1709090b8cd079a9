"""Real answers go through sources and sinks, if VT_EXTRA_RECORDINGS names a folder of response bodies (*.json)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from conftest import Run, Server, collection

from frame import SUFFIXES, fields, format_frame, to_frame, write_output

FOLDER = os.environ.get("VT_EXTRA_RECORDINGS")
ANSWERS = sorted(Path(FOLDER).rglob("*.json")) if FOLDER else []
pytestmark = pytest.mark.skipif(not FOLDER, reason="VT_EXTRA_RECORDINGS names no folder of response bodies")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a response body, or of a feed's line."""
    body = json.loads(path.read_text(encoding="utf-8"))
    data = body if "error" in body else body.get("data", body)
    return [data] if isinstance(data, dict) else data or []


def leaves(value: Any) -> Iterator[str]:
    """Yield every value that is not a container, as JSON."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    elif value is not None:
        yield json.dumps(value)


def test_there_are_answers_in_the_folder() -> None:
    assert any(read(path) for path in ANSWERS), f"no response bodies in {FOLDER}"


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_no_value_is_lost(path: Path) -> None:
    for item in read(path):
        parts = [item.get(part) for part in ("id", "type", "attributes", "context_attributes", "error")]
        assert set(leaves(parts)) <= set(leaves(fields(item)))


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_every_format_takes_it(path: Path, tmp_path: Path) -> None:
    objects = read(path)
    frame = to_frame(objects, {})
    for suffix in SUFFIXES:
        if all("id" in item for item in objects) or suffix not in (".db", ".sqlite"):
            write_output(frame, objects, str(tmp_path / f"o{suffix}"), raw=False)
    for style in ("csv", "jsonl", "markdown"):
        assert "".join(format_frame(frame, style).splitlines()).isprintable()
    assert len(pd.read_parquet(tmp_path / "o.parquet")) == len(objects)
    assert openpyxl.load_workbook(tmp_path / "o.xlsx").active.max_row == len(objects) + 1


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_the_sink_reads_it_as_curl_saved_it(path: Path, run: Run) -> None:
    result = run("objects_to_table", path, "--format", "jsonl")
    assert result.code == 0
    assert [row.get("id") for row in result.objects] == [item.get("id") for item in read(path)]


HASH = "44d88612fea8a8f36de82e1278abb02f"
SOURCES = {
    "search": ["q", "--limit", "0"],
    "ioc_stream": [],
    "retrohunt": ["matches", "job", "--limit", "0"],
    "sandbox_artifacts": [HASH],
}


def all_objects() -> list[dict[str, Any]]:
    """Return one object of each answer that has some, with what a notification adds."""
    found = [item for path in ANSWERS for item in read(path)[:1] if item.get("id") and "attributes" in item]
    return [
        item | {"context_attributes": {"notification_id": str(n), "notification_date": 1763715600}}
        for n, item in enumerate(found)
    ]


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_prints_them_unchanged(name: str, run: Run, server: Server) -> None:
    job = {"id": "job", "type": "retrohunt_job", "attributes": {"status": "finished"}}
    server.answer("/intelligence/retrohunt_jobs/job", {"data": job})
    server.answer("/*", collection(*all_objects()))
    result = run(name, *SOURCES[name])
    assert (result.code, result.objects) == (0, all_objects())


def test_a_look_up_adds_its_key_only(run: Run, server: Server) -> None:
    for item in all_objects():
        server.answer("/*", {"data": item})
        (found,) = run("lookup", HASH).objects
        assert found == item | {"lookup": HASH}


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_the_report_shows_it(path: Path, run: Run) -> None:
    result = run("objects_to_report", path, "-o", "report.html")
    assert result.code in (0, 3), result.stderr  # 3: an error in an object's place
    assert Path("report.html").stat().st_size > 100_000
