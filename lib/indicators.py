"""Collect indicators from VirusTotal's answers, and write a row for each as text, csv or jsonl.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from frame import escape_formula
from output import UsageError, atomic_write, defang, log, plural, print_summary, printable

# vendor:begin
Style = StrEnum("Style", "text csv jsonl")  # what stdout gets


@dataclass
class Indicators:
    """Indicators collected so far, what is missing, what ended the run early, and the cursor to resume at.

    `noun` says what has indicators: a file or a collection. `found` holds tuples: type, value, id of the file or
    collection, and what else a script knows of it. `failure` is the last error that ended only a part.
    """

    noun: str
    cursor: str | None = None
    found: set[tuple[Any, ...]] = field(default_factory=set)
    count: int = 0
    total: int = 0
    requests: int = 0
    missing: list[str] = field(default_factory=list)
    failure: Exception | None = None
    error: BaseException | None = None

    def __rich__(self) -> str:
        """Return the progress; rich asks for it whenever it draws."""
        return f"{plural(self.count, self.noun)}, {len(self.found)} found"

    def add(self, items: list[dict[str, Any]], source_id: str, *more: Any) -> None:
        """Add objects or descriptors that belong to the file or collection `source_id`."""
        for item in items:
            if value := value_of(item):
                self.found.add((str(item.get("type")), value, source_id, *more))
            else:
                self.missing.append(f"{source_id}: the address of URL {item.get('id')}")

    def fail(self, error: Exception, part: str) -> None:
        """List the part that is missing. If every other request would fail, too, end the run."""
        if getattr(error, "status", None) in (0, 401, 429):  # the network, the key, the quota; 403 may be one licence
            self.error = error
        else:
            self.failure = error
            self.missing.append(f"{part}: {error}")


def entity_of(query: str) -> str | None:
    """Return the entity that a query asks for in lower case, such as "url", or None."""
    found = re.search(r'(?:^|[\s(])entity\s*:\s*"?(\w+)', query, re.IGNORECASE)
    return found[1].lower() if found else None


def value_of(item: dict[str, Any]) -> str | None:
    """Return what an object or its descriptor stands for. The id of a URL is only a hash; its address is elsewhere."""
    if item.get("type") != "url":
        return str(item.get("id")).lower()
    url = (item.get("context_attributes") or {}).get("url") or (item.get("attributes") or {}).get("url")
    return url[0] if isinstance(url, list) else url  # a search has answered a list of one


def indicator_rows(
    found: Iterable[tuple[Any, ...]], columns: tuple[str, ...], at_least: int = 1, defanged: bool = False
) -> list[dict[str, Any]]:
    """Return a dict with the keys `columns` for each indicator: by type, highest count first, then by value.

    The columns are type, value, the number of ids (only rows with `at_least` so many), the ids, and a list for each
    further item of the tuples, without 0.
    """
    rows = []
    for (kind, value), group in itertools.groupby(sorted(found), key=lambda item: item[:2]):
        ids, *more = [sorted(set(cells) - {0}) for cells in list(zip(*group, strict=True))[2:]]
        if len(ids) >= at_least:
            cells = (kind, defang(value) if defanged else value, len(ids), ids, *more)
            rows.append(dict(zip(columns, cells, strict=True)))
    return sorted(rows, key=lambda row: (row["type"], -row[columns[2]]))


def check_output(output: Path, cursor: str | None) -> None:
    """Raise UsageError for a file that cannot be written, or that may hold the part before `cursor`."""
    if output.suffix.lower() not in (".csv", ".jsonl") or not output.parent.is_dir():
        raise UsageError(f"--output {output}: expected a .csv or .jsonl file in a folder that exists")
    if cursor and output.exists():
        raise UsageError(f"{output} may hold the part before --cursor: name another file")


def csv_cell(value: Any) -> str:
    """Return a value as text that no spreadsheet takes for a formula, a list with spaces between."""
    return escape_formula(printable(" ".join(map(str, value)) if isinstance(value, list) else value))


def write_rows(rows: list[dict[str, Any]], columns: tuple[str, ...], style: str | None, file: Any) -> None:
    """Write rows as csv, as jsonl, or else as text (DOMAIN: evil.example)."""
    if style == "csv":
        lines = [columns, *([csv_cell(row[name]) for name in columns] for row in rows)]
        csv.writer(file, lineterminator="\n").writerows(lines)
    elif style == "jsonl":
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    else:
        file.writelines(f"{printable(row['type']).upper()}: {printable(row['value'])}\n" for row in rows)
    file.flush()


def write_indicators(
    rows: list[dict[str, Any]], columns: tuple[str, ...], style: str | None, output: Path | None
) -> OSError | None:
    """Write to stdout, or to the file `output`. If that fails, save the rows in a temporary file; return the error."""
    try:
        if output:
            with atomic_write(output) as part, open(part, "w", encoding="utf-8", newline="") as file:
                write_rows(rows, columns, output.suffix.lower()[1:], file)
        else:
            write_rows(rows, columns, style, sys.stdout)
        return None
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # Python would try again at exit
        with tempfile.NamedTemporaryFile("w", prefix="vt-", suffix=".jsonl", delete=False) as saved:
            write_rows(rows, columns, "jsonl", saved)
        return OSError(f"{error}; the indicators are saved in {saved.name}")


def print_result(result: Indicators, rows: list[dict[str, Any]]) -> int:
    """List what is missing, print the summary line, and return the exit code."""
    for missing in result.missing:
        log(f"missing: {missing}")
    error = result.error or ("what is missing is listed above" if result.missing else None)
    more = result.total > result.count
    done = f"{plural(len(rows), 'indicator')} of {plural(result.count, result.noun, result.total if more else None)}"
    again = "the same command" if result.error and not isinstance(result.error, OSError) else ""
    resume = again if error else "a larger --limit"
    return print_summary(done, result.requests, error=error, cursor=result.cursor, resume=resume, more=more)


# vendor:end
