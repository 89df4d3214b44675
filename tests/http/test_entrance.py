"""Keys with roles: which routes they open in the app that vLLM builds, and which namespaces in its chats."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.http.fakes import FakeGate
from tests.http.running_app import build, routes
from vllm_mega.access.keyfile import VARIABLE, change_keys
from vllm_mega.access.keys import new_key
from vllm_mega.commands import _memory_options, serve
from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import ConfigError
from vllm_mega.http.chat import MegaChat
from vllm_mega.http.completions import MegaCompletion
from vllm_mega.http.console.files import is_console
from vllm_mega.http.entrance import FOR_EVERYBODY, NO_ADMIN, ROOM, principal
from vllm_mega.http.server_keys import server_keys
from vllm_mega.requests.deciding import decide

OPEN = {"/health", "/ping", "/mega/ready"}
QUESTION = {"model": "base-mega", "messages": [{"role": "user", "content": "Do bees sleep?"}]}


class Keys:
    """A file of keys, and the keys themselves."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self.audit = folder / "audit.jsonl"

    def add(self, name: str, role: Any = "read", *namespaces: str) -> dict[str, str]:
        key, entry = new_key(name, role, namespaces or None)
        change_keys(self.file, lambda book: book.with_key(entry))
        return {"Authorization": f"Bearer {key}"}

    @property
    def settings(self) -> str:
        paths = {"keys": str(self.file), "audit": str(self.audit)}
        return json.dumps({"mega": {"bank": "bank", "max_requests": 64, **paths}})

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    return Keys(tmp_path)


def asking(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


class Hook:
    """Answers with the namespaces that the gate was asked about."""

    slots = 4

    def __init__(self) -> None:
        self.settings = MegaSettings(bank="bank")
        self.gate: Any = FakeGate()
        self.asked: list[str] = []

    async def route(self, ask: Any) -> Any:
        self.asked.append(ask.plan.namespace)
        (decision,) = decide(self.gate, [ask], 4)
        if isinstance(decision, Exception):
            raise decision
        return decision, to_lora_request(decision.mixture)


def with_handlers(app: Any) -> Hook:
    """Chats and completions that stop behind the gate: what they were asked is all that counts."""
    hook = Hook()
    models = SimpleNamespace(
        _has_memory=lambda name: name == "base-mega", is_base_model=lambda name: name == "base",
        lora_requests={},
    )  # fmt: skip
    for name, kind in (("chat", MegaChat), ("completion", MegaCompletion)):
        handler: Any = kind.__new__(kind)
        handler.mega, handler.models = hook, models
        handler.model_config = SimpleNamespace(max_model_len=100)
        handler.renderer = SimpleNamespace(tokenizer=None)

        async def answer(*_: Any) -> Any:
            return SimpleNamespace()

        handler._answer = answer
        setattr(app.state, f"openai_serving_{name}", handler)
    return hook


@pytest.mark.parametrize("more", [[], ["--root-path", "/models"]])
async def test_a_key_opens_some_routes_and_an_admins_key_all(
    monkeypatch: pytest.MonkeyPatch, keys: Keys, more: list[str]
) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    alice, ops = keys.add("alice", "write", "sea"), keys.add("ops", "admin")
    app = build(monkeypatch, *more, settings=keys.settings)
    found = set(routes(app))
    assert found >= FOR_EVERYBODY
    assert {("GET", "/mega/metrics"), ("GET", "/metrics"), ("POST", "/v1/load_lora_adapter")} <= found
    async with asking(app) as client:
        for method, path in sorted(found):
            for prefix in {"", app.root_path or ""}:
                place, is_open = prefix + path, path in OPEN or is_console(method, path)
                nobody = await client.request(method, place)
                assert (nobody.status_code == 401) == (not is_open), (method, place)
                wrong = await client.request(method, place, headers={"Authorization": "Bearer mega-no"})
                assert (wrong.status_code == 401) == (not is_open), (method, place)
                hers = await client.request(method, place, headers=alice)
                opened = (method, path) in FOR_EVERYBODY or path.startswith(ROOM)
                refused = not is_open and not opened
                assert hers.status_code != 401, (method, place)
                assert (NO_ADMIN.message in hers.text) == (refused and method != "HEAD"), (method, place)
                assert hers.status_code == 403 or not refused, (method, place)
                theirs = await client.request(method, place, headers=ops)
                assert theirs.status_code != 401, (method, place)
                assert NO_ADMIN.message not in theirs.text, (method, place)


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1/models/x", "/V1/models", "/nowhere"])
async def test_another_spelling_of_a_route_is_for_admins(
    monkeypatch: pytest.MonkeyPatch, keys: Keys, path: str
) -> None:
    alice = keys.add("alice", "write", "sea")
    async with asking(build(monkeypatch, settings=keys.settings)) as client:
        answer = await client.get(httpx.URL(f"http://server{path}"), headers=alice)
    assert answer.status_code == 403


async def test_a_refusal_has_openais_form_and_a_line(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    alice = keys.add("alice", "write", "sea")
    async with asking(build(monkeypatch, settings=keys.settings)) as client:
        nobody = await client.post("/v1/chat/completions", json={"text": "a secret"})
        hers = await client.get("/mega/metrics", headers=alice)
        assert (await client.get("/version", headers=alice)).status_code == 200
    assert nobody.json()["error"]["type"] == "AuthenticationError"
    assert nobody.headers["WWW-Authenticate"] == "Bearer"
    assert hers.json()["error"]["type"] == "PermissionDeniedError"
    assert [(line["who"], line["status"], line["client"]) for line in keys.lines()] == [
        ("", 401, "127.0.0.1"), ("alice", 403, "127.0.0.1"),
    ]  # fmt: skip
    told = keys.audit.read_text()
    assert "secret" not in told
    assert alice["Authorization"].removeprefix("Bearer ") not in told


async def test_keys_come_and_go_while_the_server_runs(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    alice = keys.add("alice")
    async with asking(build(monkeypatch, settings=keys.settings)) as client:
        assert (await client.get("/version", headers=alice)).status_code == 200
        change_keys(keys.file, lambda book: book.without_key("alice"))
        assert (await client.get("/version", headers=alice)).status_code == 401
        bob = keys.add("bob")
        assert (await client.get("/version", headers=bob)).status_code == 200
        keys.file.write_text("{")
        broken = await client.get("/version", headers=bob)
        assert broken.status_code == 503
        assert str(keys.file) not in broken.text, "where the keys are is for the log alone"
        assert (await client.get("/health")).status_code != 503


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
async def test_the_gate_is_asked_about_namespaces_of_the_key_alone(
    monkeypatch: pytest.MonkeyPatch, keys: Keys, route: str
) -> None:
    alice, bob = keys.add("alice", "read", "sea", "land"), keys.add("bob", "write", "air")
    everybody = keys.add("carol")
    app = build(monkeypatch, settings=keys.settings)
    hook = with_handlers(app)
    prompt = {"model": "base-mega", "prompt": "Do bees sleep?"}
    body = prompt if route == "/v1/completions" else QUESTION
    async with asking(app) as client:

        async def ask(header: dict[str, str], namespace: str | None) -> httpx.Response:
            field = {} if namespace is None else {"mega": {"namespace": namespace}}
            return await client.post(route, json={**body, **field}, headers=header)

        named = [(alice, None), (alice, "land"), (bob, None), (everybody, None), (everybody, "air")]
        for header, namespace in named:
            assert (await ask(header, namespace)).status_code != 403
        assert hook.asked == ["sea", "land", "air", "default", "air"]
        refused = [await ask(alice, "air"), await ask(alice, "nowhere"), await ask(bob, "default")]
        assert len(hook.asked) == 5, "nothing is compared before it is known whose it is"
    assert [answer.status_code for answer in refused] == [403] * 3
    there, nowhere = (answer.json()["error"]["message"] for answer in refused[:2])
    assert there.replace("'air'", "") == nowhere.replace("'nowhere'", ""), "whether it has memories or not"
    assert refused[0].json()["error"]["param"] == "mega.namespace"


async def test_no_other_way_leads_to_another_namespace(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    alice = keys.add("alice", "read", "sea")
    app = build(monkeypatch, settings=keys.settings)
    hook = with_handlers(app)
    foreign = {**QUESTION, "mega": {"namespace": "air"}}
    switched_off = {**QUESTION, "mega": {"namespace": "air", "mode": "off"}}
    async with asking(app) as client:
        for body in (foreign, {**foreign, "model": "base"}, switched_off):
            for route in ("/invocations", "/v1/chat/completions"):
                assert (await client.post(route, json=body, headers=alice)).status_code == 403
    assert hook.asked == []
    assert {(line["who"], line["status"]) for line in keys.lines()} == {("alice", 403)}
    assert len(keys.lines()) == 6


async def test_memories_that_a_client_names_are_looked_for_in_its_own_namespace(
    monkeypatch: pytest.MonkeyPatch, keys: Keys
) -> None:
    bob = keys.add("bob", "read", "air")
    app = build(monkeypatch, settings=keys.settings)
    hook = with_handlers(app)
    async with asking(app) as client:
        for memories in ([{"id": "bees"}], [{"id": "nobodys"}]):
            await client.post(
                "/v1/chat/completions", json={**QUESTION, "mega": {"memories": memories}}, headers=bob
            )
    assert hook.asked == ["air", "air"]


async def test_requests_at_once_are_each_somebodys(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    headers = [keys.add(f"k{n}", "read", f"n{n}") for n in range(8)]
    app = build(monkeypatch, settings=keys.settings)
    hook = with_handlers(app)
    seen: list[tuple[str, str]] = []
    route = hook.route

    async def slow(ask: Any) -> Any:
        await asyncio.sleep(0.01)
        seen.append((principal().name.replace("k", "n"), ask.plan.namespace))
        return await route(ask)

    monkeypatch.setattr(hook, "route", slow)
    async with asking(app) as client:
        await asyncio.gather(*(
            client.post("/v1/chat/completions", json=QUESTION, headers=header) for header in headers * 4
        ))  # fmt: skip
        await client.post("/v1/chat/completions", json=QUESTION, headers=headers[0])
        assert principal().name == "operator", "in the same task, nobody stays behind"
    assert len(seen) == 33
    assert all(name == namespace for name, namespace in seen)


def test_a_server_has_keys_of_one_kind(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    keys.add("alice")
    with pytest.raises(ConfigError, match=r"--api-key .* do not go together"):
        build(monkeypatch, "--api-key", "sesame", settings=keys.settings)
    settings = MegaSettings(bank="bank", audit="audit.jsonl")
    with pytest.raises(ConfigError, match="give --keys, too"):
        server_keys(settings, [], {})
    assert server_keys(MegaSettings(bank="bank"), ["sesame"], {}) is None


def test_a_server_does_not_start_without_the_keys_that_it_shall_have(
    monkeypatch: pytest.MonkeyPatch, keys: Keys
) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        build(monkeypatch, settings=keys.settings)
    keys.file.write_text("{}")
    keys.file.chmod(0o666)
    with pytest.raises(ConfigError, match="others may write"):
        build(monkeypatch, settings=keys.settings)


async def test_keys_of_the_environment_guard_as_well(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    alice = keys.add("alice")
    monkeypatch.setenv(VARIABLE, keys.file.read_text())
    async with asking(build(monkeypatch)) as client:
        assert (await client.get("/version")).status_code == 401
        assert (await client.get("/version", headers=alice)).status_code == 200
        assert (await client.get("/mega/metrics", headers=alice)).status_code == 403


@pytest.mark.parametrize("given", [{"api_key": ["sesame"]}, {}])
def test_serve_refuses_keys_of_two_kinds_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch, keys: Keys, given: dict[str, Any]
) -> None:
    keys.add("alice")
    if not given:
        monkeypatch.setenv("VLLM_API_KEY", "sesame")
    planned = SimpleNamespace(settings=MegaSettings(bank="bank", keys=str(keys.file)), given=given)
    monkeypatch.setattr(_memory_options, "plan_launch", lambda _: planned)
    with pytest.raises(ConfigError, match="do not go together"):
        serve.run(argparse.Namespace(rest=[]))
