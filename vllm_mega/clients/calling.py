"""Requests to the routes about memories, written once and sent both ways: blocking, or on an event loop.

`Work` is a generator that yields requests and is sent their answers; it neither reads nor writes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import httpx

from vllm_mega.errors import (
    BusyError,
    ConfigError,
    ForbiddenError,
    LimitError,
    MegaError,
    RequestError,
    ServerError,
)

AT_ONCE = 8
"""Requests of one work that a server has at a time; it keeps 68."""
_LONGEST = 200
"""Characters of an answer that nobody understands."""
_SERVER = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_KEY = re.compile(r"[!-~]+")
T = TypeVar("T")


class Ask(NamedTuple):
    """A request to a route about memories."""

    method: str
    path: str
    """Behind `/v1/mega/`."""
    query: Mapping[str, str | int] | None = None
    body: Any = None
    """Of JSON; None: it has none."""

    @property
    def about_one(self) -> bool:
        """It is about one memory, which may be none."""
        return "/" in self.path


Work = Generator[Sequence[Ask], Sequence[Any], T]
"""Requests that may be sent at once, in exchange for their answers, as JSON is read; None: no such memory."""


class Caller:
    """Does work at a server. Keeps no connection beyond one, so any thread and any event loop may use it."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        """As `clients.langgraph.MegaStore`.

        Raises:
            ConfigError: the URL can be none of a server, or the key none at all.
        """
        if not _SERVER.fullmatch(url):
            raise ConfigError(
                f"url is {url!r:.200}, expected that of a server, such as http://127.0.0.1:8000"
            )
        if api_key is not None and not _KEY.fullmatch(api_key):
            raise ConfigError("api_key has white space or characters that no key has: give the key alone")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._options: dict[str, Any] = {
            "base_url": f"{self._url}/v1/mega/",
            "headers": {} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            "timeout": httpx.Timeout(timeout, pool=None),
            "limits": httpx.Limits(max_connections=AT_ONCE),
            "verify": httpx.create_ssl_context(),  # takes longer than a request: made once
        }

    def do(self, work: Work[T]) -> T:
        """What the work returns.

        Raises:
            MegaError: as `understood`; a server that cannot be reached is a ServerError.
        """
        with httpx.Client(**self._options) as client:
            try:
                asks = next(work)
                while True:
                    answers = [client.request(*ask[:2], params=ask.query, json=ask.body) for ask in asks]
                    asks = work.send(self._understood(asks, answers))
            except StopIteration as end:
                return cast("T", end.value)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error

    async def ado(self, work: Work[T]) -> T:
        """As `do`."""
        async with httpx.AsyncClient(**self._options) as client:
            try:
                asks = next(work)
                while True:
                    sent = (client.request(*ask[:2], params=ask.query, json=ask.body) for ask in asks)
                    asks = work.send(self._understood(asks, await asyncio.gather(*sent)))
            except StopIteration as end:
                return cast("T", end.value)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error

    def _understood(self, asks: Sequence[Ask], answers: Sequence[httpx.Response]) -> list[Any]:
        return [understood(self._url, ask, answer) for ask, answer in zip(asks, answers, strict=True)]

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        reason = str(error) or type(error).__name__
        return ServerError(f"{self._url} cannot be asked ({reason}): is `vllm-mega serve` running there?")


def understood(url: str, ask: Ask, answer: httpx.Response) -> Any:
    """The JSON of an answer; None: there is no such memory.

    Args:
        url: of the server, for messages.
        ask: what was asked.
        answer: what came.

    Raises:
        RequestError: 400 or 413; `param` names what of the request it is about.
        ForbiddenError: 401 or 403.
        LimitError: 429, with the seconds to wait.
        BusyError: 503.
        ServerError: anything else that is no success, or no answer of such a server.
    """
    try:
        told = answer.json()
    except ValueError:
        told = None
    if isinstance(told, dict) and answer.is_success:
        return told
    error = told.get("error") if isinstance(told, dict) else None
    if not isinstance(error, dict) or "message" not in error:
        raise _strange(url, answer)
    if answer.status_code == 404 and ask.about_one and error.get("type") == "NotFoundError":
        return None
    raise _refused(url, answer, error)


def _refused(url: str, answer: httpx.Response, error: Mapping[str, Any]) -> MegaError:
    message = f"{url}: {error['message']}"
    match answer.status_code:
        case 400 | 413:
            return RequestError(message, error.get("param"))
        case 401 | 403:
            return ForbiddenError(message)
        case 429:
            wait = answer.headers.get("retry-after", "")
            return LimitError(message, int(wait) if wait.isdecimal() else None)
        case 503:
            return BusyError(message)
        case 404:
            return _strange(url, answer)
        case status:
            return ServerError(f"{message} (HTTP {status})")


def _strange(url: str, answer: httpx.Response) -> ServerError:
    return ServerError(
        f"{url} answers {answer.status_code} {answer.text[:_LONGEST]!r}, expected the JSON of a server with "
        "memory: give the URL of `vllm-mega serve`, such as http://127.0.0.1:8000"
    )
