#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "itables>=2.9,<3",
#     "jinja2>=3.1,<4",
#     "pygal>=3.1,<4",
#     "typer>=0.27,<0.30",
#     "zstandard>=0.24,<0.26",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""What did a search find? Show VirusTotal objects (JSON Lines) as one HTML page that can be sent to other people.

The page has a summary, charts, and a table of the 50 columns that most objects have. It loads nothing from the network,
and it may be opened in a malware lab: what malware authors wrote into names and titles is text. Needs no key.

    uv run scripts/search.py 'entity:url p:10+' --limit 300 | uv run scripts/objects_to_report.py -o report.html
    uv run scripts/objects_to_report.py hits.jsonl --title 'Phishing, week 47' --query 'entity:url p:10+' -o report.html

Exit codes: 0 complete, 1 failed, 2 wrong usage, 3 incomplete (lines that are no objects, objects without a report).
"""

from __future__ import annotations

import importlib.util
import re
import secrets
import urllib.parse
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

Row = dict[str, Any]  # a flattened object: {"id": …, "last_analysis_stats.malicious": …}

MAX_CELL_CHARS = 4_000
MAX_LABEL_CHARS = 200
MAX_COLUMNS = 50  # more would take the page of 1,000 files beyond 3 MB
SEEN = ["first_submission_date", "last_submission_date"]
DETECTIONS = {0: "0", 1: "1-4", 5: "5-9", 10: "10-19", 20: "20-39", 40: "40+"}
# The charts of the ten most frequent values: title, and the columns of which the first that has a value counts.
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
    upright: bool


def make_row(item: dict[str, Any]) -> Row:
    """Return an object's values by column; dates as text, such as 2026-11-24T08:00:00Z."""
    values = flatten(fields(item))
    return {name: to_text(to_date(value)) if value and name.endswith("date") else value for name, value in values}


def show(value: Any, *, is_address: bool = False) -> str:
    """Return a value as one line of text, cut if it is very long. Its URLs, or all of an address, are defanged."""
    parts = value if isinstance(value, list) else [value]
    text = printable(shorten(", ".join(map(to_text, parts)), MAX_CELL_CHARS))
    return defang(text) if is_address else re.sub(r"\b\w{1,12}://[^\s,]+", lambda url: defang(url[0]), text)


def cell(name: str, row: Row) -> str | float | None:
    """Return what the table shows in a column: numbers that JavaScript can hold as they are, the rest as text."""
    value = row.get(name)
    if value is None or (isinstance(value, int | float) and abs(value) < 1 << 53):
        return value
    if name in ("id", "value"):
        return show(value, is_address=row.get("type") in ("domain", "ip_address"))
    return show(value, is_address=bool(re.search("url|domain|host|dns|ip_address|CN$", name)))


def link(row: Row) -> str:
    """Return the address of the object's page at VirusTotal, or an empty string."""
    kind = str(row.get("type")).replace("_", "-")
    name = row.get("id") or (row.get("value") if kind in ("domain", "ip-address") else None)  # an indicator has no id
    if not name or kind not in ("file", "url", "domain", "ip-address", "collection"):
        return ""
    return f"https://www.virustotal.com/gui/{kind}/{urllib.parse.quote(str(name), safe='', errors='replace')}"


def choose_columns(rows: list[Row]) -> tuple[list[str], int, int]:
    """Return the columns of the page, the useful ones first; how many are visible at first; how many are left out."""
    filled = Counter(name for row in rows for name, value in row.items() if value not in (None, "", []))
    first = max(("url", "value", "id"), key=lambda name: filled[name])
    same = {"type"} if len({row.get("type") for row in rows}) < 2 else set()
    useful = [name for name in USEFUL if filled[name] and name not in {"url", "value", "id"} | same]
    useful = [first, *useful[:9]]
    others = [name for name, _ in filled.most_common() if name not in useful]
    columns = [*useful, *others]
    return columns[:MAX_COLUMNS], max(len(useful), 5), len(columns[MAX_COLUMNS:])


def labels_of(row: Row, columns: list[str]) -> list[str]:
    """Return the values of the first of the columns that has any, as text."""
    value: Any = next((row[name] for name in columns if row.get(name) not in (None, "", [])), [])
    return [shorten(show(item), MAX_LABEL_CHARS) for item in (value if isinstance(value, list) else [value])]


def count(title: str, labels: list[list[str]], order: list[str] | None = None) -> Chart:
    """Count each row's labels; keep the ten most frequent, or those of `order` in that order."""
    counts = Counter(label for row in labels for label in set(row))
    kept = counts.most_common(10) if order is None else [(label, counts[label]) for label in order if label in counts]
    position = {label: number for number, (label, _) in enumerate(kept)}
    members = [[position[label] for label in row if label in position] for row in labels]
    return Chart(title, kept, members, upright=order is not None)


def make_charts(rows: list[Row]) -> list[Chart]:
    """Return the charts for which the rows have values. What was first seen is counted by day, month or year."""
    malicious = [row.get("last_analysis_stats.malicious") for row in rows]
    ranges = [[DETECTIONS[max(low for low in DETECTIONS if low <= n)]] if n is not None else [] for n in malicious]
    dates = [labels_of(row, SEEN)[:1] for row in rows]
    length = next((n for n in (10, 7) if len({date[:n] for row in dates for date in row}) <= 31), 4)
    periods = [[date[:length] for date in row] for row in dates]
    charts = [
        count("Detections", ranges, list(DETECTIONS.values())),
        count("First seen", periods, sorted({period for row in periods for period in row})),
        *(count(title, [labels_of(row, columns) for row in rows]) for title, columns in TOP_TEN.items()),
    ]
    # A bar that stands for every row says nothing.
    return [chart for chart in charts if chart.counts and [n for _, n in chart.counts] != [len(rows)]]


def draw(chart: Chart, number: int) -> str:
    """Return the chart as SVG whose bars are buttons. pygal builds an XML tree, in which no label becomes markup."""
    import pygal
    from pygal.etree import etree

    bars: list[dict[str, Any]] = []
    for position, (label, n) in enumerate(chart.counts):
        node = {"role": "button", "tabindex": 0, "aria-label": f"{label}: {n}"}
        bars.append({"value": n, "label": label, "node": node | {"data-chart": number, "data-label": position}})
    if not chart.upright:
        bars.reverse()  # a horizontal chart begins at the bottom
    colors = dict.fromkeys(("background", "plot_background"), "transparent")
    colors |= dict.fromkeys(("foreground", "foreground_strong", "foreground_subtle"), "var(--text)")
    style = pygal.style.Style(**colors, colors=["var(--accent)"], value_colors=["var(--text)"], font_family="inherit")
    style.label_font_size = style.value_font_size = 13
    drawing = (pygal.Bar if chart.upright else pygal.HorizontalBar)(
        style=style,
        width=460,
        height=220 if chart.upright else 20 + 25 * len(bars),
        x_label_rotation=50 if chart.upright and len(bars) > 6 else 0,
        print_values=True,
        show_legend=False,
        show_x_labels=chart.upright,  # of the two axes, the one with the counts goes: bars show theirs
        show_y_labels=not chart.upright,
        margin=4,
        js=[],
    )
    drawing.x_labels = [bar["label"][:28] for bar in bars]
    drawing.add("", bars)
    root = drawing.render_tree()
    root.set("role", "group")
    root.remove(root.find("title"))  # "Pygal"
    root.find("defs").remove(root.find("defs/script"))  # settings for pygal's own scripts
    return str(etree.tostring(root, encoding="unicode"))


def summarize(rows: list[Row]) -> dict[str, Any]:
    """Return the facts of the header: detections, first and last seen."""
    stats = [[row.get(f"last_analysis_stats.{kind}") for kind in ("malicious", "suspicious")] for row in rows]
    verdicts = Counter("Malicious" if m else "Suspicious" if s else "Clean" for m, s in stats if m is not None)
    dates = [str(row[name])[:16].replace("T", " ") for row in rows for name in SEEN if row.get(name)]
    return {
        "Objects": len(rows),
        **{verdict: verdicts[verdict] for verdict in ("Malicious", "Suspicious", "Clean") if verdicts},
        "First seen": min(dates, default=None),
        "Last seen": max(dates, default=None),
        "Created": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def datatables() -> tuple[str, str]:
    """Return the script and the style of DataTables, which the itables package bundles under the MIT licence.

    bokeh's charts and table need 2.0 MB of script (here 0.7 MB) and 117 MB of packages (here 8 MB), and draw on a
    canvas. great_tables makes 1.3 MB of HTML from 1,000 rows, without search or paging.
    Both escape by themselves; DataTables does with `render.text()`, and pygal, whose SVG needs no script, always.
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

    columns, visible, left_out = choose_columns(rows)
    facts = summarize(rows) | {"Complete": f"no: {problem}" if problem else "every line of the input"}
    if left_out:
        facts["Not on this page"] = f"{plural(left_out, 'column')} that fewer objects have"
    charts = make_charts(rows)
    library, style = datatables()
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    return template.render(
        title=title,
        query=query,
        facts=facts,
        columns=[printable(name.removeprefix("last_analysis_stats.")) for name in columns],
        charts=[(chart, draw(chart, number)) for number, chart in enumerate(charts)],
        data={
            "rows": [[cell(name, row) for name in columns] + [link(row)] for row in rows],
            "visible": visible,
            "members": [chart.members for chart in charts],
        },
        script=f"{library}\n{PAGE_SCRIPT}",
        style=style,
        nonce=secrets.token_hex(),
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'nonce-{{ nonce }}';
 style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
<style>
:root { color-scheme: light dark; --text: #1b2430; --page: #fff; --panel: #f4f6f9; --accent: #2f6fde }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e9f0; --page: #12161c; --panel: #1c222b; --accent: #6ea3ff }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 100rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; --dt-html-background: var(--page) }
a { color: var(--accent) }
h1, code, dd, figure td, #filter { overflow-wrap: anywhere }
h1 { margin: 0; font-size: 1.5rem }
h2 { margin: 0 0 .3rem; font-size: 1rem }
dl { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0 }
dl div, figure { padding: .5rem .9rem; border-radius: .4rem; background: var(--panel) }
dt, summary { font-size: .8rem }
dd { margin: 0; font-weight: 600 }
.charts { columns: 20rem; column-gap: 1rem }
figure { margin: 0 0 1rem; break-inside: avoid }
figure svg { width: 100%; height: auto }
figure svg text { pointer-events: none }
figure td { padding-right: 1rem }
[data-label], summary { cursor: pointer }
[data-label]:focus-visible, [aria-pressed=true] { stroke: var(--text); stroke-width: 3 }
.scroll { overflow-x: auto }
#filter { margin: 0; min-height: 2rem }
#objects :is(td, th) { max-width: 36rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
@media print {
  .dt-search, .dt-paging, .dt-length, .dt-buttons, button, details { display: none }
  #objects :is(td, th) { font-size: .65rem; white-space: normal; overflow-wrap: anywhere }
}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
{% if query %}<p>Query: <code>{{ query }}</code></p>{% endif %}
<dl>
{% for name, value in facts.items() if value is not none %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
</header>
<main>
<section class="charts" aria-label="Charts">
{% for chart, drawing in charts %}
<figure aria-label="{{ chart.title }}">
<h2>{{ chart.title }}</h2>
{{ drawing | safe }}
<details><summary>As text</summary><table>
{% for label, count in chart.counts %}<tr><td>{{ label }}</td><td>{{ count }}</td></tr>
{% endfor %}
</table></details>
</figure>
{% endfor %}
</section>
<p id="filter"><span role="status"></span> <button hidden>Show all</button></p>
<div class="scroll">
<table id="objects" class="display compact">
<thead><tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
</table>
</div>
</main>
<script type="application/json" id="data">{{ data | tojson }}</script>
<script type="module" nonce="{{ nonce }}">{{ script | safe }}</script>
</body>
</html>
"""

PAGE_SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
follow();
dark.addEventListener("change", follow);

const text = DataTable.render.text();
const table = new DataTable("#objects", {
  data: data.rows,
  deferRender: true,
  order: [],
  pageLength: 25,
  lengthMenu: [25, 100, 1000, { label: "All", value: -1 }],
  columnDefs: [
    { targets: "_all", render: text },
    { targets: data.rows[0]?.slice(data.visible, -1).map((cell, i) => data.visible + i) ?? [], visible: false },
    { targets: 0, createdCell: (td, cell, row) => {
      if (!row.at(-1)) return;
      const link = document.createElement("a");
      link.href = row.at(-1);
      link.textContent = cell;
      td.replaceChildren(link);
    } },
  ],
  layout: {
    topStart: ["pageLength", { buttons: [{
      extend: "colvis",
      text: "Columns",
      columnText: (table, i) => text.display(table.column(i).header().textContent),
    }] }],
  },
});

const [note, button] = document.getElementById("filter").children;
const choose = bar => {
  document.querySelector("[aria-pressed=true]")?.setAttribute("aria-pressed", false);
  bar?.setAttribute("aria-pressed", true);
  button.hidden = !bar;
  note.textContent = bar ? `Only ${bar.closest("figure").ariaLabel}: ${bar.ariaLabel}` : "";
  table.search.fixed("bar", bar && ((cells, row, i) =>
    data.members[bar.dataset.chart][i].includes(Number(bar.dataset.label)))).draw();
};
button.onclick = () => choose(null);
for (const bar of document.querySelectorAll("[data-label]")) {
  bar.addEventListener("click", () => choose(bar));
  bar.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(bar); }
  });
}
"""


def main(
    files: Annotated[list[str] | None, typer.Argument(help="JSON Lines; - is stdin. [default: stdin]")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="The heading.")] = "VirusTotal objects",
    query: Annotated[str, typer.Option(help="The query to show below the heading.")] = "",
) -> int:
    """Read the files, write the page."""
    objects, wrong = read_objects(files or ["-"])
    failed = sum("error" in item for item in objects)
    lost = {
        plural(wrong, "line") + " of the input skipped": wrong,
        plural(failed, "object") + " without a report": failed,
    }
    problem = "; ".join(text for text, n in lost.items() if n)
    page = make_page([make_row(item) for item in objects], title, query, problem)
    with atomic_write(output) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    done = f"{output}: {plural(len(objects), 'object')}, {output.stat().st_size / 1e6:.1f} MB"
    return print_summary(done, error=problem or None)


# [[[cog vendor() ]]]


# ---- Copied from lib/, where it is edited; `just vendor` renews it. The script's own part ends here.
import asyncio
import bz2
import contextlib
import difflib
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
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


def to_date(value: Any) -> Any:
    """Return UNIX seconds as a datetime. Dates that are text or past the year 9999 stay as they are."""
    valid = type(value) is int and 0 <= value < 253_402_300_800
    return datetime.fromtimestamp(value, UTC) if valid else value


def to_text(value: Any) -> str:
    """Return text as it is, a date as ISO 8601, everything else as JSON."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shorten(text: str, most: int) -> str:
    """Return the text, or as much of it as `most` characters hold, and its length."""
    return text if len(text) <= most else f"{text[: most - 40]} [cut: {len(text)} characters]"


# [[[end]]]

if __name__ == "__main__":
    run_script(main)
