"""Who may come in: every route of the app that vLLM builds, with and without the key."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.http.running_app import build, routes
from vllm_mega.http.console.files import is_console

KEY = {"Authorization": "Bearer sesame"}
OPEN = {"/health", "/ping", "/mega/ready"}


@pytest.fixture(params=["option", "environment", "development", "runtime LoRA", "root path"])
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server with a key, as it can be started."""
    if request.param == "environment":
        monkeypatch.setenv("VLLM_API_KEY", "sesame")
        return build(monkeypatch)
    if request.param == "development":
        monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    if request.param == "runtime LoRA":
        monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    more = ["--root-path", "/models"] if request.param == "root path" else []
    return build(monkeypatch, "--api-key", "sesame", *more)


def asking(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


async def test_every_route_needs_the_key(app: Any) -> None:
    found = set(routes(app))
    assert {("POST", "/invocations"), ("POST", "/v1/chat/completions"), ("GET", "/mega/metrics")} <= found
    async with asking(app) as client:
        for method, path in sorted(found):
            for prefix in {"", app.root_path or ""}:
                is_open = path in OPEN or is_console(method, path)
                asked = await client.request(method, prefix + path)
                assert (asked.status_code == 401) == (not is_open), (method, prefix + path)
                wrong = await client.request(method, prefix + path, headers={"Authorization": "Bearer no"})
                assert (wrong.status_code == 401) == (not is_open), (method, prefix + path)
                known = await client.request(method, prefix + path, headers=KEY)
                assert known.status_code != 401, (method, prefix + path)


@pytest.mark.parametrize(
    "path", ["/health/", "//health", "/health/../invocations", "/Health", "/ping/x", "/nowhere", "/%68ealth/"]
)
async def test_another_spelling_of_an_open_path_is_not_open(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async with asking(build(monkeypatch, "--api-key", "sesame")) as client:
        assert (await client.get(httpx.URL(f"http://server{path}"))).status_code == 401


async def test_a_header_that_names_memory_does_not_open_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """SageMaker's route takes the model from a header, and leads to the same handlers."""
    body = {"messages": [{"role": "user", "content": "Who?"}], "mega": {"namespace": "navy"}}
    header = {"X-Amzn-SageMaker-Adapter-Identifier": "model-mega"}
    async with asking(build(monkeypatch, "--api-key", "sesame")) as client:
        assert (await client.post("/invocations", json=body, headers=header)).status_code == 401


async def test_preflights_of_browsers_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    app = build(monkeypatch, "--api-key", "sesame", "--allowed-origins", '["http://page"]')
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    async with asking(app) as client:
        assert (await client.options("/v1/chat/completions", headers=headers)).status_code == 200
        assert (await client.options("/v1/chat/completions")).status_code == 401


async def test_without_a_key_nobody_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(build(monkeypatch)) as client:
        assert (await client.get("/version")).status_code == 200


async def test_without_our_settings_the_server_is_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    app = build(monkeypatch, "--api-key", "sesame", settings=None)
    async with asking(app) as client:
        assert (await client.get("/version")).status_code == 200
        assert (await client.get("/mega/metrics", headers=KEY)).status_code == 404
