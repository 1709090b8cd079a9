"""VirusTotal's objects as a pandas table, and the table as text, files and databases.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dictpath import dictpath
from output import Format, UsageError, atomic_write, log, printable, write_objects

if TYPE_CHECKING:
    import pandas as pd


# vendor:begin
TableFormat = Literal["table", "csv", "jsonl", "markdown"]  # what stdout gets
SUFFIXES = (".csv", ".jsonl", ".md", ".parquet", ".xlsx", ".db", ".sqlite")
KEYS = ["id", "rule_name", "notification_id"]  # tell a database's rows apart
# The first columns of every table, most useful first. The others follow in alphabetical order.
USEFUL = [
    "lookup", "id", "url", "value", "type", "error.code", "rule_name", "last_analysis_stats.malicious",
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
        try:
            dictpath.parse(path)
        except ValueError as error:
            raise UsageError(f"--column {spec}: {error}") from None
        columns[name] = path
    return columns


def fields(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object's values by the names that columns have: its attributes, id and type, and what else it holds.

    Context attributes that identify it stand beside the attributes. A dict without attributes is a row as it is.
    """
    attributes, context = item.get("attributes"), item.get("context_attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    unused = ("attributes", "links", "relationships") if "id" in item else ("attributes",)
    rest = {key: value for key, value in item.items() if key not in unused}
    if isinstance(context, dict):
        names = ("url", "rule_name", "notification_id", "notification_date")
        hoisted = {key: value for key, value in context.items() if key in names and key not in attributes}
        rest |= hoisted | {"context_attributes": {k: v for k, v in context.items() if k not in hoisted}}
    clashing = {key: value for key, value in attributes.items() if key in rest and value != rest[key]}
    return attributes | rest | {"attributes": clashing}  # an attribute may be called `type`


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for every value below dicts whose keys are known."""
    for key, inner in value.items():
        if isinstance(inner, dict) and key not in ARBITRARY:
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield replace_surrogates(f"{prefix}{key}"), inner


def to_frame(objects: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Return the objects as a table, one row each, with these `columns` (see parse_columns) or, if empty, with all.

    Dates are UTC timestamps, integers stay integers where some are missing, lists stay lists. Mixed values are text.
    """
    import pandas as pd

    if columns:
        return pd.DataFrame({name: find_column(objects, name, path) for name, path in columns.items()})
    rows = [dict(flatten(fields(item))) for item in objects] or [{"id": None, "type": None}]
    names = set().union(*rows)
    ordered = [*(name for name in USEFUL if name in names), *sorted(names.difference(USEFUL))]
    return pd.DataFrame({name: to_series([row.get(name) for row in rows], name) for name in ordered})[: len(objects)]


def find_column(objects: list[dict[str, Any]], name: str, path: str) -> pd.Series[Any]:
    """Return what `path` matches in each object: a value, or lists if several match in any object."""
    found = [dictpath.get_all(item if path.startswith("$") else fields(item), path) for item in objects]
    if objects and not any(found):
        log(f"--column {name}: no object has a value there")
    if any(len(values) > 1 for values in found):
        return to_series([values or None for values in found], "")
    return to_series([next(iter(values), None) for values in found], path)


def to_series(values: list[Any], name: str) -> pd.Series[Any]:
    """Return the values as a column of one type."""
    import pandas as pd

    if re.search(r"(_date|\b(date|last_login|user_since))'?$", name):  # vt-py's rule
        values = [to_date(value) for value in values]
    values = [replace_surrogates(value) for value in values]
    # Numbers that Arrow and JSON cannot hold, such as 1e999.
    large = {str for value in values if isinstance(value, int | float) and abs(value) >= 1 << 63}
    kinds = {type(value) for value in values if value is not None} | large
    kinds = {float} if kinds == {int, float} else kinds
    if len(kinds) > 1:
        values, kinds = [None if value is None else to_text(value) for value in values], {str}
    dtypes = {int: "Int64", float: "Float64", bool: "boolean", str: "str", datetime: "datetime64[us, UTC]"}
    return pd.Series(values, dtype=dtypes.get(kinds.pop(), "object") if kinds else "object")


def to_date(value: Any) -> Any:
    """Return UNIX seconds as a datetime. Dates that are text or past the year 9999 stay as they are."""
    valid = type(value) is int and 0 <= value < 253_402_300_800
    return datetime.fromtimestamp(value, UTC) if valid else value


def replace_surrogates(value: Any) -> Any:
    """Return a value with its lone surrogates replaced by U+FFFD: pandas raises on them."""
    if isinstance(value, list | dict):
        text = json.dumps(value, ensure_ascii=False)
        return value if text.isascii() else json.loads(replace_surrogates(text))
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else value


def to_text(value: Any) -> str:
    """Return text as it is, a date as ISO 8601, everything else as JSON."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- A table to text. Its strings come from malware authors.


def to_rows(frame: pd.DataFrame) -> list[list[Any]]:
    """Return the column names, then each row, as plain Python values: None where one is missing."""
    values = frame.astype(object)
    return [list(frame), *values.where(values.notna(), None).to_numpy().tolist()]


def format_frame(frame: pd.DataFrame, style: str, *, raw: bool = False) -> str:
    """Return the table as csv, jsonl or markdown. Cells of csv are safe for spreadsheets unless `raw`."""
    rows = [[to_text(value) if isinstance(value, datetime) else value for value in row] for row in to_rows(frame)]
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


def to_cell(value: Any, raw: bool = False) -> Any:
    """Return a value for a spreadsheet: text that could be a formula gets a leading ', control characters are escaped.

    https://owasp.org/www-community/attacks/CSV_Injection. Some locales start a cell at a semicolon, or accept
    full-width signs.
    """
    if value is None or isinstance(value, bool | int | float | datetime):
        return value
    text = to_text(value)
    if not raw:
        formula = r"[\s\"']*[=+\-@＝＋－＠]"
        text = printable(("'" if re.match(formula, text) else "") + re.sub(f";(?={formula})", ";'", text))
    return shorten(text, 32_767)  # Excel's limit


def escape_markdown(value: Any) -> str:
    """Return a value on one line, without markup or links."""
    text = "" if value is None else printable(shorten(to_text(value), 4_000))
    return re.sub(r"([\\`*_\[\]<>|&~$#@]|:(?=//)|(?<=www)\.)", r"\\\1", text, flags=re.IGNORECASE)


def shorten(text: str, most: int) -> str:
    """Return the text, or as much of it as `most` characters hold, and its length."""
    return text if len(text) <= most else f"{text[: most - 40]} [cut: {len(text)} characters]"


def select_useful(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what people look at first: the useful columns that have values, under short names."""
    names = [name for name in frame if name in USEFUL and frame[name].notna().any()]
    if "type" in names and frame["type"].nunique() == 1:
        names.remove("type")
    frame = frame[names] if len(names) > 2 else frame.dropna(axis="columns", how="all")
    if {"id", "url"} <= set(frame):  # a URL says more than its hash
        frame = frame.assign(url=frame["url"].astype(object).fillna(frame["id"])).drop(columns="id")
    long = r"^(popular_threat_classification\.|last_analysis_stats\.|gti_assessment\.|last_http_)|\.value$"
    return frame.rename(columns=lambda name: re.sub(long, "", name))


def format_columns(rows: list[list[Any]]) -> str:
    """Return one line for each row. A terminal gets the columns that fit, a pipe all columns in full."""
    from rich.cells import cell_len, set_cell_size

    def show(value: Any) -> str:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%d %H:%M}"
        parts = value if isinstance(value, list) else [] if value is None else [value]
        return printable(shorten(", ".join(map(to_text, parts)), 4_000))

    def pad(text: str, width: int) -> str:
        return set_cell_size(text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…", width)

    cells = [[show(value) for value in row] for row in rows if len(rows) > 1]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        widths = fit_widths(widths, shutil.get_terminal_size().columns)
    return "".join(f"{'  '.join(map(pad, row, widths)).rstrip()}\n" for row in cells)


def fit_widths(widths: list[int], room: int) -> list[int]:
    """Return the widths of the first columns that fit in `room`. Wide columns give way, down to the 16 of a date.

    The first column, an id, is whole from 100 characters on. Below, a cut hash is useless, a cut URL is not.
    """
    first = 64 if room >= 100 else 16 if widths[:1] == [64] else room // 2
    fitted = [min(width, 16 if number else first) for number, width in enumerate(widths)]
    while len(fitted) > 1 and sum(fitted) + 2 * len(fitted) - 2 > room:
        fitted.pop()
    for number in [*range(1, len(fitted)), 0][: len(fitted)]:
        spare = room - sum(fitted) - 2 * len(fitted) + 2
        fitted[number] += max(0, min(spare, widths[number] - fitted[number]))
    return fitted


# ---- A table to files and databases


def check_outputs(outputs: Iterable[str], *, resuming: bool = False) -> None:
    """Raise UsageError for what would otherwise fail after the quota is spent.

    `resuming`: a file that exists is refused, because it holds the part before the cursor. Databases are added to.
    """
    for output in outputs:
        path, suffix = Path(output), Path(output).suffix.lower()
        if "://" in output:
            connect(output)
        elif suffix not in SUFFIXES:
            raise UsageError(f"--output {output}: expected a database URL or a file in {' '.join(SUFFIXES)}")
        elif path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"--output {output}: this is a folder, or its folder cannot be written to")
        elif suffix in (".db", ".sqlite"):
            if path.exists() and path.open("rb").read(15) not in (b"", b"SQLite format 3"):
                raise UsageError(f"--output {output}: the file is not an SQLite database")
        elif resuming and path.exists():
            raise UsageError(f"--output {output} holds the part before --cursor: name another file")


def connect(url: str) -> Any:
    """Return a SQLAlchemy engine that has reached the database. Raises UsageError."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        hint = "; `uv run --with DRIVER …` adds a driver" if isinstance(error, ImportError) else ""
        raise UsageError(f"--output {explain(url, error)}{hint}") from None
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
    below: Callable[[pd.DataFrame], str] = lambda frame: "",
) -> BaseException | None:
    """Write the objects as a table to each output, and to stdout if there is a `style` or no output. Return the error.

    The objects have cost quota: after an error they are in a temporary file, which its message names. `below` returns
    the lines below a table.
    """
    output = "the table"
    try:
        frame = to_frame(objects, columns)
        for output in outputs:
            write_output(frame, objects, output, raw=raw)
        output = "stdout"
        if style not in (None, "table"):
            print(format_frame(frame, style, raw=raw and not sys.stdout.isatty()), end="")
        elif style or not outputs:
            print(format_columns(to_rows(frame if columns else select_useful(frame))) + below(frame), end="")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # whatever a library, a database or the disk says
        if output == "stdout":
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # Python flushes again at exit
        descriptor, saved = tempfile.mkstemp(prefix="vt-", suffix=".jsonl")
        with open(descriptor, "w", encoding="utf-8") as file:
            write_objects(objects, file, Format.jsonl)
        kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError
        return kind(f"cannot write {explain(output, error)}; the objects are saved in {saved}")
    return None


def write_output(frame: pd.DataFrame, objects: list[dict[str, Any]], output: str, *, raw: bool) -> None:
    """Write a file in the format of its suffix, or add to a database."""
    path, suffix = Path(output), Path(output).suffix.lower()
    if "://" in output:
        append_to_server(frame, objects, output)
    elif suffix in (".db", ".sqlite"):
        update_sqlite(frame, objects, path)
    else:
        with atomic_write(path) as part:
            if suffix == ".parquet":
                write_parquet(frame, part)
            elif suffix == ".xlsx":
                write_xlsx(frame, part, raw=raw)
            else:
                style = "markdown" if suffix == ".md" else suffix[1:]
                part.write_text(format_frame(frame, style, raw=raw), encoding="utf-8", newline="")


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet. Lists of strings stay lists; other lists, and dicts, become JSON."""
    frame = frame.copy()
    for name in frame.columns[frame.dtypes == "object"]:
        cells = frame[name].dropna()
        if not all(isinstance(cell, list) and all(isinstance(part, str) for part in cell) for cell in cells):
            frame[name] = frame[name].map(to_text, na_action="ignore")
    frame.to_parquet(path, index=False)


def write_xlsx(frame: pd.DataFrame, path: Path, *, raw: bool) -> None:
    """Write an Excel workbook without formulas and links. Its times are UTC."""
    import xlsxwriter  # type: ignore[import-untyped]

    if len(frame) >= 1 << 20 or len(frame.columns) > 1 << 14:
        raise ValueError("Excel holds 1,048,575 rows and 16,384 columns; .csv and .parquet hold more")
    options = {"strings_to_formulas": False, "strings_to_urls": False, "remove_timezone": True}
    packed = io.BytesIO()  # on a full disk, zipfile prints a second error
    with xlsxwriter.Workbook(packed, options | {"default_date_format": "yyyy-mm-dd hh:mm:ss"}) as book:
        sheet = book.add_worksheet()
        cells = [[to_cell(value, raw) for value in row] for row in to_rows(frame)]
        for number, row in enumerate(cells):
            sheet.write_row(number, 0, row)
        for number, column in enumerate(zip(*cells, strict=True)):  # its autofit() takes longer than all the rest
            sheet.set_column(number, number, min(64, 2 + max(len(str(cell)) for cell in column)))
        sheet.freeze_panes(1, 1)
        sheet.autofilter(0, 0, len(frame), max(0, len(frame.columns) - 1))
    path.write_bytes(packed.getbuffer())


def split_by_type(frame: pd.DataFrame, objects: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], pd.DataFrame]]:
    """Yield the tables of a database, one for each type of object: name, key columns, rows. Raises ValueError.

    The keys are stored whatever the chosen columns are. Names of columns differ not only in case.
    """
    import pandas as pd

    values = [{"id": item.get("value")} | fields(item) for item in objects]  # an indicator has no id
    keys = [{name: str(value.get(name) or "") for name in KEYS} for value in values]
    if not all(key["id"] for key in keys):
        raise ValueError("a row has no id, by which databases tell rows apart; .csv and .parquet need none")
    types = [str(value.get("type") or "object") for value in values]
    for kind in dict.fromkeys(types):
        numbers = [number for number, name in enumerate(types) if name == kind]
        part = pd.DataFrame([keys[number] for number in numbers], index=numbers)
        part = part.loc[:, (part != "").any()]
        names = list(part)
        part = part.join(frame.iloc[numbers].dropna(axis="columns", how="all").drop(columns=KEYS, errors="ignore"))
        if len(part.columns) > 900:  # sqlite-utils takes 999, MySQL 1,017
            raise ValueError(f"{len(part.columns)} columns are too many for a database: choose some with --column")
        yield kind, names, part.set_axis(make_distinct(part.columns), axis="columns")


def make_distinct(names: Iterable[str]) -> list[str]:
    """Return names that differ not only in case, which databases ignore."""
    seen, distinct = Counter[str](), []
    for name in (printable(name) or "unnamed" for name in names):
        seen[name.lower()] += 1
        distinct.append(name if seen[name.lower()] == 1 else f"{name}_{seen[name.lower()]}")
    return distinct


def to_stored(value: Any) -> Any:
    """Return a value for a database: lists and dicts as JSON, dates as ISO 8601, no NUL (PostgreSQL refuses it)."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return to_text(value).replace("\0", "\ufffd")


def update_sqlite(frame: pd.DataFrame, objects: list[dict[str, Any]], path: Path) -> None:
    """Insert the rows, or update those whose key is there. Raises ValueError for a table without that key."""
    import sqlite_utils

    tables = list(split_by_type(frame, objects))
    with contextlib.closing(sqlite_utils.Database(path)) as database, database.atomic():
        for kind, keys, part in tables:
            table = database.table(kind)
            primary = table.pks if table.exists() else keys
            if not set(keys) <= set(primary) <= set(KEYS):
                raise ValueError(f"the table {kind} has the primary key {primary}, not {keys}: name another file")
            names, *rows = to_rows(part)
            blank = dict.fromkeys(primary, "")
            records = [blank | dict(zip(names, map(to_stored, row), strict=True)) for row in rows]
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
            for name in part.select_dtypes(["object", "str"]):
                part[name] = part[name].map(to_stored, na_action="ignore")
            part.to_sql(kind, connection, if_exists="append", index=False)


# vendor:end
