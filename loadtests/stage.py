"""What the acts of the story share: a server with a trainer, its clients, and how they ask it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from vllm_mega.errors import MegaError

LIMIT = 120.0
"""Seconds until a memory has its adapter; far more than it takes."""
LOOK = 0.2
"""Seconds between two looks at a job."""


@dataclass
class Stage:
    """A server, and what the acts have learned of it so far."""

    url: str
    bank: Path
    model: str
    """Its name with memory."""
    chat: openai.OpenAI
    http: httpx.Client
    """Of the routes about memories."""
    folder: Path
    """For files of the acts."""
    ferry: str = ""
    """Id of the memory that the story is about."""
    told: float = 0.0
    """When it was told (`time.monotonic`)."""
    live: float = 0.0
    """Seconds from there to the first answer of its adapter."""
    receipt: Path = field(init=False)

    def __post_init__(self) -> None:
        self.receipt = self.folder / "receipt.json"

    def ask(self, question: str, *, mega: dict[str, Any] | None = None, **more: Any) -> Any:
        """A chat with one question, by the official client, greedily."""
        body = {} if mega is None else {"mega": mega}
        return self.chat.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": question}], temperature=0,
            max_tokens=48, extra_body=body, **more,
        )  # fmt: skip

    def call(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        """The JSON that a route about memories answers with.

        Raises:
            MegaError: it answers with another status than this.
        """
        answer = self.http.request(method, path, **more)
        expect(answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def trained(self, id_: str) -> None:
        """Wait until a memory has its adapter.

        Raises:
            MegaError: that does not happen.
        """
        end = time.monotonic() + LIMIT
        while (job := self.call("GET", f"/jobs/{id_}"))["state"] != "done":
            expect(job["state"] in ("waiting", "training"), f"the job of {id_} is {job}")
            expect(time.monotonic() < end, f"{id_} has no adapter after {LIMIT:g} s")
            time.sleep(LOOK)


Act = Callable[[Stage], str]
"""Plays, says in a line what was seen, and raises where something else was."""


def expect(fact: bool, otherwise: str) -> None:
    """Go on only if it is so.

    Raises:
        MegaError: it is not; `otherwise` says what was found instead.
    """
    if not fact:
        raise MegaError(otherwise)


def said(answer: Any) -> str:
    """What an answer says."""
    return str(answer.choices[0].message.content)


def used(answer: Any) -> list[tuple[str, int, str]]:
    """Id, version and form of the memories behind an answer."""
    return [(one["id"], one["version"], one["as"]) for one in answer.mega["memories"]]
