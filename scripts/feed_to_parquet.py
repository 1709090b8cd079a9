#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "duckdb>=2.0,<3",
#     "rich>=14,<16",
#     "typer>=0.27,<0.30",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""How do I query weeks of a feed? Convert the minutes that feed_dump.py saved to Parquet, with the columns you name.

Each hour of DIR becomes OUT/date=YYYY-MM-DD/hour=HH/part.parquet: one dataset for pandas, Dask, DuckDB and Spark. Hours
that are there are skipped; an hour that has gained minutes is converted again. Needs no key and no network.

    uv run scripts/feed_to_parquet.py files --out files-parquet
    uv run scripts/feed_to_parquet.py files --column id --column size:BIGINT --where 'size > 1000000' --out big

A column is NAME:TYPE=PATH. PATH is a JSONPath, id, type, or the path of an attribute, such as pe_info.imphash; it may
be missing if it is NAME. TYPE is VARCHAR (the default), BIGINT, DOUBLE, BOOLEAN, TIMESTAMP (UTC, from UNIX seconds),
JSON, or VARCHAR[] for a list, such as 'hosts:VARCHAR[]=dns_lookups[*].hostname'. A value of another type becomes NULL,
and is counted. Without --column, the columns suit the feed.

Exit codes: 0 complete, 1 failed, 2 wrong usage or condition, 3 incomplete: values or lines left out, 130 interrupted.
"""

# ruff: noqa: S608 - the SQL is made of the user's own columns, condition and file names
from __future__ import annotations

import contextlib
import functools
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

# How the JSON value {v} becomes a value of each type, or NULL. DuckDB's own casts are lenient: 1.5 as BIGINT gives 2.
INTEGER = "CASE WHEN json_type({v}) IN ('UBIGINT', 'BIGINT') THEN TRY_CAST({v} AS BIGINT) END"
TYPES = {
    "VARCHAR": "{v} ->> '$'",
    "BIGINT": INTEGER,
    "DOUBLE": "CASE WHEN json_type({v}) IN ('UBIGINT', 'BIGINT', 'DOUBLE') THEN TRY_CAST({v} AS DOUBLE) END",
    "BOOLEAN": "CASE WHEN json_type({v}) = 'BOOLEAN' THEN TRY_CAST({v} AS BOOLEAN) END",
    "TIMESTAMP": f"TRY(make_timestamp({INTEGER} * 1000000))",  # to_timestamp would return local time
    "JSON": "{v}",
    "VARCHAR[]": "CASE WHEN json_type({v}) = 'ARRAY' THEN {v} ->> {rest} END",
}
STATS = "malicious:BIGINT=last_analysis_stats.malicious last_analysis_date:TIMESTAMP tags:VARCHAR[]"
DEFAULT_COLUMNS = {  # by the type of a feed's objects
    "file": f"id {STATS} first_submission_date:TIMESTAMP md5 sha1 size:BIGINT type_tag meaningful_name",
    "url": f"id {STATS} first_submission_date:TIMESTAMP url=$.context_attributes.url title",
    "domain": f"id {STATS} creation_date:TIMESTAMP registrar",
    "ip_address": f"id {STATS} country asn:BIGINT as_owner",
    "file_behaviour": "id sandbox_name analysis_date:TIMESTAMP hosts:VARCHAR[]=dns_lookups[*].hostname "
    "ips:VARCHAR[]=ip_traffic[*].destination_ip command_executions:VARCHAR[] tags:VARCHAR[]",
}


Column = tuple[str, str, str]  # name, DuckDB's type, JSONPath
Result = tuple[int, int, list[str], list[str]]  # of an hour: lines, rows, columns without a value, what was left out


def parse_columns(texts: list[str]) -> list[Column]:
    """Parse columns given as NAME:TYPE=PATH, where TYPE and PATH may be missing. Raises UsageError."""
    columns: dict[str, Column] = {}
    for text in texts:
        left, _, path = text.partition("=")
        name, _, kind = left.partition(":")
        path = path or name
        if not path.startswith("$"):
            path = f"$.{path}" if path in ("id", "type") else f"$.attributes.{path}"
        kind = kind.upper() or "VARCHAR"
        if kind not in TYPES or ("[*]" in path and kind != "VARCHAR[]"):
            raise UsageError(f"--column {text}: TYPE is one of {', '.join(TYPES)}; a PATH with [*] needs VARCHAR[]")
        if name.lower() in ("", "date", "hour", *columns):  # date and hour are the directories
            raise UsageError(f"--column {text}: expected NAME:TYPE=PATH, with a NAME that is not taken")
        columns[name.lower()] = (name, kind, path)
    return list(columns.values())


def quote(text: object) -> str:
    """Return an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def quote_all(values: Iterable[object]) -> str:
    """Return an SQL list of strings."""
    return f"[{', '.join(map(quote, values))}]"


def lines_sql(minutes: list[Path]) -> str:
    """Return the SQL of a table of all lines in minutes, in one column: json, NULL for a line that is not JSON."""
    # DuckDB would guess compression and partitioning from the path, where a `?` or a `=` misleads it.
    options = "compression = 'zstd', hive_partitioning = false, ignore_errors = true"
    return f"read_ndjson_objects({quote_all(minutes)}, {options})"


def create_views(db: Any, columns: list[Column], where: str, minutes: list[Path]) -> None:
    """Create the views `rows` (the columns) and `counts` (of lines, and of those that are JSON; a list of the number of
    values in each column; a list of the number of misfits in each)."""
    bases, values, found, misfits = [], [], [], []
    for at, (name, kind, path) in enumerate(columns, 1):
        base, _, rest = path.partition("[*]")
        v, name = f"v[{at}]", name.replace('"', '""')
        value = TYPES[kind].format(v=v, rest=quote(f"$[*]{rest}"))
        bases.append(base)
        values.append(f'{value} AS "{name}"')
        found.append(f"count_if({f'len({value}) > 0' if kind == 'VARCHAR[]' else f'({value}) IS NOT NULL'})")
        misfits.append(f"count_if(json_type({v}) <> 'NULL' AND ({value}) IS NULL)")
    # One call finds all paths while it parses a line once: 14 times faster than a call for each.
    db.execute(f"CREATE VIEW lines AS SELECT json_extract(json, {quote_all(bases)}) AS v FROM {lines_sql(minutes)}")
    counts = f"count(*), count(v), [{', '.join(found)}], [{', '.join(misfits)}]"
    db.execute(f"CREATE VIEW counts AS SELECT {counts} FROM lines")
    rows = f"SELECT {', '.join(values)} FROM lines WHERE v IS NOT NULL"
    db.execute(f"CREATE VIEW rows AS SELECT * FROM ({rows}) WHERE ({where or True}\n)")


def find_hours(folder: Path) -> dict[str, list[Path]]:
    """Return the minutes of each hour of a dump, by "date=YYYY-MM-DD/hour=HH". Raises UsageError."""
    minutes = {path.stem: path for path in find_minutes(folder)}  # zst replaces bz2
    if any(path.suffix == ".bz2" for path in minutes.values()):
        loop = f'for f in {shlex.quote(str(folder))}/date=*/hour=*/*.bz2; do bzcat "$f" | zstd -o "${{f%bz2}}zst"; done'
        raise UsageError(f"DuckDB does not read the bz2 packages in {folder}; convert them: {loop}")
    hours: dict[str, list[Path]] = {}
    for path in minutes.values():
        hours.setdefault(path.parent.relative_to(folder).as_posix(), []).append(path)
    return hours


def default_columns(minute: Path) -> list[str]:
    """Return the columns for the objects in a minute. Raises UsageError if its first object is not a feed's."""
    import duckdb

    with duckdb.connect() as db, contextlib.suppress(duckdb.Error):
        query = f"SELECT json ->> '$.type' FROM {lines_sql([minute])} WHERE json IS NOT NULL LIMIT 1"
        found = db.execute(query).fetchone()
        if found and found[0] in DEFAULT_COLUMNS:
            return DEFAULT_COLUMNS[found[0]].split()
    raise UsageError(f"{minute} does not start with an object of a feed: name the columns with --column")


def choose_hours(hours: dict[str, list[Path]], out: Path, columns: list[str], where: str) -> dict[str, list[Path]]:
    """Return the hours that `out` lacks, in part or whole. Raises UsageError if it was made with other columns."""
    import duckdb

    if not (files := list(out.glob("date=*/hour=*/part.parquet"))):
        return hours
    with duckdb.connect() as db:
        query = f"SELECT decode(value) FROM parquet_kv_metadata({quote_all(files)}) WHERE key = 'feed_to_parquet'"
        settings = [json.loads(value) for (value,) in db.execute(query).fetchall()]
    for made in settings:
        if (made["columns"], made["where"]) != (columns, where):
            options = [f"--column={text}" for text in made["columns"]]
            options += [f"--where={made['where']}"] if made["where"] else []
            raise UsageError(f"{out} was made with {shlex.join(options)}: repeat that, or name another --out")
    done = {minute for made in settings for minute in made["minutes"]}
    return {hour: paths for hour, paths in hours.items() if not {path.name[:12] for path in paths} <= done}


def convert_hour(minutes: list[Path], target: Path, columns: list[str], where: str = "", threads: int = 0) -> Result:
    """Convert the minutes of an hour to one Parquet file, with `threads` of this process (0: one for each core).

    Raises OSError, and duckdb.Error if a path or the condition is wrong, or the file cannot be written.
    """
    import duckdb

    settings = {"columns": columns, "where": where, "minutes": [path.name[:12] for path in minutes]}
    options = f"FORMAT parquet, COMPRESSION zstd, KV_METADATA {{feed_to_parquet: {quote(json.dumps(settings))}}}"
    parsed = parse_columns(columns)
    with duckdb.connect(config={"threads": threads} if threads else {}) as db:
        create_views(db, parsed, where, minutes)
        try:
            lines, good, found, misfits = db.execute("FROM counts").fetchone()
        except duckdb.Error as error:
            return 0, 0, [], [f"damaged: {error}"]
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as part:
            (rows,) = db.execute(f"COPY (FROM rows) TO {quote(part)} ({options})").fetchone()
    problems = [f"{plural(lines - good, 'line')} without valid JSON left out"] if lines > good else []
    problems += [f"{plural(n, 'value')} of another type in {c[0]}" for c, n in zip(parsed, misfits, strict=True) if n]
    empty = [c[0] for c, values, others in zip(parsed, found, misfits, strict=True) if not (values or others)]
    return lines, rows, empty, problems


def convert(
    hours: dict[str, list[Path]], out: Path, columns: list[str], where: str = "", scheduler: str = ""
) -> Iterator[tuple[str, Result]]:
    """Convert each hour, and yield it with its result; the first one before the second is started.

    Raises UsageError if DuckDB does not accept a path or the condition, and OSError.
    """
    import duckdb

    work = functools.partial(convert_hour, columns=columns, where=where, threads=1 if scheduler else 0)
    names, targets = list(hours), [out / hour / "part.parquet" for hour in hours]
    try:
        with connect_to_dask(scheduler) if scheduler else contextlib.nullcontext() as cluster:
            run = cluster.get_executor(pure=False).map if cluster else map  # its submit may hang if a worker dies
            for part in (slice(1), slice(1, None)):
                results = run(work, list(hours.values())[part], targets[part])
                yield from zip(names[part], results, strict=True)
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException):
            raise OSError(str(error)) from None
        message = str(error).partition("\n\nLINE")[0].replace("\n", " ")  # the rest is an excerpt of SQL
        raise UsageError(f"--column or --where: {message}") from None
    except RuntimeError as error:  # what DuckDB makes of Ctrl-C
        raise KeyboardInterrupt from error
    except Exception as error:  # Dask's, such as KilledWorker
        if not scheduler or isinstance(error, OSError | UsageError):
            raise
        raise OSError(f"the Dask cluster failed ({type(error).__name__})") from None


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made by feed_dump.py.", exists=True, file_okay=False)],
    column: Annotated[list[str] | None, typer.Option(help="NAME:TYPE=PATH; repeatable.")] = None,
    where: Annotated[str, typer.Option(help="Only rows that meet this SQL condition on the columns.")] = "",
    out: Annotated[Path, typer.Option(help="The directory for the Parquet files.")] = Path("parquet"),
    scheduler: Annotated[str, typer.Option(help="A Dask scheduler, such as tcp://host:8786.")] = "",
) -> int:
    """Convert the hours that OUT lacks."""
    from rich.console import Console
    from rich.progress import track

    hours, out, console = find_hours(folder.resolve()), out.resolve(), Console(stderr=True)
    columns = column or default_columns(next(iter(hours.values()))[0])
    parse_columns(columns)
    todo = choose_hours(hours, out, columns, where)
    results, counts = convert(todo, out, columns, where, scheduler), Counter[str]()
    error: BaseException | None = None
    try:
        for hour, result in track(results, "hours", len(todo), console=console, disable=not console.is_terminal):
            lines, rows, empty, problems = result
            for problem in problems:
                log(f"{hour}: {problem}")
            if lines and not counts["hours"]:  # a mistake shows in the first hour
                if empty:
                    log(f"{hour}: none of {plural(lines, 'line')} has a value for --column {', '.join(empty)}")
                if where and not rows:
                    log(f"{hour}: the condition matches none of {plural(lines, 'line')}")
            counts.update(hours=int(lines > 0), lines=lines, rows=rows, problems=len(problems))
    except (KeyboardInterrupt, OSError) as stopped:
        error = stopped
    done = f"{plural(counts['hours'], 'hour')} converted ({plural(counts['lines'], 'line')}, "
    done += f"{plural(counts['rows'], 'row')}), {len(hours) - len(todo)} already there"
    if error:
        return print_summary(done, error=error, resume="the same command")
    return print_summary(done, error="see above" if counts["problems"] else None)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import asyncio
import difflib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class UsageError(ValueError):
    """A mistake in an argument, the API key or the query; the message says what to do about it."""

    exit_code = 2


def printable(text: object) -> str:
    """Return `text` on one line, with control characters, bidi marks and lone surrogates escaped.

    VirusTotal's strings come from malware authors. `str.isprintable` is False for exactly those characters.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log(message: object) -> None:
    """Print one line on stderr; stdout carries data only."""
    print(printable(message), file=sys.stderr, flush=True)


def plural(count: int, noun: str, total: int | None = None) -> str:
    """Return "1 match" or "2 matches", with a `total` "1 of 6 matches"."""
    named = count if total is None else total
    nouns = noun if named == 1 else f"{noun}{'es' if noun.endswith(('ch', 's', 'x')) else 's'}"
    return f"{count} {nouns}" if total is None else f"{count} of {total} {nouns}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds. Raises OSError."""
    part = path.resolve().with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


def print_summary(
    done: str,
    requests: int | None = None,
    *,
    error: BaseException | str | None = None,
    cursor: str | None = None,
    resume: str = "",
    more: bool = False,
) -> int:
    """Print the last line and return the exit code.

    The line says what was `done`, how many requests it took, whether it is complete, and how to resume: at `cursor`, or
    with the option or the command `resume`. A `cursor` or `more` says that a --limit ended the work.
    `error` is what ended the work early (an exception), or what is missing (a sentence).
    """
    spent = done if requests is None else f"{done}, {plural(requests, 'request')}"
    resume = f"--cursor {shlex.quote(cursor)}" if cursor else resume
    if error is None:
        rest = f"; there is more: --limit 0 for all, or continue with {resume}"
        log(spent + (rest if cursor or more else ", complete"))
        return 0
    reason = str(error) or "interrupted"
    log(f"INCOMPLETE: {spent}; {reason}" + (f"; resume with {resume}" if resume else ""))
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return 130
    if isinstance(error, OSError):
        return 1
    return 4 if getattr(error, "exit_code", 3) == 4 else 3


def cli(main: Callable[..., Any] | typer.Typer, argv: list[str] | None = None) -> int:
    """Run `main`, a function or an app of commands, and return its exit code. Either may return a coroutine.

    The docstring of its file is the help. An expected error is one line on stderr. A pipe that its reader closed ends
    the script quietly.
    """
    if isinstance(main, typer.Typer):
        app = main
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(help=main.__globals__["__doc__"])(main)
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        command = typer.main.get_command(app)
        command.help = re.sub("\n\n(?= )", "\n\n\b\n", command.help or "")  # \b keeps the lines of an example
        command.context_settings["help_option_names"] = ["-h", "--help"]
        # command.main() would end the process itself at a closed pipe.
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:] if argv is None else argv) as context:
            result = command.invoke(context)
            code = asyncio.run(result) if asyncio.iscoroutine(result) else result
        sys.stdout.flush()
        return code or 0
    except typer.Exit as ended:  # --help
        return ended.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        return 0
    except (KeyboardInterrupt, typer.Abort):
        log("interrupted")
        return 130
    except typer.TyperException as error:
        log(f"error: {usage_hint(error.format_message())} (see --help)")
        return 2
    except Exception as error:
        if not isinstance(error, OSError) and not hasattr(error, "exit_code"):
            raise
        log(f"error: {error}")
        return getattr(error, "exit_code", 1)


def run_script(main: Callable[..., Any] | typer.Typer) -> NoReturn:
    """Run `main` as a program. SIGTERM stops it as Ctrl-C does, also where a shell script's & has it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(cli(main))


def usage_hint(message: str) -> str:
    """Return typer's message on one line, with a near miss or a forgotten quote pointed out."""
    message = " ".join(message.replace("Value error, ", "").split())
    if " is not one of " in message:
        value, *choices = re.findall("'([^']*)'", message.partition(": ")[2])
        near = difflib.get_close_matches(value, choices, n=1)
        return f"{message} Did you mean {near[0]}?" if near else message
    return f"{message}: quote an argument that contains spaces" if "unexpected extra argument" in message else message


def find_minutes(folder: Path) -> list[Path]:
    """Return the files of a dump by feed_dump.py, oldest first. Raises UsageError if there are none."""
    if minutes := sorted(folder.glob("date=*/hour=*/[0-9]*.jsonl.*")):
        return minutes
    raise UsageError(f"{folder} holds no minutes of a feed: expected date=*/hour=*/*.jsonl.zst")


def connect_to_dask(scheduler: str) -> Any:
    """Return a client of a Dask scheduler. Raises UsageError."""
    try:
        import distributed

        for logger in ("distributed", "distributed.client", "tornado.application"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)  # they log tracebacks when a scheduler dies
        return distributed.Client(scheduler, timeout=10)
    except ImportError:
        raise UsageError("--scheduler needs Dask: start with `uv run --with 'dask[distributed]'`") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--scheduler {scheduler}: {error}") from None


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
