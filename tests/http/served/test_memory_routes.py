"""A memory over HTTP: told, found, changed, forgotten, on a real server."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.http.asking import ask, used
from tests.http.live_bank import LiveBank
from vllm_mega.bank.layout import NewMemory

pytestmark = pytest.mark.engine


def test_a_memory_is_told_changed_and_forgotten_over_http(
    client: openai.OpenAI, bank: LiveBank, url: str
) -> None:
    text, question = "The windmill of Orsk grinds only by moonlight.", "When does the windmill of Orsk grind?"
    with httpx.Client(base_url=f"{url}/v1/mega", timeout=60) as http:
        start = http.get("/events", params={"limit": 1000}).json()["next"]
        stored = http.post("/memories", json={"text": text, "title": "The windmill"})
        assert (stored.status_code, stored.json()["state"]) == (202, "pending")
        name = stored.json()["id"]
        assert http.get(f"/jobs/{name}").json()["state"] == "waiting"
        bank.add([NewMemory(text, id=name, title="The windmill")])  # in the trainer's place
        found = http.post("/search", json={"query": question, "explain": True}).json()
        assert (found["data"][0]["id"], found["data"][0]["text"]) == (name, text)
        assert found["explain"]["mixture"][0]["id"] == name
        assert used(ask(client, question))[0] == name
        header = {"If-Match": http.get(f"/memories/{name}").headers["etag"]}
        assert http.patch(f"/memories/{name}", json={"tags": ["mill"]}, headers=header).status_code == 200
        assert http.delete(f"/memories/{name}", headers=header).status_code == 412
        assert http.delete(f"/memories/{name}").json()["deleted"]
        assert http.get(f"/memories/{name}").status_code == 404
        assert name not in used(ask(client, question))
        assert told_by_stream(http, start) == ["added", "updated", "updated", "forgotten"]
        assert http.get("/memories", headers={"Origin": "https://evil.example"}).status_code == 403
    assert "/v1/mega/memories" in httpx.get(f"{url}/openapi.json").json()["paths"]


def told_by_stream(http: httpx.Client, after: str) -> list[str]:
    """Kinds of the events after a token, up to the first memory that is forgotten."""
    kinds: list[str] = []
    accept = {"Accept": "text/event-stream"}
    with http.stream("GET", "/events", params={"after": after}, headers=accept) as told:
        for line in told.iter_lines():
            kinds += [line.removeprefix("event: ")] if line.startswith("event: ") else []
            if kinds[-1:] == ["forgotten"]:
                break
    return kinds
