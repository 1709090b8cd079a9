"""feed_to_parquet: a dump becomes typed Parquet that pandas, Dask and DuckDB read as one dataset."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import Run, environment, file_object, start

DUMP, OUT = Path("dump"), Path("parquet")
HOUR, NEXT = "date=2026-11-21/hour=00", "date=2026-11-21/hour=01"
COLUMNS = ("--column", "id=$.id", "--column", "size:BIGINT")


def save(minute: str, *lines: object, dump: Path = DUMP) -> Path:
    """Save a minute as feed_dump does. A line is an object, or bytes."""
    path = dump / f"date={minute[:4]}-{minute[4:6]}-{minute[6:8]}/hour={minute[8:10]}/{minute}.jsonl.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(content))
    return path


def two_hours() -> None:
    save("202611210000", *(file_object(n, last_analysis_date=1_795_219_200 + n) for n in range(3)))
    save("202611210001", file_object(3, tags=["signed", None, 5]))
    save("202611210100", file_object(4, tags=[]))


def rows(hour: str = HOUR, out: Path = OUT) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out / hour / "part.parquet", partitioning=None).to_pylist()
    return found


def convert(run: Run, *args: object, code: int = 0) -> str:
    result = run("feed_to_parquet", DUMP, *args)
    assert result.code == code, result.stderr
    assert result.stdout == ""
    return result.stderr


def test_hours_become_one_dataset_for_every_reader(run: Run) -> None:
    two_hours()
    convert(run, *COLUMNS, "--column", "seen:TIMESTAMP=last_analysis_date", "--column", "tags:VARCHAR[]")
    assert [path.as_posix() for path in sorted(OUT.rglob("*.*"))] == [
        f"parquet/{HOUR}/part.parquet",
        f"parquet/{NEXT}/part.parquet",
    ]
    frame = pd.read_parquet(OUT).sort_values("id")
    assert list(frame["size"]) == [1000, 1001, 1002, 1003, 1004]
    assert frame["seen"].iloc[0] == datetime.datetime(2026, 11, 21)
    assert list(frame["tags"].iloc[3]) == ["signed", None, "5"]
    assert frame["tags"].iloc[0] is None and list(frame["tags"].iloc[4]) == []
    assert set(frame["date"].astype(str)) == {"2026-11-21"}

    import dask.dataframe

    assert dask.dataframe.read_parquet(OUT)["size"].sum().compute(scheduler="synchronous") == 5010
    query = f"SELECT date, hour, sum(size) FROM '{OUT}/*/*/*.parquet' GROUP BY ALL ORDER BY hour"
    assert duckdb.sql(query).fetchall() == [
        (datetime.date(2026, 11, 21), "00", 4006),
        (datetime.date(2026, 11, 21), "01", 1004),
    ]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("BIGINT", [7, -1, None, 1.5, "7", True, 2**63, [1]], [7, -1, None, None, None, None, None, None]),
        ("DOUBLE", [1.5, 2, None, "1.5", False], [1.5, 2.0, None, None, None]),
        ("BOOLEAN", [True, False, None, 1, "true"], [True, False, None, None, None]),
        ("VARCHAR", ["a", 1, None, True, {"k": [1]}], ["a", "1", None, "true", '{"k":[1]}']),
        ("JSON", ["a", 1, {"k": None}], ['"a"', "1", '{"k":null}']),
        ("VARCHAR[]", [["a", 1, {}], [], None, "a", {"k": 1}], [["a", "1", "{}"], [], None, None, None]),
        (
            "timestamp",
            [0, 1_795_219_200, None, 10**17, "2026", 1.5],
            [datetime.datetime(1970, 1, 1), datetime.datetime(2026, 11, 21), None, None, None, None],
        ),
    ],
)
def test_a_value_of_another_type_is_null_and_counted(
    run: Run, kind: str, values: list[Any], expected: list[Any]
) -> None:
    save("202611210000", *({"attributes": {"v": value}} for value in values), {"attributes": {}}, {})
    misfits = expected.count(None) - values.count(None)
    stderr = convert(run, "--column", f"v:{kind}", code=3 if misfits else 0)
    assert [row["v"] for row in rows()] == [*expected, None, None]
    assert (f"{misfits} value" in stderr) is bool(misfits)


def test_times_do_not_depend_on_the_time_zone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        save("202611210000", {"attributes": {"at": 1_795_219_200}})
        convert(run, "--column", "at:TIMESTAMP")
        assert rows() == [{"at": datetime.datetime(2026, 11, 21)}]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_paths_reach_into_objects_and_lists(run: Run) -> None:
    lookups = [{"hostname": "a.example"}, {"hostname": None}, {"ip": 1}]
    save("202611210000", {"id": 7, "attributes": {"dns": lookups, "a b": {"c-d": "x"}, "it's": 1, "l": [1, 2]}})
    paths = ["hosts:VARCHAR[]=dns[*].hostname", "deep=a b.c-d", "it's", 'say "x"=$.id', "first:BIGINT=l[0]", "all=$"]
    convert(run, *(part for path in paths for part in ("--column", path)))
    (row,) = rows()
    assert json.loads(row.pop("all"))["attributes"]["dns"] == lookups
    assert row == {"hosts": ["a.example", None], "deep": "x", "it's": "1", 'say "x"': "7", "first": 1}


def test_id_and_type_are_not_attributes(run: Run) -> None:
    save("202611210000", {"type": "file", "id": "a", "attributes": {"id": "wrong", "type": "wrong", "type_tag": "pe"}})
    columns = ["id", "name=id", "type", "kind:JSON=type", "type_tag", "own=$.attributes.type"]
    convert(run, *(part for column in columns for part in ("--column", column)))
    assert rows() == [
        {"id": "a", "name": "a", "type": "file", "kind": '"file"', "type_tag": "pe", "own": "wrong"},
    ]


def test_columns_without_a_value_are_named_once(run: Run) -> None:
    lines = [{"attributes": {"size": 1, "names": [], "hosts": [{"name": "a.example"}], "other": "x", "nil": None}}]
    save("202611210000", {}, *lines)
    save("202611210100", *lines)
    good = ["size:BIGINT", "hosts:VARCHAR[]=hosts[*].name"]
    wrong = [
        "sise:BIGINT",
        "names:VARCHAR[]",
        "mistyped:VARCHAR[]=hosts[*].nam",
        "nothing:VARCHAR[]=host[*].name",
        "nil",
    ]
    misfit = ["other:BIGINT"]
    args = [part for column in (*good, *wrong, *misfit) for part in ("--column", column)]
    stderr = convert(run, *args, code=3).splitlines()
    assert [line for line in stderr if "another type in other" not in line] == [stderr[1], stderr[-1]]
    assert stderr[1].startswith(HOUR) and stderr[1].endswith("sise, names, mistyped, nothing, nil")


def test_lines_that_are_not_json_are_dropped_and_counted(run: Run) -> None:
    large = "x" * 5_000_000
    save("202611210000", {"id": "a"}, b"not json", b'{"id": "half', b"", {"id": large}, b'{"id": "\\u0000\\u202e"}')
    stderr = convert(run, "--column", "id=$.id", code=3)
    assert [row["id"] for row in rows()] == ["a", large, "\0\u202e"]
    assert "2 lines without valid JSON" in stderr


@pytest.mark.parametrize("kind", ["file", "url", "domain", "ip_address", "file_behaviour"])
def test_default_columns_suit_the_feed(run: Run, kind: str) -> None:
    save("202611210000", b"not JSON", {"type": kind, "id": "x", "attributes": {"tags": ["t"]}})
    convert(run, code=3)
    assert [(row["id"], row["tags"]) for row in rows()] == [("x", ["t"])]


@pytest.mark.parametrize("line", [{"type": "sandbox"}, b"[]", b"nothing", b"[{}]"])
def test_a_dump_of_other_things_needs_columns(run: Run, line: object) -> None:
    save("202611210000", line)
    assert "--column" in convert(run, code=2)


def test_only_hours_that_have_gained_minutes_are_converted(run: Run) -> None:
    two_hours()
    convert(run, *COLUMNS)
    before = {path: path.stat().st_mtime_ns for path in OUT.rglob("*.parquet")}
    assert "0 hours converted" in convert(run, *COLUMNS)
    save("202611210159", file_object(9))
    assert "1 hour converted" in convert(run, *COLUMNS)
    changed = [path.parent.name for path, at in before.items() if path.stat().st_mtime_ns != at]
    assert (changed, len(rows(NEXT))) == (["hour=01"], 2)


def test_minutes_that_were_deleted_to_save_space_stay_in_the_parquet(run: Run) -> None:
    two_hours()
    convert(run, *COLUMNS)
    (DUMP / HOUR / "202611210001.jsonl.zst").unlink()
    assert "0 hours converted" in convert(run, *COLUMNS)
    (DUMP / HOUR / "202611210000.jsonl.zst").unlink()
    save("202611210200", file_object(5))
    assert "1 hour converted" in convert(run, *COLUMNS)
    assert (len(rows()), len(pd.read_parquet(OUT))) == (4, 6)


@pytest.mark.parametrize("args", [COLUMNS[2:], (*COLUMNS, "--where", "size > 1")])
def test_one_directory_has_one_set_of_columns_and_one_condition(run: Run, args: tuple[str, ...]) -> None:
    two_hours()
    convert(run, *COLUMNS)
    before = rows()
    save("202611210200", file_object(9))
    assert "name another --out" in convert(run, *args, code=2)
    assert rows() == before and not (OUT / "date=2026-11-21/hour=02").exists()


def test_the_file_says_what_it_was_made_from(run: Run) -> None:
    two_hours()
    convert(run, *COLUMNS, "--where", "id <> 'it''s'")
    metadata = pq.read_metadata(OUT / HOUR / "part.parquet").metadata or {}
    assert json.loads(metadata[b"feed_to_parquet"]) == {
        "columns": ["id=$.id", "size:BIGINT"],
        "where": "id <> 'it''s'",
        "minutes": ["202611210000", "202611210001"],
    }


def test_where_is_a_condition_on_the_columns(run: Run) -> None:
    two_hours()
    convert(run, *COLUMNS, "--where", "size > 1001 OR id LIKE '%0' -- as SQL")
    assert [row["size"] for row in rows()] == [1000, 1002, 1003]


def test_a_condition_without_a_match_is_said_before_the_second_hour(run: Run) -> None:
    two_hours()
    lines = convert(run, *COLUMNS, "--where", "size < 0").splitlines()
    assert HOUR in lines[0] and "matches none of 4 lines" in lines[0]
    assert len(lines) == 2
    assert list(pd.read_parquet(OUT).columns) == ["id", "size", "date", "hour"]


@pytest.mark.parametrize(
    "args",
    [
        ("--column", ":BIGINT=$.id"),
        ("--column", "size:DECIMAL"),
        ("--column", "x=$.a["),
        ("--column", "x=$..a"),
        ("--column", "x=$.a[*].b"),
        ("--column", "size", "--column", "Size=$.id"),
        ("--column", "date=$.id"),
        ("--column", "size:BIGINT", "--where", "siz > 1"),
        ("--column", "size:BIGINT", "--where", "size >"),
        ("--column", "size:BIGINT", "--where", "sum(size) > 1"),
        ("--column", "size:BIGINT", "--where", "size > 1) OR (true"),
    ],
)
def test_a_mistake_is_one_line_before_any_hour_is_converted(run: Run, args: tuple[str, ...]) -> None:
    two_hours()
    stderr = convert(run, *args, code=0 if "OR (true" in args[-1] else 2)
    assert len(stderr.splitlines()) == 1
    assert OUT.exists() is ("OR (true" in args[-1])


def test_a_condition_that_fails_on_a_value_ends_the_run(run: Run) -> None:
    two_hours()
    assert len(convert(run, *COLUMNS, "--where", "('x' || id)::INT > 1", code=2).splitlines()) == 1
    assert not [path for path in OUT.rglob("*") if path.is_file()]


def test_a_bz2_dump_is_refused_with_how_to_convert_it(run: Run) -> None:
    two_hours()
    package = DUMP / HOUR / "202611210002.jsonl.bz2"
    package.write_bytes(b"")
    stderr = convert(run, *COLUMNS, code=2)
    assert "bzcat" in stderr and not OUT.exists()
    save("202611210002", file_object(8))
    convert(run, *COLUMNS)
    assert len(rows()) == 5


@pytest.mark.parametrize("folder", ["nope", "empty", "file"])
def test_a_folder_that_is_no_dump_is_refused(run: Run, folder: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("")
    result = run("feed_to_parquet", folder)
    assert (result.code, len(result.stderr.splitlines())) == (2, 1)


def test_a_damaged_minute_costs_its_hour_alone(run: Run) -> None:
    two_hours()
    path = DUMP / HOUR / "202611210000.jsonl.zst"
    good = path.read_bytes()
    path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    stderr = convert(run, *COLUMNS, code=3)
    assert HOUR in stderr and not (OUT / HOUR / "part.parquet").exists() and len(rows(NEXT)) == 1
    path.write_bytes(good)
    convert(run, *COLUMNS)
    assert len(rows()) == 4


def test_what_is_not_a_minute_is_passed_over(run: Run) -> None:
    two_hours()
    for name in (".0a1b.part", "_202611210000.artifacts", "notes.txt"):
        (DUMP / HOUR / name).write_text("{")
    convert(run, *COLUMNS)
    assert len(rows()) == 4


def test_odd_names_of_directories(run: Run) -> None:
    odd = Path("it's [a] *?; {b}")
    save("202611210000", file_object(1), dump=odd)
    for expected in ("1 hour converted", "0 hours converted"):
        result = run("feed_to_parquet", odd, *COLUMNS, "--out", "o'ut [x] *")
        assert result.code == 0 and expected in result.stderr
    assert len(rows(out=Path("o'ut [x] *"))) == 1


def test_a_disk_that_is_full_ends_the_run_with_one_line(tmp_path: Path) -> None:
    save("202611210000", *(file_object(n, noise=str(hash(str(n)))) for n in range(2_000)), dump=tmp_path / "dump")
    save("202611210100", file_object(1), dump=tmp_path / "dump")
    limit = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = Path(__file__).parent.parent / "scripts/feed_to_parquet.py"
    result = subprocess.run(
        [sys.executable, "-c", limit, script, "dump", "--column", "noise"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert not [path for path in (tmp_path / "parquet").rglob("*") if path.is_file()]


def test_a_signal_leaves_complete_files(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    first = save("202611210000", *(file_object(n, noise="x" * 2000) for n in range(4_000)), dump=dump)
    for hour in range(1, 24):
        path = dump / f"date=2026-11-21/hour={hour:02}/20261121{hour:02}00.jsonl.zst"
        path.parent.mkdir(parents=True)
        path.hardlink_to(first)
    process = start("feed_to_parquet", "dump", *COLUMNS, tmp_path=tmp_path)
    while process.poll() is None and not list((tmp_path / "parquet").rglob("part.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # which becomes SIGINT
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 130, stderr
    assert len(stderr.splitlines()) == 1 and "resume with the same command" in stderr
    files = [path for path in (tmp_path / "parquet").rglob("*") if path.is_file()]
    assert 0 < len(files) < 24 and all(pq.read_metadata(path).num_rows == 4_000 for path in files)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Start a Dask scheduler and a worker; yield the scheduler's address."""
    distributed = pytest.importorskip("distributed")
    folder = tmp_path / "cluster"
    folder.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            dashboard_address=":0",
            local_directory=str(folder),
            silence_logs=50,
        ) as running,
    ):
        patch.chdir(folder)
        yield running.scheduler_address


def test_hours_are_converted_on_a_dask_cluster(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    two_hours()
    save("202611210200", b"no JSON")
    args = (*COLUMNS, "--where", "size < 1000 OR size = 1004", "--scheduler", cluster)
    process = start("feed_to_parquet", "dump", *args, tmp_path=tmp_path)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 3, stderr
    assert "matches none of 4 lines" in stderr.splitlines()[0] and "without valid JSON" in stderr
    assert [len(rows(hour)) for hour in (HOUR, NEXT)] == [0, 1]


def test_a_scheduler_that_is_not_there_is_one_line(run: Run) -> None:
    two_hours()
    assert len(convert(run, *COLUMNS, "--scheduler", "nowhere:x", code=2).splitlines()) == 1
