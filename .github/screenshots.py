# /// script
# requires-python = ">=3.11"
# dependencies = ["playwright>=1.50,<2"]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""Draw the README's pictures of a report (light, dark, phone) with chromium: `just screenshots`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
QUERY = "entity:url p:10+"
VIEWS = {"light": (1280, 1250, "light"), "dark": (1280, 1250, "dark"), "phone": (390, 800, "light")}


def write_report(folder: Path) -> Path:
    """Run the README's pipe on the recordings, and return the page."""
    hits, page = folder / "hits.jsonl", folder / "report.html"
    scripts = ROOT / "scripts"
    uv = [sys.executable, "-m", "uv"] if not shutil.which("uv") else ["uv"]
    replay = [*uv, "run", str(scripts / "replay.py"), str(scripts / "search.py"), QUERY, "--limit", "300"]
    subprocess.run([*replay, "-o", str(hits)], check=True)
    options = ["--title", "Phishing, week 47", "--query", QUERY, "-o", str(page)]
    subprocess.run([*uv, "run", str(scripts / "objects_to_report.py"), str(hits), *options], check=True)
    return page


def main() -> None:
    """Write report-light.png, report-dark.png and report-phone.png."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("error: no chromium: `apt-get install chromium` brings it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        address = write_report(Path(folder)).as_uri()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, scheme) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(address)
            page.locator("#objects tbody tr").first.wait_for()
            page.screenshot(path=FOLDER / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
