"""A vt.Client with retries, rate limiting and paging.

vendor.py copies the definitions between the markers into the scripts that use them.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import os
import random
import re
import time
import tomllib
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import aiohttp.base_protocol
import aiolimiter
import tenacity
import vt
import yarl

from output import Format, UsageError, log, open_lines, plural, print_summary, write_objects

# vendor:begin
SECOND = 1.0  # the unit of every delay; tests shorten it
NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, ConnectionError)
UNSENT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)  # no connection, so nothing was sent
RETRY_STATUSES = {424, 429, 500, 501, 502, 503, 504}  # https://docs.virustotal.com/reference/errors, and proxies


class VirusTotalError(vt.APIError):
    """An error response, or a network failure (`status` 0): vt-py's `code` and `message`, and the HTTP `status`.

    `may_have_run` says whether VirusTotal may have carried the request out.
    """

    def __init__(self, code: str, message: str, status: int = 0, *, may_have_run: bool = False) -> None:
        super().__init__(code, message)
        self.status = status
        self.may_have_run = may_have_run or status >= 500

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def exit_code(self) -> int:
        """2 for a mistake in the key or the query, 4 for an exhausted quota, 1 otherwise."""
        return {400: 2, 401: 2, 403: 2, 409: 2, 429: 4}.get(self.status, 1)


class Page(NamedTuple):
    """Objects as VirusTotal sent them, the cursor after them (None: no more), and how many match in all, if known."""

    objects: list[dict[str, Any]]
    cursor: str | None
    total: int | None


class VirusTotal(vt.Client):
    """A drop-in replacement for vt.Client. Every request, also of vt-py's own methods, is retried, paced and counted.

    The key is `apikey`, else VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml; it is sent to `host` (else VT_HOST) only.
    VT_MAX_WAIT is the longest total wait between retries in seconds (300), VT_RATE the most requests a minute,
    VT_MAX_REQUESTS the most requests in all. `requests` counts them. Errors are raised as VirusTotalError.
    """

    def __init__(
        self, apikey: str | None = None, agent: str = "virustotal-scripts", host: str | None = None, **options: Any
    ) -> None:
        key, self.key_source = find_key(apikey)
        host = (host or os.environ.get("VT_HOST") or "https://www.virustotal.com").rstrip("/")
        if not re.match(r"https?://[^/\s]+$", host):
            raise UsageError(f"VT_HOST is {host}: expected a URL such as https://www.virustotal.com")
        super().__init__(key, agent, host, **{"trust_env": True, "timeout": 60} | options)
        self.origin = yarl.URL(host).origin()
        self.requests = 0
        self.connected = False
        self.max_wait = positive_env("VT_MAX_WAIT", 300)
        self.max_requests = positive_env("VT_MAX_REQUESTS", math.inf)
        self.pace = aiolimiter.AsyncLimiter(1, 60 * SECOND / positive_env("VT_RATE", 1e6))

    def __getattribute__(self, name: str) -> Any:
        """Refuse vt-py's synchronous methods where they cannot work: in a running event loop, such as a notebook's."""
        if hasattr(vt.Client, f"{name}_async") and asyncio._get_running_loop():
            raise RuntimeError(f"in a notebook or a coroutine, use `await client.{name}_async(...)`")
        return super().__getattribute__(name)

    def __enter__(self) -> VirusTotal:
        if asyncio._get_running_loop():
            raise RuntimeError("in a notebook or a coroutine, use `async with VirusTotal() as client:`")
        return self

    def _full_url(self, path: str, *args: Any) -> str:
        """Return the URL of `path`, each {} replaced by one quoted segment. A whole URL of this host stays as it is."""
        if path.startswith(("https://", "http://")):
            own = path.startswith(f"http://{self.origin.host}/") and self.origin.scheme == "https"
            return path.replace("http://", "https://", 1) if own else path  # upload URLs have come as http
        if {".", "..", ""} & set(map(str, args)):
            raise UsageError(f"not an id: {args}")
        return (
            f"{self._host}/api/v3{path.format(*(urllib.parse.quote(str(arg), '', errors='replace') for arg in args))}"
        )

    def _get_session(self) -> aiohttp.ClientSession:
        """Return a session like vt-py's, but without its X-Apikey header, which would follow redirects anywhere."""
        if self._session is None:  # type: ignore[has-type]
            headers = {
                "User-Agent": f"{self._agent}; vtpy {vt.__version__}; gzip",
                "Accept-Encoding": "gzip",
                "x-tool": "opensource.virustotal-scripts.v1",  # without it, no gti_assessment
            }
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                headers=headers | (self._user_headers or {}),
                # No total: it would count the sleep between retries.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=self._timeout),
                middlewares=[self._send],
                trust_env=self._trust_env,
            )
        return self._session

    async def _send(self, request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        """Send a request, and again after a transient failure. aiohttp calls this for each request and redirect hop.

        A POST that may have reached VirusTotal is not repeated: it could start a second job.
        """
        own = request.url.origin() == self.origin
        if own:
            request.headers["X-Apikey"] = self._apikey
        else:
            request.headers.pop("Authorization", None)  # trust_env takes it from ~/.netrc
        idempotent = request.method in ("GET", "HEAD", "DELETE", "PATCH")  # VirusTotal's PATCH sets attributes
        attempt, waited = 0, 0.0
        while True:
            if own:
                await self._spend_request()
            delay = min(60, 2**attempt) * random.uniform(0.5, 1) * SECOND
            outcome: aiohttp.ClientResponse | VirusTotalError
            try:
                outcome = await self._receive(await handler(request))
                if outcome.status == 404 and request.method == "DELETE" and attempt:
                    outcome.status = 200  # an earlier attempt deleted it, and its response was lost
                if outcome.status not in RETRY_STATUSES:
                    return outcome
                delay = retry_after(outcome.headers.get("Retry-After", ""), delay)
                consumed = getattr(request.body, "consumed", False)  # a generator is empty on the second attempt
                repeatable = idempotent or (outcome.status == 429 and not consumed)
                reason = f"HTTP {outcome.status}"
            except NETWORK_ERRORS as error:
                repeatable = idempotent or isinstance(error, UNSENT_ERRORS)
                repeatable &= not isinstance(error, aiohttp.ClientSSLError)
                outcome = self.network_error(error)
                reason = str(outcome)
            # A host that was never reached is mistyped, or there is no network. Followers set max_wait to infinity.
            patience = 20 * SECOND if not self.connected and self.max_wait < math.inf else self.max_wait
            if not repeatable or waited + delay > min(patience, self.max_wait):
                if isinstance(outcome, VirusTotalError):
                    raise outcome
                return outcome
            if isinstance(outcome, aiohttp.ClientResponse):
                outcome.release()
            log(f"{request.url.path}: {reason}; retrying in {delay:.0f} s")
            await asyncio.sleep(delay)
            attempt, waited = attempt + 1, waited + delay

    async def _receive(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """Read a JSON body, so that a truncated one is retried, and leave it to be read again.

        vt-py reads a chunked body, and a download, from `content`, which is empty after the first time.
        """
        self.connected = True
        if response.content_type == "application/json":
            body, loop = await response.read(), asyncio.get_running_loop()
            protocol = aiohttp.base_protocol.BaseProtocol(loop)
            response.content = aiohttp.StreamReader(protocol, limit=len(body) + 1, loop=loop)
            response.content.feed_data(body)
            response.content.feed_eof()
        return response

    async def _spend_request(self) -> None:
        """Wait for VT_RATE, and count the request. Raises VirusTotalError when VT_MAX_REQUESTS is reached."""
        await self.pace.acquire()
        if self.requests >= self.max_requests:
            raise VirusTotalError("VT_MAX_REQUESTS", f"the limit of {self.max_requests:.0f} is reached", 429)
        self.requests += 1

    def network_error(self, error: BaseException) -> VirusTotalError:
        """Return the VirusTotalError for an error of aiohttp's."""
        hint = "" if self.connected else " (check the network, VT_HOST and HTTPS_PROXY)"
        message = f"{self.redact(error) or 'no answer in time'}{hint}"
        return VirusTotalError(type(error).__name__, message, may_have_run=not isinstance(error, UNSENT_ERRORS))

    def redact(self, text: object) -> str:
        """Return `text` without the API key. Keys are 64 characters; a short test key would match inside words."""
        return re.sub(re.escape(self._apikey), "[API key]", str(text)) if len(self._apikey) >= 32 else str(text)

    async def get_error_async(self, response: vt.ClientResponse) -> VirusTotalError | None:
        """Return what went wrong, or None. vt-py's own drops the status, and fails on a proxy's HTML."""
        if response.status < 300:
            return None
        text = ""
        with contextlib.suppress(*NETWORK_ERRORS):
            text = (await response._aiohttp_resp.read()).decode(errors="replace")
        text = self.redact(text)
        try:
            error = json.loads(text)["error"]
            code, message = str(error["code"]), str(error.get("message"))
        except (ValueError, KeyError, TypeError):
            code, message = f"HTTP {response.status}", " ".join(re.sub("<[^<>]*>", " ", text).split())[:200]
        if response.status in (401, 403):
            message += f" (the key is from {self.key_source}; searches, feeds and hunting need a premium key)"
        return VirusTotalError(code, message, response.status)

    async def _response_to_json(self, response: vt.ClientResponse) -> Any:
        """Return the JSON of a response. Override of vt-py's: a captive portal answers 200 with HTML."""
        if error := await self.get_error_async(response):
            raise error
        try:
            return json.loads(await response._aiohttp_resp.read())
        except ValueError:
            message = "the response is not JSON; is a proxy in the way?"
            raise VirusTotalError("InvalidResponse", message, may_have_run=True) from None

    async def pages(
        self, path: str, *args: Any, limit: int = 0, cursor: str | None = None, **params: str | None
    ) -> AsyncIterator[Page]:
        """Yield the pages of a collection, up to `limit` objects (0: all), each object once.

        `params` are the API's; None is left out. The next page is requested while the caller works on this one.
        vt-py's own iterator loses the rest of a page when it resumes, and fails on an empty page.
        """
        page_size = 300 if path.endswith(("/search", "/matching_files")) else 40  # the most that VirusTotal accepts
        remaining = limit or math.inf
        seen: set[int] = set()
        cursors = {cursor}

        def fetch() -> asyncio.Task[Any]:
            query = params | {"limit": str(min(page_size, remaining)), "cursor": cursor}
            given = {name: value for name, value in query.items() if value}
            return asyncio.create_task(self.get_json_async(path, *args, params=given))

        page = fetch()
        try:
            while True:
                answer = await page
                data, meta = answer.get("data"), answer.get("meta") or {}
                items = data if isinstance(data, list) else [data] if data else []  # a one-to-one relationship
                # The context counts: a file that two rules match comes once for each.
                keys = [hash(str((i.get("type"), i.get("id"), i.get("context_attributes")))) for i in items]
                new = {key: item for key, item in zip(keys, items, strict=True) if key not in seen}
                seen.update(new)
                remaining -= len(new)
                cursor = meta.get("cursor")
                repeated = cursor in cursors
                more = bool(cursor) and remaining > 0
                if more and not repeated:
                    cursors.add(cursor)
                    page = fetch()
                if new or not more:
                    yield Page(list(new.values()), None if repeated else cursor, meta.get("total_hits"))
                if more and repeated:
                    raise VirusTotalError("RepeatedCursor", "the same cursor came again; the rest is missing")
                if not more:
                    return
        finally:
            page.cancel()
            await asyncio.gather(page, return_exceptions=True)

    async def download(self, path: str, *args: Any, to: Path) -> None:
        """Stream the body of a GET (a feed package, a sample, a PCAP) into the file `to`. Raises VirusTotalError."""

        @tenacity.retry(
            retry=tenacity.retry_if_exception_type(NETWORK_ERRORS),
            wait=tenacity.wait_exponential(multiplier=SECOND, max=60),
            stop=tenacity.stop_after_attempt(5),
            reraise=True,
        )
        async def attempt() -> None:
            response = await self.get_async(path, *args)
            if error := await self.get_error_async(response):
                raise error
            async with response._aiohttp_resp as body:
                with open(to, "wb") as file:
                    async for chunk in body.content.iter_chunked(1 << 18):
                        file.write(chunk)

        try:
            await attempt()
        except NETWORK_ERRORS as error:
            raise self.network_error(error) from None


def retry_after(value: str, default: float) -> float:
    """Return the seconds to wait that a Retry-After header asks for, as a number or an HTTP date."""
    with contextlib.suppress(ValueError):
        return float(value)
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return default


def positive_env(name: str, default: float) -> float:
    """Return the number above 0 in the environment variable `name`. Raises UsageError."""
    text = os.environ.get(name) or str(default)
    with contextlib.suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise UsageError(f"{name} is {text}: expected a number above 0")


def find_key(apikey: str | None) -> tuple[str, str]:
    """Return the API key and where it was found. Raises UsageError, which does not show the key."""
    found = {"--apikey": apikey} | {name: os.environ.get(name) for name in ("VT_API_KEY", "VTCLI_APIKEY")}
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        found["~/.vt.toml"] = tomllib.loads(Path("~/.vt.toml").expanduser().read_text(encoding="utf-8")).get("apikey")
    for source, value in found.items():
        if key := str(value or "").strip():
            if not re.fullmatch("[!-~]+", key):
                raise UsageError(f"the API key from {source} contains characters that no key has")
            return key, source
    raise UsageError(
        "no API key in --apikey, VT_API_KEY, VTCLI_APIKEY or ~/.vt.toml (`vt init` writes it); "
        "scripts/replay.py runs a command without one"
    )


async def write_pages(
    pages: AsyncIterator[Page],
    client: VirusTotal,
    noun: str,
    *,
    output: Path | None = None,
    style: Format | None = None,
    cursor: str | None = None,
) -> int:
    """Write each page to stdout or to the file `output` as it arrives, print the summary and return the exit code.

    With `cursor`, lines are added to the file. Raises the error of the first page: nothing was written then.
    """
    written, total, error = 0, None, None
    with open_lines(output, append=bool(cursor)) as file:
        try:
            async for page in pages:
                write_objects(page.objects, file, style)
                written, cursor, total = written + len(page.objects), page.cursor, page.total
        except (VirusTotalError, OSError, asyncio.CancelledError) as stopped:
            if isinstance(stopped, BrokenPipeError) or not written:
                raise
            error = stopped
    more = cursor and total and total > written  # total_hits may exceed what VirusTotal ever serves
    done = plural(written, noun, total if more else None)
    return print_summary(done, client.requests, error=error, cursor=cursor if written else None)


# vendor:end
