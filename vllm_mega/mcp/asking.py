"""Asking a server about memories, over HTTP: as whoever the client is, with what it may do, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from vllm_mega.config import SUFFIX
from vllm_mega.errors import ToolError

ROOM = "/v1/mega/"
"""Where the routes about memories are."""
_LONGEST = 1000
"""Characters of an answer that is not ours, in a message."""


@dataclass(frozen=True)
class Answer:
    """What a server tells."""

    value: dict[str, Any]
    etag: str | None
    """Of the memory that it tells of."""


class Asker:
    """Asks for the tools of one connection.

    Args:
        client: of httpx; its base URL is the root of the server, and its headers have the key.
        namespace: whose memories; None: the first that the key is for.
    """

    def __init__(self, client: httpx.AsyncClient, namespace: str | None = None) -> None:
        self._client = client
        self._model: str | None = None
        self.where: dict[str, str] = {} if namespace is None else {"namespace": namespace}
        """The namespace, as bodies and queries have it."""

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        etag: str | None = None,
    ) -> Answer:
        """The answer of a route.

        Args:
            method: of HTTP.
            path: from the root of the server.
            query: what stands behind the question mark.
            body: JSON.
            etag: that the memory must still have (If-Match).

        Raises:
            ToolError: the server refuses, with its message, or does not answer.
        """
        headers = {} if etag is None else {"If-Match": etag}
        try:
            answer = await self._client.request(method, path, params=query, json=body, headers=headers)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ToolError(f"the server at {self._client.base_url} does not answer: {reason}") from error
        if not answer.is_success:
            raise ToolError(_reason(answer))
        return Answer(answer.json(), answer.headers.get("etag"))

    async def model(self) -> str:
        """Name of the model with memory.

        Raises:
            ToolError: as `ask`, or the server has no memory.
        """
        if self._model is None:
            cards = (await self.ask("GET", "/v1/models")).value["data"]
            named = [card["id"] for card in cards if card["id"] == f"{card.get('parent')}{SUFFIX}"]
            if not named:
                raise ToolError("the server has no model with memory: start it with vllm-mega serve --bank")
            self._model = named[0]
        return self._model


def path_of(memory: str) -> str:
    """The path of a memory, by its id."""
    return f"{ROOM}memories/{quote(memory, safe='')}"


def _reason(answer: httpx.Response) -> str:
    """Why a server refuses: the message of OpenAI's error, or whatever it says, on one line."""
    try:
        error = answer.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        said = " ".join(answer.text.split())[:_LONGEST]
        return f"the server answers {answer.status_code} {answer.reason_phrase}: {said}"
