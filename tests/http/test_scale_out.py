"""Two engines behind two API servers, sharing one bank."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http.asking import BASE, ask, serve_command, text, used
from tests.http.live_bank import ASKED, BAKERY, COMET, LIGHTHOUSE, UNRELATED, LiveBank
from tests.http.test_metrics import values
from vllm_mega.demo.server import free_port, serving
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.http.door import OPEN

pytestmark = [pytest.mark.engine, pytest.mark.slow]
KEY = "sesame"
QUESTIONS = [ASKED["lighthouse"], ASKED["bakery"], ASKED["comet"], UNRELATED]


@contextmanager
def _served(bank: LiveBank, log: Path, *options: str) -> Iterator[str]:
    port = free_port()
    command = serve_command("VLLM_CPU_KVCACHE_SPACE=1")
    command += ["--bank", str(bank.root), "--port", str(port)]
    command += [
        "--dtype",
        "float32",
        "--max-loras",
        "4",
        "--max-model-len",
        "256",
        "--enforce-eager",
        *options,
    ]
    with serving(command, port, log, 300, lambda _: None) as root:
        yield f"{root}/v1"


def _answers(url: str, repeats: int) -> set[tuple[str, tuple[str, ...], str]]:
    """(question, memories used, answer), every question over a connection of its own."""
    found = set()
    for question in QUESTIONS * repeats:
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120) as client:
            answer = ask(client, question)
            found.add((question, tuple(used(answer)), text(answer)))
    return found


def _check_the_door(root: str) -> None:
    """Every route that the server tells of needs the key, and both engines are told."""
    header = {"Authorization": f"Bearer {KEY}"}
    paths = httpx.get(f"{root}/openapi.json", headers=header, timeout=60).json()["paths"]
    assert {"/invocations", "/tokenize", "/v1/chat/completions", "/mega/metrics"} <= set(paths)
    for path, methods in paths.items():
        for method in methods:
            status = httpx.request(method, root + path, timeout=60).status_code
            assert (status == 401) == (path not in OPEN), (method, path, status)
    memory = {"X-Amzn-SageMaker-Adapter-Identifier": f"{BASE}-mega"}
    body = {"messages": [{"role": "user", "content": UNRELATED}], "max_tokens": 2}
    assert httpx.post(f"{root}/invocations", json=body, headers=memory, timeout=60).status_code == 401
    known = httpx.post(f"{root}/invocations", json=body, headers={**memory, **header}, timeout=60)
    assert known.json()["mega"]["memories"] == []
    told = values(httpx.get(f"{root}/mega/metrics", headers=header, timeout=60).text)
    assert [told["mega_slots", engine, "0"] for engine in "01"] == [4, 4]
    assert httpx.get(f"{root}/mega/ready", timeout=60).json() == {"ready": True, "engine": "ok", "bank": "ok"}


def _routes(root: str) -> dict[str, float]:
    """How many requests both API servers have decided, by what became of them."""
    text = httpx.get(f"{root}/metrics", headers={"Authorization": f"Bearer {KEY}"}, timeout=60).text
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    count = next(one.value for one in families["mega_gate_seconds"] if one.name.endswith("_count"))
    routes = {one.labels["route"]: one.value for one in families["mega_routes"]}
    assert sum(routes.values()) == count, "all were for the gate"
    return routes


def test_data_parallel_engines_and_api_servers_answer_like_one(tmp_path: Path):
    bank = LiveBank(tmp_path / "bank", load_embedder(None))
    bank.add([LIGHTHOUSE, BAKERY, COMET])
    with _served(bank, tmp_path / "one.log") as url:
        want = _answers(url, 1)
    assert {memories for _, memories, _ in want} == {("lighthouse",), ("bakery",), ("comet",), ()}
    options = ["--data-parallel-size", "2", "--api-server-count", "2", "--api-key", KEY]
    with _served(bank, tmp_path / "two.log", *options) as url:
        assert _answers(url, 6) == want
        assert _routes(url.removesuffix("/v1")) == {"memories": 3 * 6, "null": 6}
        _check_the_door(url.removesuffix("/v1"))
        bank.forget(COMET)
        time.sleep(2)
        forgotten = _answers(url, 6)
        assert all("comet" not in memories for _, memories, _ in forgotten)
        assert {one for one in want if one[0] != ASKED["comet"]} <= forgotten
