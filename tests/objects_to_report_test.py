"""objects_to_report: a page that shows everything, loads nothing, and obeys no string."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Run, file_object

HOSTILE = [
    "<script>window.PWNED=1</script>",
    "</script><script>window.PWNED=2</script>",
    '"><img src=x onerror="window.PWNED=3">',
    "javascript:window.PWNED=4",
    "</style><style>*{display:none}</style>",
    "<!--<script>",
    "{{7*7}}${7*7}",
    "\x1b[2J\x1b[31mred",
    "exe.\u202egpj",
    "nul\x00byte\ud800",
    "A" * 100_000,
    "T" * 2_000,
]


def lines(*objects: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(item)}\n" for item in objects)


def url_object(number: int, **attributes: Any) -> dict[str, Any]:
    stats = {"malicious": number % 12, "suspicious": 0, "harmless": 60}
    return {
        "type": "url",
        "id": f"{number:064x}",
        "attributes": {
            "title": f"Sign in {number % 3}",
            "tld": ["com", "net"][number % 2],
            "tags": ["trackers"] if number % 2 else ["trackers", "base64"],
            "last_analysis_stats": stats,
            "first_submission_date": 1763715600 - number * 86_400,
        }
        | attributes,
        "context_attributes": {"url": f"http://evil{number}.example/login"},
    }


def hostile_object(number: int) -> dict[str, Any]:
    text = HOSTILE[number % len(HOSTILE)]
    names = ("title", "registrar", "meaningful_name", "type_description", "as_owner", "country", "tld", "name")
    item = url_object(number, tags=[text, "b"], **dict.fromkeys(names, text))
    item["attributes"][text[:50]] = text
    item["context_attributes"] = {"url": f"http://x.example/{text[:500]}", "rule_name": text}
    return item | {
        "type": ["url", "file", "domain", text][number % 4],
        "id": text if number % 3 else item["id"],
    }  # a lone surrogate among them


# ---- The file


def page_data(path: str = "report.html") -> dict[str, Any]:
    text = Path(path).read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.mark.parametrize("args", [["hits.jsonl"], ["-"], []])
def test_every_object_is_a_row(run: Run, args: list[str]) -> None:
    text = lines(*(url_object(n) for n in range(7)))
    Path("hits.jsonl").write_text(text)
    result = run("objects_to_report", *args, "-o", "report.html", stdin=text)
    assert (result.code, result.stdout) == (0, "")
    assert len(page_data()["rows"]) == 7


def test_an_empty_result_is_a_page(run: Run) -> None:
    assert run("objects_to_report", "-o", "report.html").code == 0
    assert page_data()["rows"] == []


@pytest.mark.parametrize(
    ("args", "code"),
    [(["missing.jsonl"], 1), (["broken.jsonl"], 2), (["-", "-o", "no/such/folder/x.html"], 1), (["--titel", "x"], 2)],
)
def test_wrong_input_is_one_line_and_writes_nothing(run: Run, args: list[str], code: int) -> None:
    Path("broken.jsonl").write_text("<html>\n")
    result = run("objects_to_report", *args)
    assert (result.code, len(result.stderr.splitlines())) == (code, 1)
    assert not list(Path().glob("*.html"))


def facts() -> dict[str, str]:
    """Return the facts in the page's header."""
    return dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", Path("report.html").read_text()))


GONE = {"type": "file", "id": "gone", "error": {"code": "NotFoundError", "message": "gone"}}


@pytest.mark.parametrize(
    ("last", "code", "complete"), [("", 0, "every line"), ('{"type": "fi', 3, "no: "), (lines(GONE), 3, "no: ")]
)
def test_the_page_says_whether_it_is_complete(run: Run, last: str, code: int, complete: str) -> None:
    result = run("objects_to_report", "-o", "report.html", stdin=lines(url_object(1)) + last)
    assert result.code == code
    assert facts()["Complete"].startswith(complete)


def test_the_header_counts_detections_and_calls_nothing_clean_that_was_not_scanned(run: Run) -> None:
    suspicious = url_object(0, last_analysis_stats={"malicious": 0, "suspicious": 1})
    run("objects_to_report", "-o", "report.html", stdin=lines(*map(url_object, range(3)), suspicious, GONE))
    assert {"Objects": "5", "Malicious": "2", "Suspicious": "1", "Clean": "1"}.items() <= facts().items()
    assert facts()["First seen"] == "2025-11-19 09:00"
    assert facts()["Last seen"] == "2025-11-21 09:00"
    run("objects_to_report", "-o", "report.html", stdin=lines(GONE))
    assert not {"Malicious", "Clean", "First seen"} & facts().keys()


def test_urls_and_domains_are_defanged_and_links_lead_to_virustotal_only(run: Run) -> None:
    domain = {"type": "domain", "id": "evil.example", "attributes": {"registrar": "R"}}
    run("objects_to_report", "-o", "report.html", stdin=lines(url_object(1), domain, hostile_object(7)))
    rows = page_data()["rows"]
    assert "hxxp://evil1[.]example/login" in rows[0]
    assert "evil[.]example" in rows[1]
    assert all(row[-1].startswith("https://www.virustotal.com/gui/") or row[-1] == "" for row in rows)
    assert "//evil" not in Path("report.html").read_text().replace("hxxp://evil", "")


def test_addresses_in_lists_names_and_indicator_rows_are_defanged(run: Run) -> None:
    chain = url_object(
        1, redirection_chain=["http://evil1.example", "https://evil2.example/a.b"], title="http://x.example"
    )
    indicators: list[dict[str, Any]] = [
        {"type": "domain", "value": "evil3.example", "files": 2},
        {"type": "ip_address", "value": "192.0.2.7"},
    ]
    run("objects_to_report", "-o", "report.html", stdin=lines(chain))
    assert {"hxxp://evil1[.]example, hxxps://evil2[.]example/a[.]b", "hxxp://x[.]example"} <= set(
        page_data()["rows"][0]
    )
    run("objects_to_report", "-o", "report.html", stdin=lines(*indicators))
    rows = page_data()["rows"]
    assert [row[:3] for row in rows] == [["evil3[.]example", "domain", 2], ["192[.]0[.]2[.]7", "ip_address", None]]
    assert page_data()["visible"] >= 3
    assert rows[0][-1] == "https://www.virustotal.com/gui/domain/evil3.example"


def test_numbers_that_javascript_cannot_hold_are_text(run: Run) -> None:
    run("objects_to_report", "-o", "report.html", stdin=lines(file_object(1, size=2**60, ratio=float("1e999"))))
    assert {str(2**60), "Infinity"} <= set(page_data()["rows"][0])


def test_the_page_of_a_thousand_files_stays_below_3_mb(run: Run) -> None:
    files = [
        file_object(n, **{f"attribute_{k}": f"value {n} {k}" for k in range(200)}, tags=["a", "b"]) for n in range(1000)
    ]
    run("objects_to_report", "-o", "report.html", stdin=lines(*files))
    assert Path("report.html").stat().st_size < 3_000_000


# ---- In a browser, with the network cut


class Opened(NamedTuple):
    """A page, and what it requested, printed and raised."""

    page: Any
    requests: list[str]
    messages: list[str]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not executable:
        pytest.skip("no chromium: `apt-get install chromium` brings it")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright for this platform")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def open_page(run: Run, chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Write the report of objects, and open it from the disk."""
    contexts = []

    def opened(objects: list[dict[str, Any]], **settings: Any) -> Opened:
        assert run("objects_to_report", "-o", "report.html", stdin=lines(*objects)).code == 0
        context = chromium.new_context(offline=True, **settings)
        contexts.append(context)
        page, requests, messages = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(Path("report.html").resolve().as_uri())
        page.wait_for_selector("#objects tbody tr", timeout=20_000)
        return Opened(page, requests, messages)

    yield opened
    for context in contexts:
        context.close()


def wait_for_rows(page: Any, count: int) -> None:
    """Wait until the table says that it shows so many of its rows. Fails after 5 seconds."""
    page.locator(".dt-info", has_text=re.compile(rf"of {count:,} entr")).wait_for(timeout=5_000)


def test_the_page_loads_nothing_and_prints_nothing(open_page: Callable[..., Opened]) -> None:
    opened = open_page([url_object(n) for n in range(30)])
    assert (len(opened.requests), opened.messages) == (1, [])
    assert opened.page.locator("a[href]").evaluate_all(
        "links => links.every(a => a.href.startsWith('https://www.virustotal.com/gui/'))"
    )


def test_hostile_strings_are_text_everywhere(open_page: Callable[..., Opened]) -> None:
    page, requests, messages = open_page([hostile_object(n) for n in range(200)])
    for button in page.locator("details summary").all():
        button.click()
    page.get_by_role("button", name="Columns").click()
    assert page.evaluate("window.PWNED") is None
    assert (len(requests), messages) == (1, [])
    assert page.locator("img, iframe, object, embed, link").count() == 0
    wait_for_rows(page, 200)
    assert page.locator("#objects").is_visible()
    assert page.get_by_text("<script>window.PWNED=1</script>").count() > 0


def test_search_sort_paging_and_columns(open_page: Callable[..., Opened]) -> None:
    page, _, messages = open_page([url_object(n) for n in range(60)])
    page.get_by_role("searchbox").fill('"Sign in 2"')
    wait_for_rows(page, 20)
    page.get_by_role("searchbox").fill("")
    page.locator("th", has_text="malicious").click()
    page.locator("th", has_text="malicious").click()
    index = page.locator("th").all_inner_texts().index("malicious")
    assert page.locator("#objects tbody tr").first.locator("td").nth(index).inner_text() == "11"
    page.get_by_label("Next").click()
    assert "26 to 50" in page.locator(".dt-info").inner_text()
    before = page.locator("#objects th").count()
    page.get_by_role("button", name="Columns").click()
    page.locator(".dt-button-collection button", has_text="harmless").click()
    assert (page.locator("#objects th").count(), messages) == (before + 1, [])


def test_a_bar_filters_the_table_by_click_and_by_keyboard(open_page: Callable[..., Opened]) -> None:
    page, _, messages = open_page([url_object(n) for n in range(60)])
    bar = page.get_by_role("figure", name="Tags").get_by_role("button", name="base64")
    bar.click()
    wait_for_rows(page, 30)
    page.get_by_role("button", name="Show all").click()
    wait_for_rows(page, 60)
    page.get_by_role("figure", name="Titles").get_by_role("button", name="Sign in 1").focus()
    page.keyboard.press("Enter")
    wait_for_rows(page, 20)
    assert page.locator("[aria-pressed=true]").get_attribute("aria-label") == "Sign in 1: 20"
    assert page.locator("#filter span").inner_text() == "Only Titles: Sign in 1: 20"
    assert messages == []


def test_values_can_be_copied_in_full(open_page: Callable[..., Opened]) -> None:
    page, _, _ = open_page([url_object(5, title="T" * 2_000)])
    page.get_by_role("button", name="Columns").click()
    page.locator(".dt-button-collection button", has_text=re.compile("^id$")).click()
    text = page.locator("#objects tbody").evaluate("body => body.textContent")
    assert f"{5:064x}" in text
    assert "T" * 2_000 in text


def test_ten_thousand_rows_can_be_searched(open_page: Callable[..., Opened]) -> None:
    page, _, messages = open_page([url_object(n) for n in range(10_000)])
    page.get_by_role("searchbox").fill("evil9999[.]example")
    wait_for_rows(page, 1)
    assert messages == []


def test_paper_shows_every_visible_column_in_full(open_page: Callable[..., Opened]) -> None:
    page, _, _ = open_page([hostile_object(n) for n in range(30)], viewport={"width": 760, "height": 1000})
    page.emulate_media(media="print")
    assert page.locator("#objects").evaluate("table => table.offsetWidth") <= 760
    assert not page.get_by_role("searchbox").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(open_page: Callable[..., Opened], scheme: str) -> None:
    page, _, messages = open_page(
        [*map(hostile_object, range(30)), *(url_object(n, title="T" * 2_000) for n in range(9))],
        viewport={"width": 380, "height": 800},
        color_scheme=scheme,
    )
    page.get_by_role("figure", name="Titles").get_by_role("button", name="TTTT").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert messages == []
