#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jsonpath-ng>=1.16,<2",
#     "pandas>=3,<4",
#     "pyarrow>=21,<27",
#     "rich>=14,<16",
#     "sqlalchemy>=2,<3",
#     "sqlite-utils>=4.2,<5",
#     "typer>=0.27,<0.30",
#     "xlsxwriter>=3.2,<4",
#     "zstandard>=0.24,<0.26",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Which objects are these? Print VirusTotal objects as a table, or write them to files and databases.

Reads what the other scripts print, feeds (.bz2 and .zst too), the output of `vt --format json`, and responses that curl
saved. Needs no key and no network. A database gains the objects that it lacks, and updates the others.

    uv run scripts/search.py 'entity:file p:5+' | uv run scripts/objects_to_table.py -o files.xlsx -o files.db
    uv run scripts/objects_to_table.py hits.jsonl --column id --column imphash=pe_info.imphash

Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete (lines that are not JSON objects), 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd


def objects_to_dataframe(objects: Iterable[dict[str, Any]], column: Iterable[str] = ()) -> pd.DataFrame:
    """Return a table of VirusTotal objects, one row each, with all their values or those that `column` names.

    `column` is as on the command line: ["id", "imphash=pe_info.imphash"]. Raises UsageError.
    """
    frame = to_frame(list(objects), parse_columns(as_list("column", column)))
    frame.attrs = {"complete": True, "error": None, "cursor": None, "requests": 0}
    return frame


def main(
    files: Annotated[list[str] | None, typer.Argument(help="[default: stdin]", show_default=False)] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="NAME=JSONPATH, or a column's name such as pe_info.imphash; repeatable.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", help=f"A file ({' '.join(SUFFIXES)}) or a database URL; repeatable."),
    ] = None,
    style: Annotated[
        TableFormat | None, typer.Option("--format", help="[default: table, unless there is an --output]")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not escape formulas and control characters.")] = False,
) -> int:
    """Read the files, print or write the table."""
    columns, outputs = parse_columns(column or []), output or []
    check_outputs(outputs)
    objects, wrong = read_objects(files or ["-"])
    error = write_table(objects, columns, outputs, style, raw=raw)
    skipped = f"{plural(wrong, 'line')} skipped: not JSON objects" if wrong else None
    return print_summary(plural(len(objects), "object"), error=error or skipped)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import asyncio
import bz2
import contextlib
import csv
import difflib
import functools
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal, NoReturn, TextIO


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


def as_list(name: str, values: Iterable[str] | None) -> list[str]:
    """Return `values` as a list. Raises TypeError for a string, which would be taken for a list of its characters."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list of strings: [{values!r}], not {values!r}")
    return list(values or [])


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds. Raises OSError."""
    part = path.resolve().with_name(f".{os.urandom(6).hex()}.part")
    try:
        yield part
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


class Format(StrEnum):
    """What a source prints: a short line per object for people, or the object as JSON for programs."""

    text = "text"
    jsonl = "jsonl"


def describe(item: dict[str, Any]) -> str:
    """Return an object as one line for a terminal: id (a URL's address), detections, name."""
    attributes, context = item.get("attributes") or {}, item.get("context_attributes") or {}
    stats = attributes.get("last_analysis_stats") or {}
    names = [attributes.get(key) for key in ("meaningful_name", "name", "title", "as_owner", "registrar", "status")]
    error = item.get("error") or {}
    url = context.get("url") or attributes.get("url")  # a search has answered a list of one
    parts = [
        (url[0] if isinstance(url, list) else url) or item.get("id"),
        f"{stats.get('malicious', 0)}/{sum(stats.values())}" if stats else "",
        context.get("rule_name") or (context.get("hunting_info") or {}).get("rule_name"),
        next(filter(None, names), ""),
        f"{error.get('code')}: {error.get('message')}" if error else "",
    ]
    return printable("  ".join(str(part) for part in parts if part))


def write_objects(objects: Iterable[dict[str, Any]], file: TextIO, style: Format | None = None) -> None:
    """Write one line for each object, and flush. Without `style`, a terminal gets text and everything else JSON.

    The JSON is ASCII, which neutralises terminal escapes and keeps lone surrogates.
    """
    as_text = style is Format.text or (style is None and file.isatty())
    for item in objects:
        file.write(f"{describe(item) if as_text else json.dumps(item)}\n")
    file.flush()


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


def read_content(name: str) -> str:
    """Return the text of a file ("-": stdin), which may be compressed. Raises OSError and UsageError."""
    if name == "-" and sys.stdin.isatty():
        raise UsageError("name a file, or pipe objects into this script")
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        if data.startswith(b"BZh"):
            data = bz2.decompress(data)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            import zstandard

            data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    except Exception as error:  # a damaged file
        raise UsageError(f"{name}: {error}") from None
    return data.decode(json.detect_encoding(data), errors="replace")  # PowerShell writes UTF-16


def parse_json(text: str) -> Iterator[Any]:
    """Yield the JSON values in a text, one after another, as in JSON Lines; None for each line that is not JSON."""
    decoder, position = json.JSONDecoder(), 0
    while match := re.compile(r"\s*(?=\S)").match(text, position):
        try:
            value, position = decoder.raw_decode(text, match.end())
            yield value
        except (ValueError, RecursionError):
            position = (text.find("\n", match.end()) + 1) or len(text)
            yield None


def unwrap(value: Any) -> Iterator[dict[str, Any] | None]:
    """Yield the objects in a JSON value: one, a list, or a response of the API. Yield None for anything else."""
    if isinstance(value, dict) and "data" in value and value.keys() <= {"data", "meta", "links"}:
        value = value["data"] or []
    for item in value if isinstance(value, list) else [value]:
        yield from_vt_cli(item) if isinstance(item, dict) else None


def from_vt_cli(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object of vt-cli's in VirusTotal's form. It has `_id`, `_type` and so on beside the attributes."""
    if "_id" not in item:
        return item
    attributes = {key: value for key, value in item.items() if not key.startswith("_")}
    return {key[1:]: value for key, value in item.items() if key.startswith("_")} | {"attributes": attributes}


def read_objects(names: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    """Return the objects in files, and how many lines or items are not objects. Raises OSError and UsageError."""
    items = [item for name in names for value in parse_json(read_content(name)) for item in unwrap(value)]
    objects = [item for item in items if item is not None]
    if items and not objects:
        raise UsageError(f"no JSON objects in {', '.join(names)}")
    return objects, len(items) - len(objects)


class dictpath:  # noqa: N801 - reads like the module of that name in vt-py's examples
    """JSONPath look-ups in plain dicts, with jsonpath-ng's extensions: `$.attributes.exiftool.'File Type'`.

    An absent key is no match; a null is a match whose value is None.
    """

    @staticmethod
    @functools.cache
    def parse(path: str) -> Any:
        """Return the parsed path. Raises UsageError, a ValueError."""
        from jsonpath_ng.ext import parse

        try:
            return parse(path)
        except Exception as error:  # the parser has no common class of errors
            raise UsageError(f"bad JSONPath {path!r}: {error}") from None

    @staticmethod
    def iterate(obj: Any, path: str) -> Iterator[Any]:
        """Yield each value that `path` matches in `obj`, in document order. Raises UsageError for a bad path."""
        parsed = dictpath.parse(path)
        try:
            yield from [match.value for match in parsed.find(obj)]
        except Exception:  # a filter or function met a value of another type, such as null > 5: no match
            return

    @staticmethod
    def get_all(obj: Any, path: str) -> list[Any]:
        """Return every value that `path` matches in `obj`."""
        return list(dictpath.iterate(obj, path))

    @staticmethod
    def get(obj: Any, path: str, default: Any = None) -> Any:
        """Return the value that `path` matches in `obj`, else `default`. Raises ValueError for several matches."""
        matches = dictpath.get_all(obj, path)
        if len(matches) > 1:
            raise ValueError(f"{len(matches)} values match {path!r}: use get_all")
        return matches[0] if matches else default


TableFormat = Literal["table", "csv", "jsonl", "markdown"]  # what stdout gets

SUFFIXES = (".csv", ".jsonl", ".md", ".parquet", ".xlsx", ".db", ".sqlite")

KEYS = ["id", "rule_name", "notification_id"]  # tell a database's rows apart

MAX_CELL_CHARS = 32_767  # Excel's limit

# The first columns of every table, most useful first. The others follow in alphabetical order.
USEFUL = [
    "id", "url", "value", "lookup", "type", "error.code", "rule_name", "last_analysis_stats.malicious",
    "gti_assessment.verdict.value", "gti_assessment.threat_score.value", "meaningful_name", "name", "title",
    "popular_threat_classification.suggested_threat_label", "type_description", "size", "registrar", "country", "asn",
    "as_owner", "last_http_response_code", "first_submission_date", "last_submission_date", "creation_date",
    "last_modification_date", "notification_date", "tags",
]  # fmt: skip

# Dicts with arbitrary keys are one cell each; as columns they would be thousands.
ARBITRARY = {
    "categories", "exiftool", "extensions", "file_types", "html_meta", "intent_filters", "last_analysis_results",
    "last_http_response_cookies", "last_http_response_headers", "malware_config", "packers", "permission_details",
    "popularity_ranks", "rdap", "resource_langs", "resource_types", "sandbox_verdicts", "sigma_analysis_summary",
    "trackers",
}  # fmt: skip


def parse_columns(specs: Iterable[str]) -> dict[str, str]:
    """Return `--column` arguments, `NAME=PATH` or `PATH`, as {name: path}. Raises UsageError.

    A path is a JSONPath in the object (`$.attributes.tags[*]`), or the name of a column, such as pe_info.imphash.
    """
    columns: dict[str, str] = {}
    for spec in specs:
        named = re.fullmatch(r"([^$=\[]+)=(.+)", spec, flags=re.DOTALL)
        name, path = named.groups() if named else (spec, spec)
        if not path.startswith("$"):  # some keys contain spaces and hyphens
            path = re.sub(r"(^|\.)([^.\[\]*'\"]+)(?=$|[.\[])", r"\1'\2'", path)
        if name in columns:
            raise UsageError(f"--column {spec}: there is a column {name} already; NAME=PATH gives it another name")
        dictpath.parse(path)
        columns[name] = path
    return columns


def fields(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object's values by column: its attributes, the context that identifies it, and what else it holds."""
    parts = [item.get("attributes"), item.get("context_attributes")]
    attributes, context = [part if isinstance(part, dict) else {} for part in parts]
    unused = ("attributes", "links", "relationships") if "id" in item else ("attributes",)
    hoisted = {"url", "rule_name", "notification_id", "notification_date"} - attributes.keys()
    rest = {key: value for key, value in item.items() if key not in unused}
    rest |= {key: value for key, value in context.items() if key in hoisted}
    rest["context_attributes"] = {key: value for key, value in context.items() if key not in hoisted}
    clashing = {key: value for key, value in attributes.items() if key in rest and value != rest[key]}
    return attributes | rest | {"attributes": clashing}  # an attribute may be called `type`


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for every value below dicts whose keys are known."""
    for key, inner in value.items():
        if isinstance(inner, dict) and key not in ARBITRARY:
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def to_frame(objects: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Return the objects as a table, one row each, with these `columns` (see parse_columns) or, if empty, with all.

    Dates are UTC timestamps, integers stay integers where some are missing, lists stay lists. Mixed values are text.
    """
    import pandas as pd

    objects = make_storable(objects)
    if columns:
        return pd.DataFrame({name: find_column(objects, name, path) for name, path in columns.items()})
    rows = [dict(flatten(fields(item))) for item in objects] or [{"id": None, "type": None}]
    names = set().union(*rows)
    ordered = [*(name for name in USEFUL if name in names), *sorted(names.difference(USEFUL))]
    return pd.DataFrame({name: to_series([row.get(name) for row in rows], name) for name in ordered})[: len(objects)]


def make_storable(value: Any) -> Any:
    """Return a JSON value as pandas and Arrow can hold it: lone surrogates become U+FFFD, huge numbers text."""
    text = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(value, ensure_ascii=False))
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 19 else digits, parse_constant=str)


def find_column(objects: list[dict[str, Any]], name: str, path: str) -> pd.Series[Any]:
    """Return what `path` matches in each object: a value, or lists if several match in any object."""
    found = [dictpath.get_all(item if path.startswith("$") else fields(item), path) for item in objects]
    if objects and not any(found):
        log(f"--column {name}: no object has a value there")
    if any(len(values) > 1 for values in found):
        return to_series([values or None for values in found], "")
    return to_series([next(iter(values), None) for values in found], path)


def to_series(values: list[Any], name: str) -> pd.Series[Any]:
    """Return the values as a column of one type: theirs, or text if they have several."""
    import pandas as pd

    if re.search(r"(_date|\b(date|last_login|user_since))'?$", name):  # vt-py's rule
        values = [to_date(value) for value in values]
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        values, kinds = [None if value is None else to_text(value) for value in values], {str}
    dtypes = {float: "Float64", int: "Int64", bool: "boolean", str: "str", datetime: "datetime64[us, UTC]"}
    return pd.Series(values, dtype=next((dtype for kind, dtype in dtypes.items() if kind in kinds), "object"))


def to_date(value: Any) -> Any:
    """Return UNIX seconds as a datetime. Dates that are text or past the year 9999 stay as they are."""
    valid = type(value) is int and 0 <= value < 253_402_300_800
    return datetime.fromtimestamp(value, UTC) if valid else value


def to_text(value: Any) -> str:
    """Return text as it is, a date as ISO 8601, everything else as JSON."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- A table to text. Its strings come from malware authors.


def to_rows(frame: pd.DataFrame, date_format: str = "%Y-%m-%dT%H:%M:%SZ") -> list[list[Any]]:
    """Return the column names, then each row, as plain Python values: dates as text, None where a value is missing."""
    dates = {name: frame[name].dt.strftime(date_format) for name in frame.select_dtypes("datetimetz")}
    values = frame.assign(**dates).astype(object)
    return [list(frame), *values.where(values.notna(), None).to_numpy().tolist()]


def to_cell(value: Any, raw: bool = False) -> Any:
    """Return numbers and dates as they are; text, lists and dicts as text that is harmless in a spreadsheet."""
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    text = to_text(value)
    return shorten(text if raw else escape_formula(printable(text)), MAX_CELL_CHARS)


def escape_formula(text: str) -> str:
    """Return text with a ' before what could begin a formula: https://owasp.org/www-community/attacks/CSV_Injection."""
    # Some locales start a cell at a semicolon, or accept full-width signs.
    return re.sub(r"(^|;)(?=[\s\"']*[=+\-@＝＋－＠])", r"\1'", text)


def escape_markdown(value: Any) -> str:
    """Return a value on one line, without markup or links."""
    text = "" if value is None else str(to_cell(value))
    return re.sub(r"([\\`*_\[\]<>|&~$#@]|:(?=//)|(?<=www)\.)", r"\\\1", text, flags=re.IGNORECASE)


def shorten(text: str, most: int) -> str:
    """Return the text, or as much of it as `most` characters hold, and its length."""
    return text if len(text) <= most else f"{text[: most - 40]} [cut: {len(text)} characters]"


def format_frame(frame: pd.DataFrame, style: str, *, raw: bool = False) -> str:
    """Return the table as csv, jsonl or markdown. Cells of csv are safe for spreadsheets unless `raw`."""
    rows = to_rows(frame)
    if style == "jsonl":
        items = [{k: v for k, v in zip(frame, row, strict=True) if v is not None} for row in rows[1:]]
        return "".join(f"{json.dumps(item)}\n" for item in items)
    if style == "markdown":
        cells = [[escape_markdown(value) for value in row] for row in rows]
        return "".join(f"| {' | '.join(row)} |\n" for row in (cells[0], ["---"] * len(cells[0]), *cells[1:]))
    text = io.StringIO()
    # QUOTE_MINIMAL leaves a carriage return unquoted.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if raw else csv.QUOTE_MINIMAL)
    writer.writerows([to_cell(value, raw) for value in row] for row in rows)
    return text.getvalue()


def select_useful(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what people look at first: the useful columns that have values, under short names."""
    names = [name for name in frame if name in USEFUL and frame[name].notna().any()]
    if "type" in names and frame["type"].nunique() == 1:
        names.remove("type")
    frame = frame[names] if len(names) > 2 else frame.dropna(axis="columns", how="all")
    if {"id", "url"} <= set(frame):  # a URL says more than its hash
        frame = frame.assign(url=frame["url"].astype(object).fillna(frame["id"])).drop(columns="id")
    return frame.rename(columns=lambda name: name.removesuffix(".value").rpartition(".")[2].removeprefix("last_http_"))


def format_columns(frame: pd.DataFrame) -> str:
    """Return one line for each row. A terminal gets the columns that fit, a pipe all columns in full."""
    from rich.cells import cell_len, set_cell_size

    def fit(text: str, width: int) -> str:
        return set_cell_size(text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…", width)

    rows = to_rows(frame, "%Y-%m-%d %H:%M") if len(frame) else []
    cells = [[show(value) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        widths = fit_widths(widths, shutil.get_terminal_size().columns)
    return "".join(f"{'  '.join(map(fit, row, widths)).rstrip()}\n" for row in cells)


def show(value: Any) -> str:
    """Return a value on one line, a list with commas."""
    parts = value if isinstance(value, list) else [] if value is None else [value]
    return printable(shorten(", ".join(map(to_text, parts)), 4_000))


def fit_widths(widths: list[int], room: int) -> list[int]:
    """Return the widths of the first columns that fit in `room`. The widest give way, but keep 16, for a date.

    The first column keeps 32, for a URL's host, or from 100 characters on 64, so that ids can be copied.
    """
    for most in range(room, 15, -1):
        first = max(most, 64 if room >= 100 else 32)
        fitted = [min(width, most if number else first) for number, width in enumerate(widths)]
        if sum(fitted) + 2 * len(fitted) - 2 <= room:
            return fitted
    return fit_widths(widths[:-1], room) if widths[1:] else [room]


def count_values(frame: pd.DataFrame, names: Iterable[str]) -> str:
    """Return a line with the five most frequent values of each of these columns, if any value repeats."""
    lines = [""]
    for name in [name for name in names if name in frame]:
        values = [part for cell in frame[name].dropna() for part in (cell if isinstance(cell, list) else [cell])]
        counts = Counter(str(value) for value in values if not isinstance(value, dict | list)).most_common()
        if counts and counts[0][1] > 1:
            top = ", ".join(f"{shorten(value, 100)} {count}" for value, count in counts[:5])
            lines.append(printable(f"{name}: {top}" + (f", {len(counts) - 5} more" if counts[5:] else "")))
    return "\n".join([*lines, ""]) if lines[1:] else ""


# ---- A table to files and databases


def check_outputs(outputs: Iterable[str], *, resuming: bool = False) -> None:
    """Raise UsageError for what would fail later, or overwrite the part before a cursor when `resuming`."""
    for output in outputs:
        path, suffix = Path(output), Path(output).suffix.lower()
        if "://" in output:
            connect(output)
        elif suffix not in SUFFIXES:
            raise UsageError(f"--output {output}: expected a database URL or a file in {' '.join(SUFFIXES)}")
        elif path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"--output {output}: this is a folder, or its folder cannot be written to")
        elif resuming and path.exists() and suffix not in (".db", ".sqlite"):
            raise UsageError(f"--output {output} holds the part before --cursor: name another file")


def connect(url: str) -> Any:
    """Return a SQLAlchemy engine that has reached the database. Raises UsageError."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise UsageError(f"--output {explain(url, error)} (`uv run --with DRIVER …` adds a driver)") from None
    return engine


def explain(output: str, error: BaseException) -> str:
    """Return the first line of what a library says about an output, without the password of a database."""
    return f"{re.sub('//.*@', '//…@', output)}: {str(error).partition(chr(10))[0] or type(error).__name__}"


def write_table(
    objects: list[dict[str, Any]],
    columns: dict[str, str],
    outputs: list[str],
    style: TableFormat | None = None,
    *,
    raw: bool = False,
    counted: Iterable[str] = (),
) -> BaseException | None:
    """Write the objects as a table to each output, and to stdout if there is a `style` or no output. Return the error.

    The values of the columns `counted` are counted below a table on stdout.
    """
    try:
        frame = to_frame(objects, columns)
        for output in outputs:
            write_output(frame, objects, output, raw=raw)
        if style == "table" or not (style or outputs):
            shown = frame if columns else select_useful(frame)
            print(format_columns(shown), count_values(frame, counted), sep="", end="", flush=True)
        elif style:
            print(format_frame(frame, style, raw=raw and not sys.stdout.isatty()), end="", flush=True)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return save_objects(objects, error)
    return None


def save_objects(objects: list[dict[str, Any]], error: BaseException) -> BaseException:
    """Save objects, which have cost quota, in a temporary file. Return the error, with the name of that file."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # Python flushes once more at exit, to a full disk
    descriptor, name = tempfile.mkstemp(prefix="vt-", suffix=".jsonl")
    with open(descriptor, "w", encoding="utf-8") as file:
        write_objects(objects, file, Format.jsonl)
    kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
    return kind(f"{str(error) or 'interrupted'}; the objects are saved in {name}")


def write_output(frame: pd.DataFrame, objects: list[dict[str, Any]], output: str, *, raw: bool = False) -> None:
    """Write a file in the format of its suffix, or add to a database. Raises OSError for whatever goes wrong."""
    suffix = Path(output).suffix.lower()
    try:
        if "://" in output:
            append_to_server(frame, objects, output)
        elif suffix in (".db", ".sqlite"):
            update_sqlite(frame, objects, output)
        else:
            with atomic_write(Path(output)) as part:
                part.write_bytes(make_file(frame, suffix, raw=raw))
    except Exception as error:  # whatever a library, a database or the disk says
        raise OSError(f"cannot write {explain(output, error)}") from error


def make_file(frame: pd.DataFrame, suffix: str, *, raw: bool) -> bytes:
    """Return the content of a file with this suffix."""
    if suffix == ".parquet":
        return make_parquet(frame)
    if suffix == ".xlsx":
        return make_xlsx(frame, raw=raw)
    return format_frame(frame, "markdown" if suffix == ".md" else suffix[1:], raw=raw).encode()


def make_parquet(frame: pd.DataFrame) -> bytes:
    """Return Parquet. Lists of strings stay lists; other lists, and dicts, become JSON."""
    frame = frame.copy()
    for name in frame.select_dtypes("object", exclude="str"):
        lists = [cell if isinstance(cell, list) else [cell] for cell in frame[name].dropna()]
        if not all(isinstance(part, str) for parts in lists for part in parts):
            frame[name] = frame[name].map(to_text, na_action="ignore")
    return bytes(frame.to_parquet(index=False))


def make_xlsx(frame: pd.DataFrame, *, raw: bool) -> bytes:
    """Return an Excel workbook without formulas and links. Its times are UTC. Raises ValueError for a large table."""
    import pandas as pd

    dates = {name: frame[name].dt.tz_localize(None) for name in frame.select_dtypes("datetimetz")}
    cells = frame.assign(**dates).map(to_cell, na_action="ignore", raw=raw).rename(columns=to_cell)
    content = io.BytesIO()  # on a full disk, zipfile prints a second error
    options = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
    with pd.ExcelWriter(content, engine="xlsxwriter", engine_kwargs=options) as book:
        cells.to_excel(book, index=False, freeze_panes=(1, 1), autofilter=True)
        book.sheets["Sheet1"].set_column(0, len(cells.columns), 20)  # wide enough for a date
    return content.getvalue()


def split_by_type(frame: pd.DataFrame, objects: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], pd.DataFrame]]:
    """Yield a database's tables: type, key columns, rows. The keys are there whatever columns were chosen."""
    import pandas as pd

    values = make_storable([{"id": item.get("value")} | fields(item) for item in objects])  # an indicator has no id
    keys = pd.DataFrame([[str(value.get(name) or "") for name in KEYS] for value in values], columns=KEYS)
    if not all(keys["id"]):
        raise ValueError("a row has no id, by which databases tell rows apart; .csv and .parquet need none")
    types = pd.Series([str(value.get("type") or "object") for value in values], dtype="str")
    for kind, part in keys.join(frame.drop(columns=KEYS, errors="ignore")).groupby(types, sort=False):
        primary = [name for name in KEYS if any(part[name])]
        part = part.drop(columns=set(KEYS) - set(primary)).dropna(axis="columns", how="all")
        if len(part.columns) > 900:  # sqlite-utils takes 999, MySQL 1,017
            raise ValueError(f"{len(part.columns)} columns are too many for a database: choose some with --column")
        for name in part.select_dtypes(["object", "str"]):  # PostgreSQL refuses NUL
            part[name] = part[name].map(lambda value: to_text(value).replace("\0", "\ufffd"), na_action="ignore")
        yield str(kind), primary, part.set_axis(make_distinct(part.columns), axis="columns")


def make_distinct(names: Iterable[str]) -> list[str]:
    """Return names that differ not only in case, which databases ignore."""
    names = [printable(name) or "unnamed" for name in names]
    folded = [name.lower() for name in names]
    counts = [folded[: number + 1].count(name) for number, name in enumerate(folded)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


def update_sqlite(frame: pd.DataFrame, objects: list[dict[str, Any]], path: str) -> None:
    """Insert the rows, or update those whose key is there. Raises ValueError for a table without that key."""
    import sqlite_utils

    with contextlib.closing(sqlite_utils.Database(path)) as database, database.atomic():
        for kind, keys, part in split_by_type(frame, objects):
            table = database.table(kind)
            primary = table.pks if table.exists() else keys
            if not set(keys) <= set(primary) <= set(KEYS):
                raise ValueError(f"the table {kind} has the primary key {primary}, not {keys}: name another file")
            names, *rows = to_rows(part)
            records = [dict.fromkeys(primary, "") | dict(zip(names, row, strict=True)) for row in rows]
            table.upsert_all(records, pk=primary, alter=True)


def append_to_server(frame: pd.DataFrame, objects: list[dict[str, Any]], url: str) -> None:
    """Append the rows to the tables of a database server. Columns that a table lacks are left out, and named."""
    import sqlalchemy

    with connect(url).begin() as connection:
        for kind, _, part in split_by_type(frame, objects):
            inspector = sqlalchemy.inspect(connection)
            if inspector.has_table(kind):
                known = {column["name"] for column in inspector.get_columns(kind)}
                if lacking := [name for name in part if name not in known]:
                    log(f"the table {kind} lacks these columns, which are left out: {', '.join(lacking)}")
                    part = part.drop(columns=lacking)
            part.to_sql(kind, connection, if_exists="append", index=False)


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
