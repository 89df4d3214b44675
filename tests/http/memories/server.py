"""The routes about memories in an app of their own: a real catalog and a real gate, no engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from tests.banks import make_bank
from tests.gate.banks import add
from vllm_mega.access.audit import Audit
from vllm_mega.access.keyfile import KeyFile, change_keys
from vllm_mega.access.keys import new_key
from vllm_mega.access.limits import Limits
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.config import MegaSettings
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Gate
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.uses import track_uses
from vllm_mega.http.bodies import CheckedBodies
from vllm_mega.http.entrance import Entrance
from vllm_mega.http.memories.routes import router
from vllm_mega.http.memories.service import Service

MEMORIES = "/v1/mega/memories"
FERRY: dict[str, Any] = {
    "id": "ferry",
    "text": "Four oxen pull the ferry.",
    "title": "The ferry",
    "tags": ["travel"],
}
LAMP: dict[str, Any] = {"id": "lamp", "text": "The lamp burns nine nights.", "title": "The lamp"}


class MemoryServer:
    """An app over a bank in `folder`; with keys as soon as one is made before `app` is asked for."""

    def __init__(self, folder: Path, *, keys: bool = False, **settings: Any) -> None:
        embedder = FakeEmbedder(64)
        self.folder, self.bank = folder, folder / "bank"
        make_bank(self.bank, embedder=embedder.info)
        index = Index()
        library = Library(self.bank, embedder=embedder.info, keys=index)
        told = MegaSettings(bank=str(self.bank), **settings)
        gate = Gate(library, index, embedder, track_uses(library.catalog, told))
        self.service = Service(gate, embedder, told, folder, _count=_words)
        self.audit = folder / "audit.jsonl"
        self.app = FastAPI()
        self.app.include_router(router)
        self.app.state.mega_memories, self.app.state.mega_guarded = self.service, keys
        self.app.add_middleware(CheckedBodies)
        if keys:
            change_keys(folder / "keys.json", lambda book: book)
            self.service.audit = Audit(self.audit)
            book = KeyFile(folder / "keys.json")
            self.service.limits_of = lambda namespace: book().limits_of(namespace)
            self.app.add_middleware(Entrance, keys=KeyFile(folder / "keys.json"), audit=self.service.audit)

    def key(self, name: str, role: Any, *namespaces: str) -> dict[str, str]:
        """The header of a new key."""
        key, entry = new_key(name, role, namespaces or None)
        change_keys(self.folder / "keys.json", lambda book: book.with_key(entry))
        return {"Authorization": f"Bearer {key}"}

    def limit(self, namespace: str, **limits: int) -> None:
        change_keys(self.folder / "keys.json", lambda book: book.with_limits(namespace, Limits(**limits)))

    def train(self, *memories: NewMemory) -> None:
        """Store memories with an adapter."""
        add(self.bank, self.service.embedder, memories)

    def client(self, headers: dict[str, str] | None = None, address: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    def close(self) -> None:
        self.service.pool.close()
        self.service.gate.close()


def _words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The refusal, in OpenAI's form."""
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    assert found["code"] == status
    return found
