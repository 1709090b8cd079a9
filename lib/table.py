"""VirusTotal's objects as rows, the rows as a pandas table, the table as a file or on a terminal.

`vendor.py` copies what stands between the markers into the scripts; the imports stay with the script.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictpath import dictpath
from output import UsageError, printable, whole_file
from virustotal import Json, Pages, VirusTotalError

if TYPE_CHECKING:
    import pandas as pd


# vendor:begin
ISO = "%Y-%m-%dT%H:%M:%SZ"
SUFFIXES = (".csv", ".jsonl", ".md", ".parquet", ".xlsx", ".db", ".sqlite")
MOST_SHOWN = 4_000  # characters of a cell that is padded to its column's width: a megabyte would be one in each row
MOST_COLUMNS = 1_500  # PostgreSQL takes 1600, SQLite 2000; the names of a page's headers and meta tags are anybody's


class TableFormat(StrEnum):
    """What stdout gets of a table."""

    table = "table"
    csv = "csv"
    jsonl = "jsonl"
    markdown = "markdown"


@dataclasses.dataclass
class Collected:
    """What came of a collection: rows as in `row`, how many of them are an error in an object's place, what ended it
    early, where it goes on, how many there are in all."""

    rows: list[Json] = dataclasses.field(default_factory=list)
    errors: int = 0
    stopped: BaseException | None = None
    cursor: str | None = None
    total: int | None = None


async def collect(pages: Pages, chosen: Mapping[str, str], *, verdicts: bool = False) -> Collected:
    """The rows of all `pages`; on a terminal it shows how far it is. Raises VirusTotalError when not even one came.

    What came before a failure or a Ctrl-C is kept: `stopped` says why, `cursor` where it goes on.
    """
    from rich.console import Console

    found = Collected()
    try:
        with Console(stderr=True).status("asking") if sys.stderr.isatty() else contextlib.nullcontext() as status:
            async for items in pages:
                found.rows += [row(item, chosen, verdicts=verdicts) for item in items]
                found.errors += sum(bool(item.get("error")) for item in items)
                hits = pages.meta.get("total_hits")
                found.total = hits if isinstance(hits, int) else None
                if status:
                    status.update(f"{len(found.rows)} of {pages.limit or found.total or 'all'}")
    except (VirusTotalError, asyncio.CancelledError) as error:
        if not found.rows:
            raise
        found.stopped = error
    found.cursor = pages.cursor
    return found


def columns(specs: Iterable[str]) -> dict[str, str]:
    """`--column` arguments as {name: JSONPath}: `NAME=$.a.b`, `$.a.b`, or an attribute's path (`pe_info.imphash`).

    Raises UsageError for a path that does not parse.
    """
    chosen = {}
    for spec in specs:
        named = re.fullmatch(r"([^$=\[]+)=(.+)", spec, flags=re.DOTALL)
        name, path = named.groups() if named else (spec, spec)
        if name in chosen or name in ("id", "type", "url"):
            raise UsageError(f"--column {spec}: there is a column {name} already; NAME={path} gives it another name")
        try:
            chosen[name] = dictpath.column(path)
        except ValueError as error:
            raise UsageError(f"--column {spec}: {error}") from None
    return chosen


def row(item: Mapping[str, Any], chosen: Mapping[str, str], *, verdicts: bool = False) -> dict[str, Any]:
    """An object as {column: value}: id, type, url (of a URL), then the `chosen` columns or, if none, all there is.

    A chosen path with one match gives that value, with several a list, with none None. All there is: the attributes
    under their paths, the context attributes likewise with that word in front, an item's error; each engine's
    verdict (`last_analysis_results`, some 70 times 5 values) only if asked for.
    """
    parts = (item.get(name) for name in ("attributes", "context_attributes", "error"))
    attributes, context, error = (part if isinstance(part, dict) else {} for part in parts)
    kind = item.get("type")
    start = {"id": item.get("id"), "type": kind if kind is None or isinstance(kind, str) else to_json(kind)}
    if "url" in context or "url" in attributes:
        start["url"] = context.get("url") or attributes.get("url")
    if chosen:
        found = {name: dictpath.get_all(item, path) for name, path in chosen.items()}
        return start | {name: values if len(values) > 1 else (values or [None])[0] for name, values in found.items()}

    def leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, inner in value.items():
            if isinstance(inner, dict) and prefix.count(".") < 50:  # what is nested deeper stays as it is
                yield from leaves(inner, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", inner

    if not verdicts:
        attributes = {key: value for key, value in attributes.items() if key != "last_analysis_results"}
    # An attribute may be called `type` too.
    rest = {f"attributes.{key}" if key in start else key: value for key, value in leaves(attributes, "")}
    rest |= leaves({key: value for key, value in context.items() if key != "url"}, "context_attributes.")
    return start | rest | dict(leaves(error, "error."))


def to_frame(rows: list[dict[str, Any]], chosen: Mapping[str, str]) -> pd.DataFrame:
    """The `rows` as a table with id, type and url first, then the columns as chosen, or else by name.

    Dates are UTC timestamps, whole numbers stay whole where a row lacks them (Int64), lists stay lists. Of more than
    MOST_COLUMNS the rarest are gathered, as JSON, in one called `others`.
    """
    import pandas as pd

    first = [name for name in ("id", "type", "url") if name != "url" or any("url" in r for r in rows)]
    rest = list(chosen) or sorted({name for r in rows for name in r})
    if not chosen and len(rest) > MOST_COLUMNS:
        rows, rest = gathered(rows, first)
    names = list(dict.fromkeys(first + rest))
    frame = pd.DataFrame({name: pd.Series([r.get(name) for r in rows], dtype=object) for name in names}, columns=names)
    for name in names:
        key = re.split(r"[.\[]", chosen.get(name, name))[-1].strip("']")
        # vt-py's own rule for what is a date.
        is_date = re.fullmatch(r".+_date|date|last_login|user_since", key)
        frame[name] = utc(frame[name]) if is_date else typed(frame[name])
    return frame


def gathered(rows: list[dict[str, Any]], first: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The `rows` with what most of them have, and all else of each as JSON under `others`; the names of the columns."""
    often: dict[str, int] = {}
    for name in (name for r in rows for name in r):
        often[name] = often.get(name, 0) + 1
    names = sorted(often.keys() - {"others", *first}, key=lambda name: (-often[name], name))
    kept = {*first, *names[:MOST_COLUMNS]}

    def narrow(r: dict[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in r.items() if name not in kept}
        return {name: r[name] for name in r if name in kept} | ({"others": to_json(others)} if others else {})

    return [narrow(r) for r in rows], [*sorted(kept), "others"]


def utc(values: pd.Series[Any]) -> pd.Series[Any]:
    """UNIX seconds as timestamps. Some dates of VirusTotal's are none: a column with both kinds becomes text."""
    import pandas as pd

    def is_date(value: Any) -> bool:
        return bool(re.fullmatch("[0-9]{1,12}", str(value))) and int(value) < 253_402_300_800  # the year 10000

    dates = values.map(is_date)
    if not dates.any():
        return typed(values)
    moments = pd.to_datetime(pd.to_numeric(values.where(dates)).astype("Int64"), unit="s", utc=True)
    if values[~dates].notna().any():
        return typed(moments.dt.strftime(ISO).astype(object).where(dates, values.map(str, na_action="ignore")))
    return moments


def typed(values: pd.Series[Any]) -> pd.Series[Any]:
    """A column of one kind of value with pandas' type for it, which knows missing values; a mixed one as it is."""
    kinds = frozenset(type(value) for value in values.dropna())
    of = {int: "Int64", bool: "boolean", float: "Float64", str: "str"}
    try:
        return values.astype(
            of[float] if kinds == {int, float} else of[next(iter(kinds))] if len(kinds) == 1 else object
        )
    except (KeyError, OverflowError):  # lists; whole numbers over 64 bits
        return values


def check_outputs(outputs: Iterable[str], *, resuming: bool = False) -> None:
    """Finds what would fail only after the quota is spent: a suffix, a folder, a driver. Raises UsageError.

    `resuming` with a cursor, a file that is there holds the part before and is not to be written over.
    """
    for output in outputs:
        path = Path(output)
        if "://" in output:
            database(output)
        elif path.suffix not in SUFFIXES:
            raise UsageError(f"--output {output}: ends in none of {' '.join(SUFFIXES)}, nor is it a database URL")
        elif path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"--output {output}: {'is a folder' if path.is_dir() else f'no folder {path.parent}'}")
        elif not os.access(path.parent, os.W_OK):
            raise UsageError(f"--output {output}: may not write in {path.parent}")
        elif path.is_file() and path.suffix in (".db", ".sqlite"):
            database(output)
        elif resuming and path.is_file():
            raise UsageError(f"--output {output} exists and holds the part before --cursor: name another file")


def database(output: str) -> Any:
    """A SQLAlchemy engine for a database URL or an SQLite file. Raises UsageError when there is no way to connect."""
    import sqlalchemy

    try:
        file = sqlalchemy.URL.create("sqlite", database=output)
        engine = sqlalchemy.create_engine(output if "://" in output else file)
        sqlalchemy.inspect(engine).get_table_names()  # only who reads it sees whether an SQLite file is one
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        cure = "; `uv run --with DRIVER …` brings a driver" if isinstance(error, ImportError) else ""
        where = re.sub(r"//.*@", "//…@", output)  # a password may stand there
        raise UsageError(f"--output {where}: {str(error).splitlines()[0]}{cure}") from None
    return engine


def cell(value: Any) -> Any:
    """A value as one cell of a file: lists and dicts as JSON text; all else, NaN and NA too, as it is."""
    return to_json(value) if isinstance(value, list | dict) else value


def to_json(value: Any) -> str:
    """`value` as JSON on one line, readable, with every character that a terminal may obey escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def cut_to(most: int, text: str) -> str:
    """`text`, or what of it `most` characters hold and how long it was."""
    return text if len(text) <= most else f"{text[: most - 40]} [cut: {len(text)} characters]"


def defused(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula (a leading ', as OWASP's "CSV Injection" has it), and no terminal
    for a command. Text alone can be either; numbers and dates stay as they are.
    """
    if not isinstance(value, str):
        return value
    # Half of Europe's spreadsheets, and LibreOffice's everywhere, begin a new cell at a semicolon as well.
    inner = re.sub(r";(?=[\s\"']*[=+\-@＝＋－＠])", ";'", value)
    # Full-width forms too: spreadsheets of East Asian locales take them. Blanks before the sign do not stop them.
    return ("'" if re.match(r"\s*[=+\-@\t\r\n＝＋－＠|%]", value) else "") + printable(inner)


def to_text(frame: pd.DataFrame, form: str, *, raw: bool = False) -> str:
    """The table as `table`, `csv`, `jsonl` or `markdown` text. `raw` leaves the cells of CSV as VirusTotal sent them.

    JSON lines leave out what an object lacks; dates are ISO 8601, UTC.
    """
    dates = frame.select_dtypes("datetimetz").columns
    style = "%Y-%m-%d %H:%M" if form == "table" else ISO
    frame = frame.assign(**{name: frame[name].dt.strftime(style) for name in dates}).astype(object)
    if form == "jsonl":
        rows = (row[row.notna()] for _, row in frame.iterrows())  # a list is not null, whatever is in it
        return "".join(f"{to_json(row.to_dict())}\n" for row in rows)
    if form == "table":
        return to_terminal(frame)
    cells = frame.map(cell)
    if form == "markdown":
        from tabulate import tabulate

        special = re.compile(r"([\\`*_\[\]<>|&~$#@]|:(?=//)|(?<=www)\.)", flags=re.IGNORECASE)  # no markup, no links

        def plain(value: Any) -> str:
            return special.sub(r"\\\1", cut_to(MOST_SHOWN, printable(value)))

        body = cells.where(cells.notna(), "").map(plain).to_numpy().tolist()
        return tabulate(body, [plain(name) for name in frame.columns], tablefmt="pipe", disable_numparse=True) + "\n"
    if not raw:
        cells = cells.map(defused).rename(columns=defused)
    return str(cells.to_csv(index=False, lineterminator="\n"))


def to_terminal(frame: pd.DataFrame) -> str:
    """The table, one line a row, as wide as the terminal (as it needs where there is none); wide columns give way."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def shown(value: Any) -> str:
        return cut_to(MOST_SHOWN, printable(", ".join(map(str, value)) if isinstance(value, list) else value))

    cells = frame.where(frame.notna(), "").map(shown)
    widths = {name: max([cell_len(name), *cells[name].map(cell_len)]) for name in cells}
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if room:
        # The first column, which tells most, gets half of the room at need (a hash, useless once cut, 16),
        # each other one 16, which a date takes.
        hashes = cells.iloc[:, 0].map(lambda text: bool(re.fullmatch("[0-9a-f]{64}", text))).all()
        least = {name: min(width, 16) for name, width in widths.items()}
        least |= {name: min(widths[name], 16 if hashes else room // 2) for name in list(widths)[:1]}
        while len(least) > 1 and sum(least.values()) + 2 * len(least) > room:
            least.popitem()  # the least telling stands last
        widths = {name: widths[name] for name in least}
        while sum(widths.values()) + 2 * len(widths) > room:
            widest = max(widths, key=lambda name: widths[name] - least[name])
            widths[widest] -= 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, width in widths.items():
        number = frame[name].dropna().map(lambda value: isinstance(value, int | float)).all()
        table.add_column(
            Text(printable(name)), width=width, no_wrap=True, overflow="ellipsis", justify="right" if number else "left"
        )
    for values in cells[list(widths)].itertuples(index=False):
        table.add_row(*(Text(value) for value in values))
    text = io.StringIO()
    Console(file=text, width=room or sum(widths.values()) + 2 * len(widths), color_system=None).print(table)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def deliver(
    frame: pd.DataFrame,
    view: pd.DataFrame,
    outputs: list[str],
    form: TableFormat | None,
    *,
    raw: bool = False,
    table: str = "virustotal",
    below: str = "",
) -> BaseException | None:
    """Writes the `outputs`, then prints the `form` (a table with `below` under it, unless there are outputs).

    What people read, a terminal or a Markdown page, gets `view`, the telling columns; what programs read gets all.
    Returns what could not be written, as `write` does.
    """
    pages = [output for output in outputs if output.endswith(".md")]
    failed = write(frame, [output for output in outputs if output not in pages], raw=raw, table=table)
    failed = write(view, pages) or failed
    form = form or (None if outputs else TableFormat.table)
    text = ""
    if form == TableFormat.table:
        text = to_text(view, form) + below if len(frame) else ""
    elif form:
        wanted = view if form == TableFormat.markdown else frame
        text = to_text(wanted, form, raw=raw and not sys.stdout.isatty())
    return show(text, lambda: frame) or failed


def show(text: str, frame: Callable[[], pd.DataFrame]) -> BaseException | None:
    """Prints `text`. Returns None, or what kept it from that and where the rows of `frame()` are kept instead."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # what could not be written would be tried again at exit
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return kept_elsewhere(frame(), f"cannot write to stdout: {error.strerror}")
    return None


def write(
    frame: pd.DataFrame, outputs: Iterable[str], *, raw: bool = False, table: str = "virustotal"
) -> BaseException | None:
    """The table into each output: a file whose suffix says the format, a database's `table` (rows are added to it).

    Returns None, or what could not be written and where its rows are kept instead: they cost quota.
    """
    reasons = []
    for output in outputs:
        try:
            write_one(frame, output, raw=raw, table=table)
        except KeyboardInterrupt:
            return kept_elsewhere(frame, "interrupted", KeyboardInterrupt)
        except Exception as error:  # whatever the library, the database or the disk says
            cause: BaseException = error
            while cause.__cause__:  # the outer ones quote whole statements
                cause = cause.__cause__
            where, why = re.sub("//.*@", "//…@", output), str(cause).partition("\n")[0]
            reasons.append(f"cannot write {where}: {why}")
    return kept_elsewhere(frame, "; ".join(reasons)) if reasons else None


def kept_elsewhere(
    frame: pd.DataFrame, reason: str, kind: type[OSError | KeyboardInterrupt] = OSError
) -> OSError | KeyboardInterrupt:
    """Writes the rows, which cost quota, into the temporary folder; the `reason` for that, with the file's name."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl", prefix="vt-", delete=False) as kept:
        kept.write(to_text(frame, "jsonl"))
    return kind(f"{reason}; the rows are kept in {kept.name}")


def write_one(frame: pd.DataFrame, output: str, *, raw: bool, table: str) -> None:
    """See `write`. Raises whatever pandas and its engines raise."""
    path = Path(output)
    if "://" in output or path.suffix in (".db", ".sqlite"):
        add_rows(frame, database(output), table)
        return
    with whole_file(path) as part:
        if path.suffix == ".parquet":
            to_parquet(frame, part)
        elif path.suffix == ".xlsx":
            to_xlsx(frame, part, raw=raw)
        else:
            form = "markdown" if path.suffix == ".md" else path.suffix[1:]
            part.write_text(to_text(frame, form, raw=raw), encoding="utf-8", newline="")


def add_rows(frame: pd.DataFrame, engine: Any, table: str) -> None:
    """Adds the rows to a database's table, in one transaction, and the columns that the table lacks."""
    import sqlalchemy

    longest = engine.dialect.max_identifier_length  # PostgreSQL: 63 bytes
    fold = str if engine.dialect.name == "postgresql" else str.lower  # others do not tell names by case
    names: dict[str, str] = {}
    for name in frame.columns:
        label = printable(name) or "unnamed"  # no database takes NUL for a name, or none at all
        if len(label.encode()) > longest or fold(label) in map(fold, names.values()):
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            label = f"{label.encode()[: longest - 9].decode(errors='ignore')}_{digest}"
        names[name] = label

    def storable(value: Any) -> Any:
        value = cell(value)
        if isinstance(value, int) and abs(value) >= 1 << 63:  # no database's integer holds it
            return str(value)
        return value.replace("\0", "\\x00") if isinstance(value, str) else value  # PostgreSQL's text holds no NUL

    def sql_type(values: pd.Series[Any]) -> Any:
        kind = str(values.dtype).lower()  # Int64 or int64
        kinds = {"int64": sqlalchemy.BigInteger(), "float64": sqlalchemy.Float(53), "boolean": sqlalchemy.Boolean()}
        dated = kind.startswith("datetime64")
        return sqlalchemy.TIMESTAMP(timezone=True) if dated else kinds.get(kind, sqlalchemy.Text())

    frame = frame.rename(columns=names)
    types = {name: sql_type(frame[name]) for name in frame}
    texts = [name for name, of in types.items() if isinstance(of, sqlalchemy.Text)]
    frame = frame.assign(**{name: frame[name].astype(object).map(storable) for name in texts})
    if frame.empty:
        return
    with engine.begin() as connection:
        inspector = sqlalchemy.inspect(connection)
        if inspector.has_table(table):
            known = {fold(column["name"]) for column in inspector.get_columns(table)}
            quote = connection.dialect.identifier_preparer.quote
            for name in (name for name in frame.columns if fold(name) not in known):
                column = f"{quote(name)} {types[name].compile(connection.dialect)}"
                statement = f"ALTER TABLE {quote(table)} ADD COLUMN {column}".replace(":", r"\:")
                connection.execute(sqlalchemy.text(statement))
        frame.to_sql(table, connection, if_exists="append", index=False, dtype=types)


def to_parquet(frame: pd.DataFrame, path: Path) -> None:
    """The table as Parquet; a column whose values have no common type becomes JSON text."""
    import pyarrow as pa

    def of_one_type(values: pd.Series[Any]) -> pd.Series[Any]:
        try:
            odd = "struct<>" in str(pa.array(values, from_pandas=True).type)  # a dict without keys: Parquet has no such
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            odd = True
        return values.map(to_json, na_action="ignore") if odd else values

    frame.apply(of_one_type).to_parquet(path, index=False)


def to_xlsx(frame: pd.DataFrame, path: Path, *, raw: bool) -> None:
    """The table as a workbook: no formulas and no links but `raw`'s; a cell too long for Excel says what was cut."""
    import pandas as pd

    def shown(value: Any) -> Any:
        value = cell(value) if raw else defused(cell(value))
        # Microsoft: "Excel specifications and limits".
        return cut_to(32_767, value) if isinstance(value, str) else value

    dates = {name: frame[name].dt.tz_localize(None) for name in frame.select_dtypes("datetimetz").columns}  # UTC all
    sheet = frame.astype(object).map(shown).assign(**dates)
    options = {"options": {"strings_to_formulas": raw, "strings_to_urls": False, "nan_inf_to_errors": True}}
    packed = io.BytesIO()  # on a full disk zipfile complains even after its error was met
    with pd.ExcelWriter(packed, engine="xlsxwriter", engine_kwargs=options) as book:
        sheet = sheet if raw else sheet.rename(columns=defused)
        sheet.to_excel(book, index=False, freeze_panes=(1, 1), autofilter=True)
        book.sheets["Sheet1"].autofit(max_width=400)  # pixels
    path.write_bytes(packed.getbuffer())


# vendor:end
