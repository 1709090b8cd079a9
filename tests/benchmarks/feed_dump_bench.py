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

A local server publishes made-up file reports. Each measurement is a process of its own, whose start does not count. The
limit is measured before and after each of the others. The table has the medians of their ratios over all rounds.

    uv run tests/benchmarks/feed_dump_bench.py
    uv run tests/benchmarks/feed_dump_bench.py --minutes 24 --lines 1000 --rounds 5
"""

from __future__ import annotations

import asyncio
import bz2
import itertools
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

KEY = "4ece9e3c0ffee000000000000000000000000000000000000000000000000000"  # nobody's
# The same in every process.
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
SPAWN = multiprocessing.get_context("spawn")
WORDS = ["agent", "beacon", "cache", "delta", "ember", "frost", "ghost", "install", "load", "run", "set", "get"]
TARGETS = {"bz2": 1.3, "zst": 1.5}


class Cost(NamedTuple):
    """Seconds on the clock and of the CPU, and the peak memory in MB."""

    seconds: float
    cpu: float
    memory: float


# ---- The packages and their server


def report(random_: random.Random) -> dict[str, Any]:
    """Return a made-up file report of some 40 KB, a sixth of that in bzip2, as real ones are."""

    def digits(count: int) -> str:
        return random_.randbytes(count // 2).hex()

    def words(count: int) -> list[str]:
        return [f"{a.title()}{b}{random_.randrange(9)}" for a, b in (random_.choices(WORDS, k=2) for _ in range(count))]

    verdicts = {
        f"Engine{number}": {
            "category": random_.choice(["malicious", "undetected", "undetected", "type-unsupported"]),
            "engine_name": f"Engine{number}",
            "engine_update": f"202611{random_.randrange(10, 29)}",
            "engine_version": f"{number}.{random_.randrange(99)}",
            "method": "blacklist",
            "result": random_.choice([None, *words(3)]),
        }
        for number in range(75)
    }
    sections = [{"name": ".text", "md5": digits(32), "chi2": random_.random() * 1e6} for _ in range(8)]
    resources = [{"sha256": digits(64), "lang": "ENGLISH US", "type": "RT_ICON"} for _ in range(120)]
    imports = [{"library_name": f"{word}.dll", "imported_functions": words(30)} for word in words(40)]
    return {
        "type": "file",
        "id": digits(64),
        "attributes": {"names": words(20), "last_analysis_results": verdicts, "tlsh": digits(70)}
        | {"pe_info": {"sections": sections, "resource_details": resources, "import_list": imports}},
    }


def make_packages(folder: Path, count: int, lines: int) -> int:
    """Write `count` packages to the folder; return their size before compression in bytes."""
    size = 0
    for number in range(count):
        source = random.Random(number)
        content = "".join(json.dumps(report(source)) + "\n" for _ in range(lines)).encode()
        (folder / f"{number}.bz2").write_bytes(bz2.compress(content))
        size += len(content)
    return size


def serve(folder: Path, connection: Any) -> None:
    """Serve the packages as consecutive minutes from START on, behind a redirect. Send the server's URL."""
    from aiohttp import web

    async def redirect(request: web.Request) -> web.Response:
        minute = datetime.strptime(request.match_info["minute"], "%Y%m%d%H%M").replace(tzinfo=UTC)
        raise web.HTTPFound(f"/storage/{(minute - START) // timedelta(minutes=1)}.bz2")

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/api/v3/feeds/files/{minute}", redirect)
        app.router.add_static("/storage", folder)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        connection.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(run())


# ---- What is measured


def limit(folder: Path) -> None:
    """Decompress all packages, and do nothing else."""
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for _ in executor.map(lambda path: len(bz2.decompress(path.read_bytes())), folder.glob("*.bz2")):
            pass


def dump(url: str, count: int, compression: str) -> None:
    """Dump all minutes."""
    import feed_dump

    os.environ |= {"VT_HOST": url, "VT_API_KEY": KEY}
    with tempfile.TemporaryDirectory() as out:
        stop = START + timedelta(minutes=count)
        run = feed_dump.dump_feed("files", START, stop, out=Path(out), compression=compression)
    assert run.counts["minutes"] == count


def vt_py(url: str, lines: int) -> None:
    """Write so many objects as vt-py's documentation does it."""
    import vt

    with vt.Client(KEY, host=url) as client, tempfile.TemporaryFile("w") as file:
        for item in itertools.islice(client.feed(vt.FeedType.FILES, cursor=f"{START:%Y%m%d%H%M}"), lines):
            file.write(json.dumps(item.to_dict()) + "\n")


def timed(connection: Any, function: Callable[..., None], *args: Any) -> None:
    """Send the cost of a call."""
    import aiohttp  # noqa: F401 - what is imported before the clock starts
    import feed_dump  # noqa: F401

    began = time.perf_counter(), time.process_time()
    function(*args)
    seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    unit = 1e6 if sys.platform == "darwin" else 1e3
    connection.send(Cost(seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit))


def measure(function: Callable[..., None], *args: Any) -> Cost:
    """Return the cost of a call in a process of its own."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=timed, args=(there, function, *args))
    process.start()
    there.close()
    cost: Cost = here.recv()  # EOFError if the call failed; its traceback is on stderr
    process.join()
    return cost


def main(
    minutes: Annotated[int, typer.Option(min=1, help="How many packages.")] = 12,
    lines: Annotated[int, typer.Option(min=1, help="Lines of each; a real one has about 1000.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
) -> None:
    """Print a table in Markdown."""
    with tempfile.TemporaryDirectory() as directory, SPAWN.Pool(1) as pool:
        folder = Path(directory)
        megabytes = pool.apply(make_packages, (folder, minutes, lines)) / 1e6
        here, there = SPAWN.Pipe()
        server = SPAWN.Process(target=serve, args=(folder, there), daemon=True)
        server.start()
        url = here.recv()
        share = min(2, minutes)  # vt-py is slow
        calls = {
            "bz2": (dump, url, minutes, "bz2"),
            "zst": (dump, url, minutes, "zst"),
            "vt-py": (vt_py, url, share * lines),
        }
        rows: dict[str, list[Cost]] = {"limit": [measure(limit, folder)]} | {name: [] for name in calls}
        for _, (name, call) in itertools.product(range(rounds), calls.items()):
            cost, before = measure(*call), rows["limit"][-1]
            rows["limit"].append(measure(limit, folder))
            parts = minutes / share if name == "vt-py" else 1
            seconds, cpu = (2 * parts * cost[n] / (before[n] + rows["limit"][-1][n]) for n in (0, 1))
            rows[name].append(Cost(seconds, cpu, cost.memory))
        server.terminate()

    speed = megabytes / statistics.median(cost.seconds for cost in rows.pop("limit"))
    print(f"{minutes} minutes of {lines} lines, {megabytes:.0f} MB of JSON; {os.cpu_count()} cores; {rounds} rounds.")
    print(f"The limit is bz2.decompress on all cores: {speed:.0f} MB/s.\n")
    print("| | time, × limit | worst | target | CPU, × limit | peak memory, MB |\n|---|---|---|---|---|---|")
    for name, costs in rows.items():
        seconds, cpu, memory = (statistics.median(column) for column in zip(*costs, strict=True))
        worst = max(cost.seconds for cost in costs)
        print(f"| {name} | {seconds:.2f} | {worst:.2f} | {TARGETS.get(name, '')} | {cpu:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    typer.run(main)
