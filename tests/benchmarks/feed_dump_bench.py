#!/usr/bin/env -S uv run --script
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "aiohttp>=3.13,<4",
#     "aiolimiter>=1.2,<2",
#     "rich>=14,<16",
#     "tenacity>=9.1,<10",
#     "typer>=0.27,<0.30",
#     "vt-py>=0.22,<0.23",
#     "yarl>=1.20,<2",
#     "zstandard>=0.24,<0.26",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""How fast is feed_dump.py? Compare it with bz2.decompress on all cores, which is the limit, and with vt-py's feed.

A local server publishes made-up file reports. Each program is a process of its own, and the time of its `--help` or of
its imports does not count. The limit is measured before and after each; the table has the medians of the ratios.

    uv run tests/benchmarks/feed_dump_bench.py
    uv run tests/benchmarks/feed_dump_bench.py --minutes 24 --lines 1000 --rounds 5
"""

from __future__ import annotations

import bz2
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

FEED_DUMP = str(Path(__file__).parents[2] / "scripts" / "feed_dump.py")
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
WORDS = ["agent", "beacon", "cache", "delta", "ember", "frost", "ghost", "install", "load", "run", "set", "get"]
TARGETS = {"bz2": 1.3, "zst": 1.5}
LIMIT = """
import bz2, concurrent.futures, os, pathlib, sys
paths = pathlib.Path(sys.argv[1]).iterdir()
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
    list(executor.map(lambda path: len(bz2.decompress(path.read_bytes())), paths))
"""
VT_PY = """
import itertools, json, os, sys, vt
with vt.Client("nobody's", host=os.environ["VT_HOST"]) as client, open(os.devnull, "w") as file:
    for item in itertools.islice(client.feed(vt.FeedType.FILES, cursor=sys.argv[1]), int(sys.argv[2])):
        file.write(json.dumps(item.to_dict()) + "\\n")
"""


class Cost(NamedTuple):
    """Seconds on the clock and of the CPU, and the peak memory in MB."""

    seconds: float
    cpu: float
    memory: float


def stamps(count: int) -> list[str]:
    """Return the names of the published minutes."""
    return [f"{START + timedelta(minutes=number):%Y%m%d%H%M}" for number in range(count)]


def make_package(path: Path, lines: int) -> int:
    """Write a package of made-up reports of some 40 KB, a sixth of that in bzip2, as real ones are. Return its size."""
    source = random.Random(path.name)

    def words(count: int) -> Iterator[str]:
        return (f"{source.choice(WORDS).title()}{source.choice(WORDS)}{source.randrange(9)}" for _ in range(count))

    def report() -> dict[str, object]:
        verdicts = {f"Engine{n}": {"method": "blacklist", "version": n, "result": next(words(1))} for n in range(75)}
        imports = [{"library_name": f"{word}.dll", "imported_functions": list(words(30))} for word in words(40)]
        resources = [{"sha256": source.randbytes(32).hex(), "lang": "ENGLISH US"} for _ in range(120)]
        attributes = {"verdicts": verdicts, "imports": imports, "resources": resources}
        return {"type": "file", "id": source.randbytes(32).hex(), "attributes": attributes}

    content = "".join(json.dumps(report()) + "\n" for _ in range(lines)).encode()
    path.write_bytes(bz2.compress(content))
    return len(content)


def serve(folder: Path) -> str:
    """Serve the packages, behind a redirect, from a thread. Return the server's URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stamp = self.path.rpartition("/")[2]
            if self.path.startswith("/api/v3/feeds/files/"):
                self.send_response(302)
                self.send_header("Location", f"/storage/{stamp}")
                self.end_headers()
            else:
                content = (folder / stamp).read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def measure(*command: str) -> Cost:
    """Run Python with these arguments, and return its cost. Its messages go to this process's stderr if it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            output.seek(0)
            raise SystemExit(output.read().decode())
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def main(
    minutes: Annotated[int, typer.Option(min=1, help="How many packages.")] = 12,
    lines: Annotated[int, typer.Option(min=1, help="Lines of each; a real one has about 1000.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
) -> None:
    """Print a table in Markdown."""
    with tempfile.TemporaryDirectory() as directory:
        names, share = stamps(minutes + 1), min(2, minutes)  # vt-py is slow
        with ProcessPoolExecutor() as executor:
            paths = [Path(directory, name) for name in names[:-1]]
            megabytes = sum(executor.map(make_package, paths, [lines] * minutes)) / 1e6
        os.environ |= {"VT_HOST": serve(Path(directory)), "VT_API_KEY": "nobody's"}
        dump = (FEED_DUMP, "files", "--from", names[0], "--to", names[-1], "--format")
        programs = {
            "bz2": ((*dump, "bz2"), (FEED_DUMP, "--help"), 1.0),
            "zst": ((*dump, "zst"), (FEED_DUMP, "--help"), 1.0),
            "vt-py": (("-c", VT_PY, names[0], str(share * lines)), ("-c", "import vt"), minutes / share),
        }
        rows: dict[str, list[Cost]] = {name: [] for name in programs}
        limits = [measure("-c", LIMIT, directory)]
        for name in list(programs) * rounds:
            command, idle, factor = programs[name]
            start, cost = measure(*idle), measure(*command)
            limits.append(measure("-c", LIMIT, directory))
            before, after = limits[-2:]
            seconds, cpu = (factor * 2 * (cost[n] - start[n]) / (before[n] + after[n]) for n in (0, 1))
            rows[name].append(Cost(seconds, cpu, cost.memory))

    speed = megabytes / statistics.median(limit.seconds for limit in limits)
    print(f"{minutes} minutes of {lines} lines, {megabytes:.0f} MB of JSON; {os.cpu_count()} cores; {rounds} rounds.")
    print(f"The limit is bz2.decompress on all cores: {speed:.0f} MB/s.\n")
    print("| | time, × limit | worst | target | CPU, × limit | peak memory, MB |\n|---|---|---|---|---|---|")
    for name, costs in rows.items():
        seconds, cpu, memory = (statistics.median(column) for column in zip(*costs, strict=True))
        worst = max(cost.seconds for cost in costs)
        print(f"| {name} | {seconds:.2f} | {worst:.2f} | {TARGETS.get(name, '')} | {cpu:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    typer.run(main)
