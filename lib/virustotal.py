"""`VirusTotal`, the one place where the network's misfortunes are met, and its `pages`, which lose and repeat nothing.

`vendor.py` copies what stands between the markers into the scripts; the imports stay with the script.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import email.utils
import json
import os
import random
import re
import shlex
import time
import tomllib
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import aiolimiter
import tenacity
import vt
import yarl

from output import UsageError, say

# vendor:begin
Json = dict[str, Any]  # an object, or a whole answer, as VirusTotal sends it


# Seconds that a task has waited for its turns.
QUEUED: contextvars.ContextVar[float] = contextvars.ContextVar("QUEUED", default=0)
FRUITLESS = 100  # the most pages in a row that hold nothing new: some are normal, and each is paid for


class VirusTotalError(vt.APIError):
    """What came in place of data: VirusTotal's `code` and `message`, or ours for what the network did.

    `status` is HTTP's (0: no whole answer), `retry_after` seconds or None, `heals` whether asking again may help,
    `sent` whether VirusTotal may have carried the request out, `cursor` where the pages go on.
    """

    def __init__(self, code: str, message: str, status: int = 0, *, heals: bool = False, sent: bool = True) -> None:
        super().__init__(code, message)
        self.status, self.heals, self.sent = status, heals, sent
        self.retry_after: float | None = None
        self.cursor: str | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}{self.cure}{resumption(self.cursor)}"

    @property
    def cure(self) -> str:
        """What to do about it, where neither VirusTotal's message nor a cursor says so."""
        if self.cursor or self.exit_code == 2 or self.status == 404:
            return ""
        if self.status == 429:
            return " (run it again when there is quota)"
        network = "look at the network, VT_HOST and HTTPS_PROXY, or " if self.status == 0 else ""
        return f" ({network}run it again later)" if self.heals else ""

    @property
    def exit_code(self) -> int:
        """2 for what the user can mend, 4 for the quota, 1 for all else."""
        return 4 if self.status == 429 else 2 if self.status in (400, 401, 403, 409) else 1


class VirusTotal(vt.Client):
    """vt-py's client with `ask` and `pages`, which repeat what heals for up to VT_MAX_WAIT seconds (default 300).

    The key is `apikey`, else VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml; it goes to `host` (else VT_HOST) alone, whatever
    link or redirect is followed. VT_RATE is the most requests a minute. Proxies come from the environment.
    `requests` counts what VirusTotal was asked. Raises UsageError when a setting is missing or makes no sense.
    """

    def __init__(self, apikey: str | None = None, host: str | None = None) -> None:
        key, self._key_source = find_key(apikey)
        host = host or os.environ.get("VT_HOST") or "https://www.virustotal.com"
        try:
            self._origin = yarl.URL(host).origin()
            if self._origin.scheme not in ("http", "https"):
                raise ValueError("no http")
        except ValueError:
            raise UsageError(f"VT_HOST is {host}, which is no URL such as https://www.virustotal.com") from None
        self.max_wait = positive("VT_MAX_WAIT", 300)
        # One request each so many seconds: with a burst before the steady flow the first minute is overdrawn.
        self._pace = aiolimiter.AsyncLimiter(1, 60 / positive("VT_RATE", 60_000))
        super().__init__(key, agent="virustotal-scripts", host=host.rstrip("/"), trust_env=True)
        self.requests = 0

    def _get_session(self) -> aiohttp.ClientSession:
        """vt-py's session, without its default headers: they carry the key to every host."""
        if self._session is None:  # type: ignore[has-type]
            wait = self.max_wait
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                # VirusTotal compresses for strangers only where the agent too says gzip (vt-py's _USER_AGENT_FMT).
                headers={"User-Agent": f"{self._agent}; gzip", "Accept-Encoding": "gzip"},
                timeout=aiohttp.ClientTimeout(total=wait, sock_connect=min(30, wait), sock_read=min(60, wait / 2)),
                middlewares=(self._authorise,),
                trust_env=True,
            )
        return self._session

    async def _authorise(self, request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        """aiohttp calls this for each hop, redirects too: feeds redirect to storage on another host."""
        if request.url.origin() == self._origin:
            request.headers["X-Apikey"] = self._apikey
            self.requests += 1
        else:  # with proxies from the environment, aiohttp takes passwords from ~/.netrc too, for any host
            request.headers.pop("Authorization", None)
        return await handler(request)

    def _full_url(self, path: str, *args: Any) -> str:
        """`path` with each {} filled by one quoted segment; a whole URL (a link out of an answer) stays as it is."""
        if path.startswith(("https://", "http://")):
            return path
        if {".", "..", ""} & set(map(str, args)):
            raise UsageError(f"not an id: {args}")
        return f"{self._host}/api/v3{path.format(*(urllib.parse.quote(str(arg), safe='') for arg in args))}"

    @contextlib.asynccontextmanager
    async def answer(self, method: str, path: str, *args: Any, **kwargs: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, asked once: the answer, its body still to be read inside the block.

        `path` and `args` are as for `ask`, `kwargs` aiohttp's (params, json, timeout). Raises VirusTotalError unless
        the status is 2xx, and for what the network does until the block ends.
        """
        began = time.monotonic()
        await self._pace.acquire()  # not in the session, whose timeout would count the wait as VirusTotal's
        QUEUED.set(QUEUED.get() + time.monotonic() - began)
        try:
            async with self._get_session().request(method, yarl.URL(self._full_url(path, *args)), **kwargs) as response:
                if response.status >= 300:
                    raise await self._error(response)
                yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            lasting = (
                aiohttp.ClientSSLError,
                aiohttp.InvalidURL,
                aiohttp.NonHttpUrlClientError,
                aiohttp.TooManyRedirects,
            )
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            message, heals = self._redacted(str(error)) or "no answer in time", not isinstance(error, lasting)
            message += "" if heals else " (look at VT_HOST and HTTPS_PROXY)"
            raise VirusTotalError(type(error).__name__, message, heals=heals, sent=sent) from None

    def _redacted(self, text: str) -> str:
        """`text` without the key, in whichever case it was echoed."""
        return re.sub(re.escape(self._apikey), "[key]", text, flags=re.IGNORECASE)

    async def _error(self, response: aiohttp.ClientResponse) -> VirusTotalError:
        """What an answer of status 3xx, 4xx or 5xx says; `heals` as in VirusTotal's table of errors."""
        try:
            async with asyncio.timeout(60):  # of a download, which has no bound of its own, an error may drip
                body = await response.content.readexactly(1 << 16)  # no error takes more
        except asyncio.IncompleteReadError as short:
            body = short.partial
        # UTF-8 whatever charset is announced: Python knows some (zlib, idna) that decode nothing here.
        status, text = response.status, body.decode(errors="replace")
        try:
            said = json.loads(text)["error"]
            code, message = str(said["code"]), str(said.get("message"))
            broken = False
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # a proxy's HTML, or half an answer
            # The key goes before anything is cut: WrongCredentialsError has echoed it.
            code, message = f"HTTP {status}", " ".join(re.sub(r"<[^<>]*>", " ", self._redacted(text)).split())[:200]
            broken = "json" in response.content_type
        # Redacted here too: JSON may have spelled the key in escapes.
        code, message = self._redacted(code)[:100], self._redacted(message)[:1000]
        if status in (401, 403):
            message += f" (the key is from {self._key_source}; searches, feeds and hunting need a premium one)"
        heals = status in (424, 429) or 500 <= status <= 504 or broken
        error = VirusTotalError(code, message, status, heals=heals, sent=status != 429)
        error.retry_after = retry_after(response.headers)
        return error

    def retrying(self, heals: Callable[[VirusTotalError], bool] = lambda error: error.heals) -> tenacity.AsyncRetrying:
        """`await client.retrying()(function, *args)`: calls it again after each VirusTotalError that `heals`.

        Retry-After wins over the exponential wait. The last error is raised once VT_MAX_WAIT would be overrun, the wait
        for VT_RATE's turns not counted.
        """
        queued = QUEUED.get()
        backoff = tenacity.wait_exponential_jitter(multiplier=0.5, max=60)

        def failure(state: tenacity.RetryCallState) -> Any:
            return state.outcome and state.outcome.exception()

        def wait(state: tenacity.RetryCallState) -> float:
            asked = failure(state).retry_after
            return backoff(state) if asked is None else asked + random.uniform(0, 1)

        def announce(state: tenacity.RetryCallState) -> None:
            error, bound = failure(state), f"{self.max_wait:g} s in all, as VT_MAX_WAIT says"
            say(f"{error.code}: {error.message}: asking again in {state.upcoming_sleep:.0f} s ({bound})")

        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, VirusTotalError) and heals(error)),
            wait=wait,
            stop=lambda state: tenacity.stop_before_delay(self.max_wait + QUEUED.get() - queued)(state),
            before_sleep=announce,
            reraise=True,
        )

    async def ask(self, method: str, path: str, *args: Any, **kwargs: Any) -> Json:
        """The JSON that VirusTotal answers; `args` fill the {} of `path`, quoted; `kwargs` are aiohttp's.

        What heals is repeated, a POST or PATCH only if it surely was not carried out. Raises VirusTotalError.
        """

        async def once() -> Json:
            async with self.answer(method, path, *args, **kwargs) as response:
                answer = decode(await response.read())
            if method == "GET" and "data" not in answer:  # null is an answer; without any, a page would read as the end
                raise VirusTotalError("BrokenAnswer", "an answer came that has no data", heals=True)
            return answer

        repeatable = method in ("GET", "DELETE")
        return await self.retrying(lambda error: error.heals and (repeatable or not error.sent))(once)

    async def get_json_async(self, path: str, *path_args: Any, params: Json | None = None) -> Json:
        """vt-py's method, so that all it builds on it (get_data_async) heals too."""
        return await self.ask("GET", path, *path_args, params=params)

    def pages(
        self, path: str, *args: Any, params: Mapping[str, Any] | None = None, limit: int = 0, cursor: str | None = None
    ) -> Pages:
        """The collection at `path`: see Pages. `limit` is in items (0: all), `cursor` where an earlier run stopped."""
        return Pages(self, path, args, dict(params or {}), limit, cursor)


@dataclasses.dataclass
class Pages:
    """`async for items in client.pages(…)`: lists of raw dicts (error items too), each item once; the next page is
    asked for while the caller works on this one.

    `cursor` is where to go on after what was yielded (None: nothing follows), `meta` the last page's. When a page
    fails, VirusTotalError is raised with that cursor; what was yielded before is good.
    """

    client: VirusTotal
    path: str
    args: tuple[Any, ...]
    params: Json
    limit: int
    cursor: str | None
    meta: Json = dataclasses.field(default_factory=dict)

    async def __aiter__(self) -> AsyncIterator[list[Json]]:
        # A resume point is a cursor, or OFFSET:CURSOR when the server sent more than was asked.
        resumed = re.match(r"([0-9]{1,9}):", self.cursor or "")
        skip, at = (int(resumed[1]), (self.cursor or "")[resumed.end() :]) if resumed else (0, self.cursor or "")
        left = self.limit or float("inf")
        # The highest that each takes: more is answered with 400, less costs up to 30 times the requests.
        highest = 300 if self.path.endswith(("/intelligence/search", "/matching_files")) else 40
        known: set[str] = set()
        cursors = {at}
        fruitless = 0

        def fetch() -> asyncio.Task[Json]:
            params = self.params | {"limit": str(int(min(highest, left + skip)))} | ({"cursor": at} if at else {})
            return asyncio.create_task(self.client.ask("GET", self.path, *self.args, params=params))

        page = fetch()
        try:
            while True:
                answer = await page
                meta, data = answer.get("meta") or {}, answer.get("data") or []
                data = [data] if isinstance(data, dict) else data  # a one-to-one relationship answers one object
                if not (isinstance(meta, dict) and isinstance(data, list) and all(isinstance(i, dict) for i in data)):
                    raise VirusTotalError("BrokenAnswer", f"what {self.path} answers are no objects")
                self.meta = meta
                items: list[Json] = []
                taken = skip
                while taken < len(data) and len(items) < left:
                    item, taken = data[taken], taken + 1
                    # The context counts: a file that matches two rules, or is notified twice, comes once for each.
                    key = repr((item.get("type"), item.get("id"), item.get("context_attributes")))
                    if key not in known or item.get("id") is None:
                        known.add(key)
                        items.append(item)
                left -= len(items)
                after = str(self.meta.get("cursor") or "")
                self.cursor = resume_point(at, taken) if taken < len(data) else resume_point(after)
                more, repeated = left > 0 and bool(self.cursor), after in cursors
                fruitless = 0 if items else fruitless + 1
                if more and fruitless == FRUITLESS:
                    raise VirusTotalError("NothingNew", f"{fruitless} pages in a row held nothing new")
                if more and not repeated:
                    skip, at = 0, after
                    cursors.add(at)
                    page = fetch()
                if items:
                    yield items
                if more and repeated:
                    self.cursor = None
                    raise VirusTotalError("RepeatedCursor", "the same cursor came again: the rest cannot be had")
                if not more:
                    return
        except VirusTotalError as error:
            error.cursor = self.cursor
            raise
        finally:
            page.add_done_callback(lambda task: task.cancelled() or task.exception())  # else asyncio complains of it
            page.cancel()


def positive(name: str, default: float) -> float:
    """The number over 0 in the environment variable `name`. Raises UsageError."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise UsageError(f"{name} is {text}, which is no number over 0")
    return value


def find_key(apikey: str | None) -> tuple[str, str]:
    """The key and where it came from. Raises UsageError, which never shows the key."""
    variables = ("VT_API_KEY", "VTCLI_APIKEY")
    found = {"--apikey": apikey} | {name: os.environ.get(name) for name in variables}
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        found["~/.vt.toml"] = tomllib.loads(Path("~/.vt.toml").expanduser().read_text(encoding="utf-8")).get("apikey")
    for source, key in found.items():
        if key and not re.fullmatch(r"[!-~]+", str(key).strip()):
            raise UsageError(f"the key from {source} holds characters that no key has")
        if key:
            return str(key).strip(), source
    raise UsageError(
        "no API key: --apikey, VT_API_KEY, VTCLI_APIKEY and ~/.vt.toml (`vt init` writes it) have none; "
        "`scripts/replay.py COMMAND…` runs a command without one"
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks to wait (RFC 9110: a number, or an HTTP date); None without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def decode(body: bytes) -> Json:
    """The JSON object in `body`, {} if it is empty (DELETE). Raises a VirusTotalError that heals if it is broken."""
    try:
        answer = json.loads(body.decode(errors="replace") or "{}")
        if re.search(rb"\\u[dD][89a-fA-F]", body):
            answer = mended(answer)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise VirusTotalError("BrokenAnswer", f"{len(body)} bytes came that are no JSON object", heals=True)
    return answer


def mended(value: Any) -> Any:
    """JSON with U+FFFD for each lone surrogate, which cannot be written as UTF-8. Raises RecursionError if too deep."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def resume_point(cursor: str, offset: int = 0) -> str | None:
    """Where pages go on: at `cursor` (None: there is none), or `offset` items after it."""
    ambiguous = re.match(r"[0-9]{1,9}:", cursor)  # VirusTotal's own cursor may read like OFFSET:CURSOR
    return f"{offset}:{cursor}" if offset or ambiguous else cursor or None


def resumption(cursor: str | None) -> str:
    """How to go on after `cursor`, to be pasted into a shell: what VirusTotal sent is quoted."""
    return f"; go on with --cursor {shlex.quote(cursor)}" if cursor else ""


def finish(done: str, client: VirusTotal, stopped: BaseException | None = None, cursor: str | None = None) -> int:
    """Says the last line: what was `done`, the requests it took, whether that is all. Returns the exit code.

    `stopped` is what ended the work early, if anything did: a VirusTotalError, the CancelledError or KeyboardInterrupt
    of a Ctrl-C, or the OSError of an output that could not be written.
    """
    spent = f"{done}, {client.requests} request{'s' * (client.requests != 1)}"
    more = resumption(cursor)
    if stopped is None:
        say(f"{spent}; there is more (--limit 0 takes all){more}" if cursor else f"{spent}, complete")
        return 0
    if isinstance(stopped, VirusTotalError):
        cure = "" if cursor else stopped.cure
        reason, code = f"{stopped.code}: {stopped.message}{cure}", 4 if stopped.status == 429 else 3
    else:
        reason, code = str(stopped) or "interrupted", 1 if isinstance(stopped, OSError) else 130
    say(f"INCOMPLETE: {spent}; {reason}{more}")
    return code


# vendor:end
