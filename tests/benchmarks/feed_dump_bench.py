#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["aiohttp>=3.13,<4", "psutil>=7,<8", "tabulate>=0.9,<1", "typer>=0.27,<0.30", "vt-py>=0.22,<0.23"]
#
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# ///
"""How fast feed_dump.py is, beside vt-py's own way and beside what the machine can do at all.

One run measures, over the same made-up packages (file reports of 25 to 75 KB, bz2 of a sixth of that):

- the limit: bz2.decompress on all cores, nothing else; the same and a plain copy of the package; the copy alone;
- feed_dump.py as bz2 (raw, verified), zst, --where, parquet, from a local server that redirects to a second port;
- `client.feed()` of vt-py, written out as JSON lines, from the same server;
- feed_dump.py over 10, 100 and 1000 minutes of small packages.

Rates are MB of JSON a second. A round runs each once, with the limit right before and after it; a ratio is the median
over the rounds of the ratios to those two, in time and in CPU seconds, so that what else the machine does falls out as
far as it can. A first round, not timed, warms up and is watched for memory. Starting a program (uv, Python, imports:
the same run over one tiny minute) is taken off. Nothing here can fail for being slow; it stops by itself after --budget
seconds at the latest.

    uv run tests/benchmarks/feed_dump_bench.py
    uv run tests/benchmarks/feed_dump_bench.py --minutes 8 --lines 1000 --rounds 5 --budget 600
"""

from __future__ import annotations

import bz2
import dataclasses
import datetime as dt
import json
import multiprocessing
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

FEED_DUMP = Path(__file__).parents[2] / "scripts" / "feed_dump.py"
KEY = "4ece9e3c0ffee000000000000000000000000000000000000000000000000000"  # nobody's
WHERE = "$[?(@.last_analysis_stats.malicious > 5)]"  # a third of the lines
COLUMNS = {
    "sha256": "$.attributes.sha256",
    "malicious": "$.attributes.last_analysis_stats.malicious",
    "tags": "$.attributes.tags[*]",
    "imphash": "$.attributes.pe_info.imphash",
}
MODES = {
    "raw (bz2)": [],
    "zst": ["--format", "zst"],
    "--where, zst": ["--format", "zst", "--where", WHERE],
    "parquet": ["--format", "parquet", *(a for c in COLUMNS.items() for a in ("--column", "=".join(c)))],
}
GROWTH = (10, 100, 1000)
DISTINCT = 6  # packages; the minutes take them in turn
SPAWN = multiprocessing.get_context("spawn")

# Packages

WORDS = re.findall(
    r"\w+",
    """
    agent alien amber atlas beacon binder bridge cabin cache carbon client cobalt core crypt delta driver echo ember
    engine falcon frame gamma ghost harbor helper install ivory jade kernel lantern launch loader lumen mantis
    matrix monitor nexus noble onyx orbit packet panel phantom pixel portal prism proxy quartz radar relay remote
    ruby runner sable saturn script secure sentry server service setup shadow signal silver socket spark stream sync
    talon tempest tiger titan torch tracker update utility vapor vector vertex viper vortex watcher wizard zenith
    """,
)
ENGINES = [word.title() + suffix for word, suffix in zip(WORDS, ["", "AV", "-Secure", "Defender"] * 18, strict=False)]


def report(seed: random.Random) -> dict[str, Any]:
    """A made-up file report: the attributes that weigh most in real ones, with values as varied as theirs."""

    def digits(count: int) -> str:
        return seed.randbytes(count // 2).hex()

    def name(*suffixes: str) -> str:
        return f"{seed.choice(WORDS)}{seed.choice(WORDS)}{seed.randrange(99)}{seed.choice(suffixes)}"

    def several(*counts: int) -> range:
        return range(seed.choice(counts))

    def verdict(engine: str) -> dict[str, Any]:
        hit = malicious and seed.random() < 0.6
        names = [f"Trojan.{family}.{seed.randrange(999)}", f"Win32/{family}.{seed.choice('ABC')}", f"Gen:{digits(6)}"]
        return {
            "category": "malicious" if hit else seed.choice(["undetected"] * 8 + ["type-unsupported", "timeout"]),
            "engine_name": engine,
            "engine_update": f"202607{seed.choice([day, day, day, day - 1]):02}",
            "engine_version": f"{len(engine)}.{ENGINES.index(engine) % 9}.{day}.{ENGINES.index(engine) * 37}",
            "method": "blacklist",
            "result": seed.choice(names) if hit else None,
        }

    def related(kind: str) -> list[dict[str, Any]]:
        items: dict[str, Callable[[], dict[str, Any]]] = {
            "domains": lambda: {"id": name(".com", ".net", ".xyz"), "type": "domain"},
            "ips": lambda: {"id": ".".join(str(byte) for byte in seed.randbytes(4)), "type": "ip_address"},
            "urls": lambda: {
                "context_attributes": {"url": f"http://{name('.com', '.top')}/{digits(10)}"},
                "id": digits(64),
                "type": "url",
            },
        }
        return [items[kind]() for _ in range(seed.randrange(5, 21))]

    sha256, day, malicious = digits(64), seed.randrange(10, 29), seed.random() < 0.35
    date, family = seed.randrange(1_782_000_000, 1_785_000_000), seed.choice(WORDS).title() + "Bot"
    link = f"https://www.virustotal.com/api/v3/files/{sha256}"
    results = {engine: verdict(engine) for engine in ENGINES}
    attributes = {
        "names": [f"{name('-')}{digits(16)}.exe" for _ in several(1, 2, 5, 20, 80)],
        "md5": digits(32),
        "sha1": digits(40),
        "sha256": sha256,
        "tlsh": "T1" + digits(70).upper(),
        "ssdeep": f"{seed.choice([3072, 6144, 12288])}:{digits(60)}:{digits(40)}",
        "size": seed.randrange(10**4, 10**8),
        "magic": "PE32 executable (GUI) Intel 80386, for MS Windows",
        "first_submission_date": date - seed.randrange(10**6),
        "last_analysis_date": date,
        "times_submitted": seed.randrange(1, 40),
        "tags": seed.sample(["peexe", "overlay", "signed", "64bits", "idle", "assembly", "long-sleeps"], 4),
        "trid": [{"file_type": f"{word} executable", "probability": seed.randrange(900) / 10} for word in WORDS[:5]],
        "last_analysis_results": results,
        "last_analysis_stats": {
            category: sum(result["category"] == category for result in results.values())
            for category in ("malicious", "suspicious", "undetected", "harmless", "timeout", "type-unsupported")
        },
        "exiftool": {
            "CodeSize": str(seed.randrange(10**6)),
            "CompanyName": f"{name(' Ltd.')} ©",
            "EntryPoint": "0x" + digits(4),
            **{f"{word.title()}Version": f"{seed.randrange(99)}.{seed.randrange(9)}" for word in WORDS[:20]},
        },
        "sandbox_verdicts": {
            f"{word.title()} Box": {
                "category": seed.choice(["malicious", "harmless"]),
                "confidence": seed.randrange(100),
                "malware_classification": [family.upper()],
                "sandbox_name": f"{word.title()} Box",
            }
            for word in seed.sample(WORDS[:8], seed.randrange(5))
        },
        "crowdsourced_yara_results": [
            {
                "author": f"{word.title()} Labs",
                "description": f"Detects {word} artefacts as seen in {seed.choice(WORDS)} campaigns; see the blog post",
                "rule_name": f"MAL_{word.title()}_{seed.choice(WORDS)}",
                "source": f"https://github.com/{word}/signature-base",
            }
            for word in seed.sample(WORDS[:30], seed.randrange(5))
        ],
        "sigma_analysis_results": [
            {
                "rule_title": f"Suspicious {word} process",
                "rule_level": seed.choice(["low", "medium", "high"]),
                "match_context": [
                    {"values": {"CommandLine": f'C:\\Users\\user\\Temp\\{digits(12)}.exe /{word} "{digits(20)}"'}}
                    for _ in several(1, 2, 6)
                ],
            }
            for word in seed.sample(WORDS[:40], seed.randrange(7))
        ],
    }
    if seed.random() < 0.7:
        attributes["pe_info"] = {
            "imphash": digits(32),
            "import_list": [
                {
                    "library_name": f"{dll}.dll",
                    "imported_functions": [
                        f"{verb}{dll.title()}{noun}"
                        for verb in seed.sample(["Get", "Set", "Create", "Open", "Close", "Nt"], 3)
                        for noun in seed.sample(WORDS, 9)
                    ],
                }
                for dll in seed.sample(WORDS[:28], seed.randrange(3, 20))
            ],
            "sections": [
                {
                    "name": section,
                    "chi2": seed.randrange(10**7) / 100,
                    "entropy": seed.randrange(800) / 100,
                    "md5": digits(32),
                    "raw_size": seed.randrange(10**6),
                    "virtual_address": seed.randrange(10**6),
                }
                for section in (".text", ".rdata", ".data", ".rsrc", ".reloc")
            ],
            "resource_details": [
                {
                    "lang": "ENGLISH US",
                    "chi2": seed.randrange(10**6) / 100,
                    "filetype": "ICO",
                    "sha256": digits(64),
                    "type": "RT_ICON",
                }
                for _ in several(5, 10, 20, 40, 90)
            ],
        }
    else:
        attributes["androguard"] = {
            "Activities": [f"com.{name('.')}{name('Activity')}" for _ in several(20, 60, 120, 200)],
            "StringsInformation": [f"https://{name('.com')}/{digits(12)}" for _ in several(5, 20, 80)],
            "permission_details": {
                f"android.permission.{word.upper()}": {
                    "full_description": f"Allows the application to {word} the device and to read what others left.",
                    "permission_type": seed.choice(["normal", "dangerous"]),
                }
                for word in seed.sample(WORDS, 40)
            },
        }
    relationships = {
        f"{how}_{kind}": {
            "data": related(kind),
            "links": {
                "related": f"{link}/{how}_{kind}",
                "self": f"{link}/relationships/{how}_{kind}?limit=20",
            },
        }
        for how in ("contacted", "embedded")
        for kind in ("domains", "ips", "urls")
    }
    context = {
        "download_url": f"https://www.virustotal.com/api/v3/feeds/files/{digits(120)}/download",
        "submitter": {"country": seed.choice(["US", "DE", "FR", "BR"]), "id": digits(8), "interface": "api"},
    }
    return {
        "id": sha256,
        "type": "file",
        "links": {"self": link},
        "attributes": attributes,
        "context_attributes": context,
        "relationships": relationships,
    }


def package(seed: int, lines: int) -> bytes:
    """`lines` reports as JSON lines: the same bytes for the same `seed`."""
    source = random.Random(seed)
    return "".join(json.dumps(report(source)) + "\n" for _ in range(lines)).encode()


# The server: a process of its own


def serve(ranges: dict[str, tuple[int, list[bytes]]], ready: Any) -> None:
    """Answers feed minutes by a redirect to a second port, which has the packages. Sends the API's URL to `ready`.

    `ranges` is {first minute: (how many minutes, the packages they take in turn)}; any other minute is not found.
    """
    import asyncio

    from aiohttp import web

    minutes = {
        when.strftime("%Y%m%d%H%M"): packages[number % len(packages)]
        for first, (count, packages) in ranges.items()
        for number, when in enumerate(clock(first, count))
    }

    async def run() -> None:
        async def storage(request: web.Request) -> web.Response:
            return web.Response(body=minutes[request.match_info["minute"]], content_type="application/octet-stream")

        async def api(request: web.Request) -> web.Response:
            minute = request.match_info["minute"]
            if minute not in minutes:
                return web.json_response({"error": {"code": "NotFoundError", "message": minute}}, status=404)
            return web.Response(status=302, headers={"Location": f"{urls[1]}/packages/{minute}?signature=x"})

        urls = []
        for path, handler in (("/api/v3/feeds/files/{minute}", api), ("/packages/{minute}", storage)):
            app = web.Application()
            app.router.add_get(path, handler)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.send(urls[0])
        await asyncio.Event().wait()

    asyncio.run(run())


def clock(first: str, count: int) -> Iterator[dt.datetime]:
    start = dt.datetime.strptime(first, "%Y%m%d%H%M").replace(tzinfo=dt.UTC)
    return (start + dt.timedelta(minutes=number) for number in range(count + 1) if number < count)


# What is measured


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds on the clock and of the CPU (0 where the system does not tell: children, on Windows)."""

    seconds: float
    cpu: float

    @classmethod
    def now(cls) -> Cost:
        return cls(time.perf_counter(), sum(os.times()[:4]))  # this process and its finished children

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.seconds - other.seconds, self.cpu - other.cpu)


def limit(file: Path) -> None:
    bz2.decompress(file.read_bytes())


def limit_and_copy(file: Path) -> None:
    body = file.read_bytes()
    bz2.decompress(body)
    file.with_suffix(".copy").write_bytes(body)


def copy(file: Path) -> None:
    shutil.copyfile(file, file.with_suffix(".copy"))


def vt_py(url: str, first: str, output: Path, result: Any) -> None:
    """The loop of vt-py's documentation, as JSON lines, from the minute `first` to the feed's end.

    Sends the cost and the lines to `result`. The end is two minutes not found in a row: the client raises on the second
    one (NotAvailableYet in its place would have it wait for ever).
    """
    import vt

    lines, start = 0, Cost.now()
    with open(output, "w", encoding="utf-8") as file, vt.Client(KEY, host=url) as client:
        try:
            for item in client.feed(vt.FeedType.FILES, cursor=first):
                file.write(json.dumps(item.to_dict()) + "\n")
                lines += 1
        except vt.APIError as error:
            if error.code != "NotFoundError":
                raise
    result.send((Cost.now() - start, lines))


class Bench:
    """The packages, the server and the time left. `memory` is the peak of each thing that was watched, in MB."""

    def __init__(self, folder: Path, minutes: int, lines: int, budget: float) -> None:
        self.folder, self.minutes, self.lines, self.end = folder, minutes, lines, time.monotonic() + budget
        self.memory: dict[str, float] = {}
        self.starts: dict[str, Cost] = {}
        bodies = [package(seed, lines) for seed in range(min(DISTINCT, minutes))]
        packages = [bz2.compress(body) for body in bodies]
        self.files = [folder / f"{number}.bz2" for number in range(minutes)]
        for number, file in enumerate(self.files):
            file.write_bytes(packages[number % len(packages)])
        self.megabytes = [len(bodies[number % len(bodies)]) / 1e6 for number in range(minutes)]
        small = [bz2.compress(package(seed, 2)) for seed in range(DISTINCT)]
        # Days that VirusTotal would still have, so that the script has no reason to refuse them.
        today = dt.datetime.now(dt.UTC)
        self.big, self.small = ((today - dt.timedelta(days=days)).strftime("%Y%m%d0000") for days in (2, 3))
        here, there = SPAWN.Pipe()
        ranges = {self.big: (minutes, packages), self.small: (max(GROWTH), small)}
        self.server = SPAWN.Process(target=serve, args=(ranges, there), daemon=True)
        self.server.start()
        if not here.poll(30):
            raise SystemExit("the local server does not start")
        self.url = here.recv()
        sizes = sorted(len(line) / 1e3 for body in bodies for line in body.splitlines())
        self.about = (
            f"{minutes} minutes of {lines} lines of {sizes[0]:.0f} to {sizes[-1]:.0f} KB (median "
            f"{statistics.median(sizes):.0f}), {sum(self.megabytes):.0f} MB of JSON, bz2 1:"
            f"{sum(map(len, bodies)) / sum(map(len, packages)):.1f}; {os.cpu_count()} cores, Python {sys.version[:6]}"
        )

    @property
    def left(self) -> float:
        """Seconds of the budget; raises TimeoutError when it is spent."""
        if self.end < time.monotonic():
            raise TimeoutError
        return self.end - time.monotonic()

    def others(self) -> float:
        """CPU seconds that programs which are none of ours have taken so far: the fewer, the better the figures."""
        times, server = psutil.cpu_times(), psutil.Process(self.server.pid).cpu_times()
        busy = sum(getattr(times, name, 0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return float(busy - Cost.now().cpu - server.user - server.system)

    def on_all_cores(self, work: Callable[[Path], object]) -> Cost:
        assert self.left
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # bz2 releases the GIL
            start = Cost.now()
            list(pool.map(work, self.files))
            return Cost.now() - start

    def feed_dump(self, first: str, minutes: int, options: Sequence[str] = (), watch: str = "") -> Cost:
        """Runs the script as its user does, into an empty folder, from its start to its exit."""
        output = Path(tempfile.mkdtemp(dir=self.folder))
        last = [*clock(first, minutes + 1)][-1].strftime("%Y%m%d%H%M")
        times = ["--from", first, "--to", last]
        command = ["uv", "run", "--script", str(FEED_DUMP), "files", *times, "--out", str(output), *options]
        env = os.environ | {"VT_HOST": self.url, "VT_API_KEY": KEY, "VT_RATE": "", "NO_COLOR": "1"}
        with tempfile.TemporaryFile() as log:
            start = Cost.now()
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
            with process, Watch(process.pid, watch, self.memory):
                try:
                    code = process.wait(self.left)
                except (subprocess.TimeoutExpired, TimeoutError):
                    process.terminate()
                    raise TimeoutError from None
            cost = Cost.now() - start
            published = sum(file.is_file() for file in output.rglob("date=*/hour=*/2*"))
            if code or published != minutes:
                log.seek(0)
                said = log.read().decode(errors="replace")[-2000:]
                raise SystemExit(f"{' '.join(command)}: exit code {code}, {published} files of {minutes}\n{said}")
        shutil.rmtree(output)
        return cost

    def net(self, options: Sequence[str], watch: str = "") -> Cost:
        """All the minutes, without what the quickest start so far cost."""
        start, key = self.feed_dump(self.small, 1, options), " ".join(options)
        known = self.starts.get(key, start)
        self.starts[key] = start = Cost(min(known.seconds, start.seconds), min(known.cpu, start.cpu))
        return self.feed_dump(self.big, self.minutes, options, watch) - start

    def official(self, minutes: int, watch: str = "") -> Cost:
        """vt-py over the last `minutes` of the range, its start not counted."""
        first = [*clock(self.big, self.minutes)][-minutes].strftime("%Y%m%d%H%M")
        here, there = SPAWN.Pipe()
        process = SPAWN.Process(target=vt_py, args=(self.url, first, self.folder / "vt-py.jsonl", there), daemon=True)
        process.start()
        with Watch(process.pid or 0, watch, self.memory):
            if not here.poll(self.left):
                process.kill()
                raise TimeoutError
            cost, lines = here.recv()
        process.join(5)
        assert lines == minutes * self.lines, f"vt-py wrote {lines} lines of {minutes * self.lines}"
        return cost


class Watch(threading.Thread):
    """While the `with` block runs: the memory of a process and its descendants, in `peaks[name]`. No name, no watch."""

    def __init__(self, pid: int, name: str, peaks: dict[str, float]) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak_of, self.peaks, self.over = pid, name, peaks, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            total = 0
            try:
                for process in [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]:
                    if process.name() != "uv":  # the launcher, which waits
                        info = process.memory_full_info()
                        total += getattr(info, "pss", info.rss)  # pages shared count once, where the system tells
            except psutil.Error:  # one of them has just ended
                continue
            self.peaks[self.peak_of] = max(self.peaks.get(self.peak_of, 0), total / 1e6)

    def __enter__(self) -> None:
        if self.peak_of:
            self.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()


@dataclasses.dataclass
class Result:
    """One thing in one round: MB of JSON a second, and its cost as a multiple of the limit's beside it."""

    speed: float
    time: float
    cpu: float


def rounds(bench: Bench, count: int, official: int) -> dict[str, list[Result]]:
    """What each thing cost, once a round; fewer rounds when the budget is spent. The first is to warm up."""
    total, last = sum(bench.megabytes), sum(bench.megabytes[-official:])
    things: dict[str, tuple[float, Callable[[str], Cost]]] = {
        "plain copy": (total, lambda _: bench.on_all_cores(copy)),
        "limit and plain copy": (total, lambda _: bench.on_all_cores(limit_and_copy)),
        "limit": (total, lambda _: bench.on_all_cores(limit)),
        "vt-py": (last, lambda watch: bench.official(official, watch)),
    }
    for name, options in MODES.items():
        things[name] = (total, lambda watch, options=options: bench.net(options, watch))  # type: ignore[misc]
    found: dict[str, list[Result]] = {name: [] for name in things}
    for number in range(count + 1):
        try:
            before = bench.on_all_cores(limit)
            for name, (megabytes, thing) in things.items():
                cost = thing("" if number else name)
                after = bench.on_all_cores(limit)
                beside = Cost((before.seconds + after.seconds) / 2, (before.cpu + after.cpu) / 2)
                before, share = after, megabytes / total
                if number:
                    ratios = cost.seconds / beside.seconds / share, cost.cpu / beside.cpu / share
                    found[name].append(Result(megabytes / cost.seconds, *ratios))
            print(
                f"round {number} of {count}{'' if number else ', to warm up'}: {bench.left:.0f} s left", file=sys.stderr
            )
        except TimeoutError:
            print(f"the time is up in round {number} of {count}", file=sys.stderr)
            break
    return found


def growth(bench: Bench, count: int) -> dict[int, list[Cost]]:
    """Raw mode over 1, 10, 100 and 1000 small packages, once a round, starting included."""
    found: dict[int, list[Cost]] = {minutes: [] for minutes in (1, *GROWTH)}
    for number in range(count + 1):
        for minutes, costs in found.items():
            try:
                cost = bench.feed_dump(bench.small, minutes, watch="" if number else f"{minutes} minutes")
            except TimeoutError:
                print(f"the time is up in round {number} of {count}", file=sys.stderr)
                return found
            if number:
                costs.append(cost)
    return found


def main(
    minutes: Annotated[int, typer.Option(help="packages in the range", min=1)] = 24,
    lines: Annotated[int, typer.Option(help="lines a package; a real minute of files has about 1000", min=1)] = 200,
    times: Annotated[int, typer.Option("--rounds", help="timed rounds, after one to warm up", min=1)] = 3,
    official: Annotated[int, typer.Option(help="minutes that vt-py gets: it is slow", min=1)] = 2,
    budget: Annotated[float, typer.Option(help="seconds after which it stops, whatever is left")] = 240,
) -> None:
    """Prints two tables in Markdown: the speeds beside the limit, and the growth with the minutes."""
    from tabulate import tabulate

    with tempfile.TemporaryDirectory(prefix="feed_dump_bench-") as folder:
        bench = Bench(Path(folder), minutes, lines, budget)
        print(bench.about, file=sys.stderr)
        start = time.perf_counter(), bench.others()
        try:
            bench.end -= budget / 4  # which is the growth's
            results = rounds(bench, times, min(official, minutes))
            bench.end += budget / 4
            grown = growth(bench, times)
            others = (bench.others() - start[1]) / (time.perf_counter() - start[0]) / (os.cpu_count() or 1)
        finally:
            bench.server.terminate()
    median = {
        name: Result(*(statistics.median(column) for column in zip(*map(dataclasses.astuple, each), strict=True)))
        for name, each in results.items()
        if each
    }
    table = [
        [
            name,
            f"{result.speed:.0f}",
            f"{result.time:.2f}",
            f"{result.cpu:.2f}",
            f"{median['vt-py'].time / result.time:.1f}" if "vt-py" in median else "",
            f"{bench.memory[name]:.0f}" if name in bench.memory else "",
        ]
        for name, result in sorted(median.items(), key=lambda pair: pair[1].time)
    ]
    headers = ["", "MB of JSON/s", "time, × limit", "CPU, × limit", "speed, × vt-py", "peak memory, MB"]
    print(f"{bench.about}. Rounds: {len(results['limit'])}.")
    print(f"The limit is bz2.decompress on all cores. Other programs took {others:.0%} of the cores meanwhile.\n")
    print(tabulate(table, headers, tablefmt="github", colalign=["left"] + ["right"] * 5, disable_numparse=True))
    if all(grown.values()):
        seconds = {minutes: statistics.median(cost.seconds for cost in costs) for minutes, costs in grown.items()}
        print("\nRaw, packages of 2 lines; the third column is without the start.\n")
        table = [
            [
                f"{minutes}",
                f"{seconds[minutes]:.2f}",
                f"{(seconds[minutes] - seconds[1]) / (minutes - 1) * 1e3:.1f}" if minutes > 1 else "",
                f"{bench.memory[f'{minutes} minutes']:.0f}",
            ]
            for minutes in grown
        ]
        headers = ["minutes", "seconds", "ms a minute", "peak memory, MB"]
        print(tabulate(table, headers, tablefmt="github", colalign=["right"] * 4, disable_numparse=True))


if __name__ == "__main__":
    typer.run(main)
