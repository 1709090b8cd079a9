#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "itables>=2.9,<3",
#     "jinja2>=3.1,<4",
#     "jsonpath-ng>=1.13,<2",
#     "pygal>=3.1,<4",
#     "typer>=0.27,<0.30",
#     "zstandard>=0.24,<0.26",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What did a search find? Show VirusTotal objects (JSON Lines) as one HTML page that can be sent to other people.

The page has a summary, charts and a table. It loads nothing from the network, and it may be opened in a malware lab:
whatever malware authors wrote into names and titles is text. Needs no key and no network.

    uv run scripts/search.py 'entity:url p:10+' --limit 300 | uv run scripts/objects_to_report.py -o report.html
    uv run scripts/objects_to_report.py hits.jsonl --title 'Phishing, week 47' --query 'entity:url p:10+' -o report.html

Exit codes: 0 written, 1 failed, 2 wrong usage or input.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import importlib.util
import json
import re
import signal
import sys
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import typer

Row = dict[str, Any]  # a flattened object: {"id": …, "last_analysis_stats.malicious": …}

MAX_CELL_CHARS = 4_000
MAX_COLUMNS = 40  # more would take the page of 1,000 files beyond 3 MB
DETECTIONS = {40: "40 and more", 20: "20 to 39", 10: "10 to 19", 5: "5 to 9", 1: "1 to 4", 0: "0"}
DATES = ["first_submission_date", "creation_date", "last_submission_date", "last_analysis_date"]
# The ten most frequent values of these are charted: title, and the columns that may have them.
TOP_TEN = {
    "Types": ["type_description", "type"],
    "Threat labels": ["popular_threat_classification.suggested_threat_label"],
    "Tags": ["tags"],
    "Titles": ["title"],
    "Favicons": ["favicon.dhash"],
    "Top-level domains": ["tld"],
    "Registrars": ["registrar"],
    "Networks": ["as_owner", "asn"],
    "Countries": ["country"],
    "Signers": ["signature_info.signers", "signature_info.product"],
    "Rules": ["rule_name"],
}


class Chart(NamedTuple):
    """Counted values: (label, count) pairs, and for each row the positions of the labels that it has."""

    title: str
    counts: list[tuple[str, int]]
    members: list[list[int]]
    upright: bool = False


# ---- Rows


def make_row(item: dict[str, Any]) -> Row:
    """Return an object's values by column; dates as text, such as 2026-11-24T08:00:00Z."""
    return {
        name: to_text(to_date(value)) if re.search(r"(^|[._])date$", name) and value is not None else value
        for name, value in flatten(fields(item))
    }


# ---- Charts


def count(title: str, labels: list[list[str]], order: list[str] | None = None) -> Chart:
    """Count each row's labels; keep the ten most frequent, or those of `order` in that order."""
    counted = Counter(label for row in labels for label in set(row))
    kept = [label for label in order if label in counted] if order else [label for label, _ in counted.most_common(10)]
    position = {label: number for number, label in enumerate(kept)}
    members = [[position[label] for label in row if label in position] for row in labels]
    return Chart(title, [(label, counted[label]) for label in kept], members, upright=bool(order))


def first_value(row: Row, columns: list[str]) -> Any:
    """Return the value of the first of the columns that has one."""
    return next((row[name] for name in columns if row.get(name) not in (None, "", [])), None)


def detections(row: Row) -> list[str]:
    """Return the range of the row's malicious verdicts, as a list of one label or none."""
    malicious = row.get("last_analysis_stats.malicious")
    return [label for low, label in DETECTIONS.items() if isinstance(malicious, int) and malicious >= low][:1]


def make_charts(rows: list[Row]) -> list[Chart]:
    """Return the charts for which the rows have values. Submissions are counted by day, month or year."""
    days = [str(first_value(row, DATES) or "")[:10] for row in rows]
    length = next((n for n in (10, 7) if len({day[:n] for day in days}) <= 31), 4)
    periods = [[day[:length]] if day else [] for day in days]
    charts = [
        count("Detections", [detections(row) for row in rows], list(DETECTIONS.values())[::-1]),
        count("First seen", periods, sorted({period for row in periods for period in row})),
    ]
    for title, columns in TOP_TEN.items():
        values = [first_value(row, columns) for row in rows]
        lists = [value if isinstance(value, list) else [] if value is None else [value] for value in values]
        charts.append(count(title, [[cell_text(v) for v in row] for row in lists]))
    # A bar that stands for every row says nothing.
    return [chart for chart in charts if chart.counts and [n for _, n in chart.counts] != [len(rows)]]


def draw(chart: Chart, number: int) -> str:
    """Return the chart as SVG. pygal builds it as an XML tree, in which a label cannot become markup."""
    import pygal
    from pygal.style import Style

    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--text)",
        foreground_strong="var(--text)",
        foreground_subtle="var(--faint)",
        colors=("var(--accent)",),
        value_colors=("var(--text)",),
        font_family="inherit",
    )
    bars: list[dict[str, Any]] = [
        {
            "value": n,
            "node": {"data-chart": number, "data-label": i, "aria-label": label, "role": "button", "tabindex": 0},
        }
        for i, (label, n) in enumerate(chart.counts)
    ]
    bars = bars if chart.upright else bars[::-1]  # a horizontal chart begins at the bottom
    drawing = (pygal.Bar if chart.upright else pygal.HorizontalBar)(
        width=460,
        height=210 if chart.upright else 20 + 25 * len(bars),
        x_label_rotation=50 if chart.upright and len(bars) > 8 else 0,
        margin=4,
        print_values=True,
        value_formatter=lambda value: f"{value:.0f}",
        show_legend=False,
        show_x_labels=chart.upright,  # of the two axes, the one with the counts goes: bars show theirs
        show_y_labels=not chart.upright,
        style=style,
        js=[],
        disable_xml_declaration=True,
    )
    drawing.x_labels = [bar["node"]["aria-label"][:28] for bar in bars]
    drawing.add("", bars)
    drawing.add_xml_filter(remove_scripts)
    return str(drawing.render())


def remove_scripts(root: Any) -> Any:
    """Remove the script in which pygal stores a chart's settings."""
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag == "script"]:
            parent.remove(child)
    return root


# ---- Table


def cell_text(value: Any) -> str:
    """Return a value as one line of text that nobody visits by accident, cut if it is very long."""
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        text = ", ".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = printable(text)
    return text if len(text) <= MAX_CELL_CHARS else f"{text[:MAX_CELL_CHARS]}… [{len(text)} characters]"


def cell(column: str, row: Row) -> str | float | None:
    """Return what the table shows: numbers as they are, everything else as text."""
    value = row.get(column)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    hostile = "url" in column or "domain" in column or (column == "id" and row.get("type") in ("domain", "ip_address"))
    return defang(cell_text(value)) if hostile or str(value).startswith("http") else cell_text(value)


def gui_link(row: Row) -> str:
    """Return the address of the object's page at VirusTotal, or an empty string."""
    kinds = {"file": "file", "url": "url", "domain": "domain", "ip_address": "ip-address", "collection": "collection"}
    kind = kinds.get(str(row.get("type")))
    return f"https://www.virustotal.com/gui/{kind}/{urllib.parse.quote(str(row['id']), safe='')}" if kind else ""


def choose_columns(rows: list[Row]) -> tuple[list[str], int]:
    """Return the columns of the page, the useful ones first, and how many of them are visible at first."""
    coverage = Counter(name for row in rows for name, value in row.items() if value not in (None, "", []))
    first = "url" if rows and coverage["url"] == len(rows) else "id"
    known = {"id", "url"} | ({"type"} if len({row.get("type") for row in rows}) < 2 else set())
    useful = [first, *[name for name in USEFUL if name in coverage and name not in known][:9]]
    others = [name for name, _ in coverage.most_common() if name not in useful]
    return useful + others[:MAX_COLUMNS], len(useful)


# ---- Page


def summarize(rows: list[Row]) -> dict[str, Any]:
    """Return the facts of the header: detections, first and last seen."""
    malicious = [int(row.get("last_analysis_stats.malicious") or 0) for row in rows]
    suspicious = [int(row.get("last_analysis_stats.suspicious") or 0) for row in rows]
    pairs = list(zip(malicious, suspicious, strict=True))
    dates = sorted(str(row[name])[:16].replace("T", " ") for row in rows for name in DATES if row.get(name))
    return {
        "Objects": len(rows),
        "Malicious": sum(m > 0 for m, _ in pairs),
        "Suspicious": sum(s > 0 and not m for m, s in pairs),
        "Clean": sum(not m and not s for m, s in pairs),
        "First seen": dates[0] if dates else "",
        "Last seen": dates[-1] if dates else "",
        "Created": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def datatables() -> tuple[str, str]:
    """Return the script and the style of DataTables, which the itables package bundles under the MIT licence.

    Chosen over bokeh (1.3 MB, a canvas) and over great_tables (no search or paging).
    """
    spec = importlib.util.find_spec("itables")  # to import it would load pandas, if that is installed
    if not spec or not spec.origin:
        raise UsageError("the itables package is missing: run the script with `uv run`")
    folder = Path(spec.origin).parent / "html"
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("dt_bundle.js", "dt_bundle.css"))
    script = re.sub(r"export{.*?(\w+) as default.*?}", r"const DataTable=\1", script)
    return script.replace("<!--", r"<\!--"), style  # <!-- would hide the end of the script from an HTML parser


def make_page(rows: list[Row], title: str, query: str, problem: str) -> str:
    """Return the HTML. Jinja2 escapes every value; the data is JSON in which `<` is escaped."""
    import jinja2
    from markupsafe import Markup

    columns, visible = choose_columns(rows)
    charts = make_charts(rows)
    library, style = datatables()
    script = f"{library}\n{PAGE_SCRIPT}"
    data = {
        "rows": [[cell(name, row) for name in columns] + [gui_link(row)] for row in rows],
        "visible": visible,
        "members": [chart.members for chart in charts],
    }
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    return template.render(
        title=title,
        query=query,
        problem=problem,
        facts=summarize(rows),
        columns=columns,
        charts=[(chart, Markup(draw(chart, n))) for n, chart in enumerate(charts)],  # noqa: S704
        data=data,
        script=Markup(script),  # noqa: S704
        style=Markup(style),  # noqa: S704
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-{{ digest }}';
 style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<title>{{ title }}</title>
<style>{{ style }}</style>
<style>
:root { color-scheme: light dark; --text: #1b2430; --faint: #8a94a3; --page: #fff; --panel: #f4f6f9; --accent: #2f6fde }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e9f0; --faint: #8a94a3; --page: #12161c; --panel: #1c222b; --accent: #6ea3ff }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 100rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif }
a { color: var(--accent) }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere }
h2 { margin: 0 0 .3rem; font-size: 1rem }
code { overflow-wrap: anywhere }
dl { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 }
dl div { padding: .4rem .9rem; border-radius: .4rem; background: var(--panel) }
dt { font-size: .8rem; opacity: .75 }
dd { margin: 0; font-weight: 600 }
.problem { padding: .5rem .9rem; border-left: .3rem solid #d9822b; background: var(--panel) }
.charts { display: grid; align-items: start; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
figure { margin: 0; padding: .8rem; border-radius: .4rem; background: var(--panel); break-inside: avoid }
figure svg { width: 100%; height: auto }
figure svg text { pointer-events: none }
figure summary { font-size: .8rem; cursor: pointer }
figure td { padding-right: 1rem; overflow-wrap: anywhere }
[data-label] { cursor: pointer }
[data-label]:focus-visible, [data-label].chosen { stroke: var(--text); stroke-width: 2 }
.scroll { overflow-x: auto; margin-top: 1rem }
#filter { min-height: 2rem; margin-top: 1rem }
table.dataTable td { max-width: 36rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
table.dataTable td:focus, table.dataTable td:hover { white-space: normal; overflow-wrap: anywhere }
@media print { .dt-search, .dt-paging, .dt-length, .dt-buttons, #filter, details { display: none } }
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
{% if query %}<p>Query: <code>{{ query }}</code></p>{% endif %}
<dl>
{% for name, value in facts.items() if value != "" %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% if problem %}<p class="problem" role="note">Incomplete: {{ problem }}</p>{% endif %}
</header>
<main>
<section class="charts" aria-label="Charts">
{% for chart, drawing in charts %}
<figure aria-label="{{ chart.title }}">
<h2>{{ chart.title }}</h2>
{{ drawing }}
<details><summary>As text</summary><table>
{% for label, count in chart.counts %}<tr><td>{{ label }}</td><td>{{ count }}</td></tr>
{% endfor %}
</table></details>
</figure>
{% endfor %}
</section>
<p id="filter" role="status"></p>
<div class="scroll">
<table id="objects" class="display compact">
<thead><tr>
{% for column in columns %}<th>{{ column | replace("last_analysis_stats.", "") }}</th>{% endfor %}
</tr></thead>
</table>
</div>
</main>
<script type="application/json" id="data">{{ data | tojson }}</script>
<script type="module">{{ script }}</script>
</body>
</html>
"""

PAGE_SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
follow();
dark.addEventListener("change", follow);

const escape = text => new Option(text).innerHTML;
const linked = (text, type, row) => {
  if (type !== "display" || !row.at(-1)) return DataTable.render.text().display(text);
  const link = document.createElement("a");
  link.href = row.at(-1);
  link.rel = "noreferrer noopener";
  link.textContent = text;
  return link;
};
const names = [...document.querySelectorAll("#objects th")].map(th => th.textContent);
const numeric = i => data.rows.every(row => row[i] === null || typeof row[i] === "number");
const table = new DataTable("#objects", {
  data: data.rows,
  deferRender: true,
  order: [],
  pageLength: 25,
  columns: names.map((name, i) => ({
    visible: i < data.visible,
    type: numeric(i) ? "num" : "string",
    render: i ? DataTable.render.text() : linked,
  })),
  layout: {
    topStart: ["pageLength", { buttons: [
      { extend: "colvis", text: "Columns", columnText: (dt, i) => escape(names[i]) },
    ] }],
  },
});

let chosen = null;
DataTable.ext.search.push((settings, cells, index) =>
  !chosen || data.members[chosen.dataset.chart][index].includes(Number(chosen.dataset.label)));
const choose = bar => {
  chosen?.classList.remove("chosen");
  chosen = bar === chosen ? null : bar;
  chosen?.classList.add("chosen");
  const note = document.getElementById("filter");
  note.replaceChildren();
  if (chosen) {
    const title = chosen.closest("figure").getAttribute("aria-label");
    const button = document.createElement("button");
    button.textContent = "Show all";
    button.onclick = () => choose(chosen);
    note.append(`Only ${title}: ${chosen.getAttribute("aria-label")} `, button);
  }
  table.draw();
};
for (const bar of document.querySelectorAll("rect[data-label]")) {
  bar.addEventListener("click", () => choose(bar));
  bar.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(bar); }
  });
}
"""


def read_all(files: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Return the objects of all files, and what shows that they are not all there is. Raises OSError and UsageError."""
    objects, broken = [], 0
    for name in files or ["-"]:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
            found, not_objects = read_objects(file)
        objects += found
        broken += not_objects
        if not_objects and not found:
            raise UsageError(f"{name} has no JSON objects: expected the output of search.py, or an API response")
    failed = sum("error" in item for item in objects)
    problems = [f"{plural(broken, 'line')} of the input cut off"] * bool(broken)
    problems += [f"{plural(failed, 'object')} without a report"] * bool(failed)
    return objects, "; ".join(problems)


def main(
    files: Annotated[list[str] | None, typer.Argument(help="JSON Lines; - is stdin. [default: stdin]")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="The heading.")] = "VirusTotal objects",
    query: Annotated[str, typer.Option(help="The query to show below the heading.")] = "",
) -> int:
    """Read, shape, write."""
    objects, problem = read_all(files or [])
    page = make_page([make_row(item) for item in objects], title, query, problem)
    with atomic_write(output) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    done = f"{output}: {plural(len(objects), 'object')}, {len(page.encode(errors='replace')) / 1e6:.1f} MB"
    return print_summary(done, error=problem or None)


def decompress(file: BinaryIO) -> bytes:
    """Return the content of a file, which may be compressed with bzip2 or Zstandard."""
    data = file.read()
    if data.startswith(b"BZh"):
        return bz2.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return data


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
    """Yield the objects in a JSON value: an object, a list of them, or a response; None for anything else."""
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


def read_objects(file: BinaryIO) -> tuple[list[dict[str, Any]], int]:
    """Return the objects in a file, and how many lines or items are not objects. Raises OSError and ValueError."""
    data = decompress(file)
    text = data.decode(json.detect_encoding(data), errors="replace")  # PowerShell writes UTF-16
    items = [item for value in parse_json(text) for item in unwrap(value)]
    return [item for item in items if item is not None], items.count(None)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import asyncio
import contextlib
import difflib
import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


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


def plural(count: int, noun: str) -> str:
    """Return "1 match" or "2 matches"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith(('ch', 's', 'x')) else 's'}"


def defang(value: str) -> str:
    """Return an indicator that nobody visits by accident: hxxp://evil[.]example, 192[.]0[.]2[.]7, 2001[:]db8[:][:]1."""
    if re.fullmatch("[0-9A-Fa-f:.]+", value) and value.count(":") > 1:
        value = value.replace(":", "[:]")
    return re.sub("^(h)tt(p)", r"\1xx\2", value, flags=re.IGNORECASE).replace(".", "[.]")


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
    done: str, requests: int | None = None, *, error: BaseException | str | None = None, cursor: str | None = None
) -> int:
    """Print the last line and return the exit code.

    The line says what was `done`, how many requests it took, whether it is complete, and how to resume after `cursor`.
    `error` is what ended the work early (an exception), or what is missing (a sentence).
    """
    spent = done if requests is None else f"{done}, {plural(requests, 'request')}"
    resume = f"--cursor {shlex.quote(cursor)}" if cursor else ""
    if error is None:
        log(f"{spent}; there is more: --limit 0 for all, or continue with {resume}" if resume else f"{spent}, complete")
        return 0
    reason = str(error) or "interrupted"
    log(f"INCOMPLETE: {spent}; {reason}" + (f"; resume with {resume}" if resume else ""))
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return 130
    if isinstance(error, OSError):
        return 1
    return 4 if getattr(error, "exit_code", 3) == 4 else 3


def cli(main: Callable[..., int] | typer.Typer, argv: list[str] | None = None) -> int:
    """Run `main`, a function or an app of commands, and return its exit code. The docstring of its file is the help.

    An expected error is one line on stderr. A pipe that its reader closed ends the script quietly.
    """
    if isinstance(main, typer.Typer):
        app = main
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        # \b keeps the lines of an indented example as they are.
        app.command(help=re.sub("\n\n(?= )", "\n\n\b\n", main.__globals__["__doc__"]))(main)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        command = typer.main.get_command(app)
        command.context_settings["help_option_names"] = ["-h", "--help"]
        # command.main() would end the process itself at a closed pipe.
        with command.make_context(Path(sys.argv[0]).name, sys.argv[1:] if argv is None else argv) as context:
            code: int = command.invoke(context) or 0
        sys.stdout.flush()
        return code
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


def usage_hint(message: str) -> str:
    """Return typer's message on one line, with a near miss or a forgotten quote pointed out."""
    message = " ".join(message.replace("Value error, ", "").split())
    if " is not one of " in message:
        value, *choices = re.findall("'([^']*)'", message.partition(": ")[2])
        near = difflib.get_close_matches(value, choices, n=1)
        return f"{message} Did you mean {near[0]}?" if near else message
    return f"{message}: quote an argument that contains spaces" if "unexpected extra argument" in message else message


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


def fields(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object's values by the names that columns have: its attributes, id and type, and what else it holds.

    Context attributes that identify it stand beside the attributes. A dict without attributes is a row as it is.
    """
    attributes, context = item.get("attributes"), item.get("context_attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    unused = ("attributes", "links", "relationships") if attributes else ("attributes",)
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


def to_date(value: Any) -> Any:
    """Return UNIX seconds as a datetime. Dates that are text or past the year 9999 stay as they are."""
    valid = isinstance(value, int) and 0 <= value < 253_402_300_800
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


# [[[end]]]

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # stops as Ctrl-C does
    sys.exit(cli(main))
