"""minutes: the files of a dump, oldest first, and what is none of them; a connection to Dask."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from minutes import connect_to_dask, find_minutes
from output import UsageError


def test_minutes_are_found_oldest_first_in_both_formats(tmp_path: Path) -> None:
    names = [
        "date=2026-11-20/hour=23/202611202359.jsonl.zst",
        "date=2026-11-21/hour=00/202611210000.jsonl.bz2",
        "date=2026-11-21/hour=00/202611210001.jsonl.zst",
    ]
    others = [
        "date=2026-11-21/hour=00/.0a1b.part",
        "date=2026-11-21/hour=00/_202611210000.artifacts/1.pcap",
        "date=2026-11-21/hour=00/notes.txt",
        ".parts-x/1/package.jsonl.zst",
    ]
    for name in [*reversed(names), *others]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_minutes(tmp_path)] == names


def test_a_folder_without_minutes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no minutes"):
        find_minutes(tmp_path)


def test_a_wrong_address_is_told() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="--scheduler nowhere:x"):
        connect_to_dask("nowhere:x")


def test_without_dask_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="--with"):
        connect_to_dask("tcp://127.0.0.1:1")
