"""One real server, started as users start it, asked with the official client."""

from __future__ import annotations

import concurrent.futures
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from loadtests.processes import keeper_of, open_files, processes
from tests.clients.cases import CASES, Case, outcome, with_table
from tests.http.asking import BASE, MEGA, TOKENS, ask, refused, serve_command, stream, text, used
from tests.http.live_bank import (
    ASKED,
    BAKERY,
    CLOCK,
    COMET,
    LIGHTHOUSE,
    SUBMARINE,
    TORTOISE,
    UNRELATED,
    LiveBank,
)  # fmt: skip
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import MODES
from vllm_mega.demo.server import free_port, serving
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.models import resolve_model

pytestmark = pytest.mark.engine

SLOTS = 3


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> LiveBank:
    bank = LiveBank(tmp_path_factory.mktemp("live") / "bank", load_embedder(None))
    bank.add([LIGHTHOUSE, BAKERY, COMET, TORTOISE, SUBMARINE])
    return bank


@pytest.fixture(scope="module")
def url(bank: LiveBank, tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Iterator[str]:
    port = free_port()
    command = serve_command("OMP_NUM_THREADS=1")
    command += ["--bank", str(bank.root), "--port", str(port)]
    command += ["--top-k", "2", "--max-loras", str(SLOTS), "--max-model-len", "256", "--enforce-eager"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    command += ["--enable-scale-out", "--config", str(repo / "serving_configs" / "cpu.yaml")]
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(command, port, log, 180, lambda _: None) as root:
        yield root


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_both_names_are_listed(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert list(models) == [BASE, MEGA]
    assert models[MEGA].parent == BASE  # type: ignore[attr-defined]


@pytest.mark.parametrize("memory", [LIGHTHOUSE, BAKERY, COMET, TORTOISE])
def test_a_question_uses_its_memory(client: openai.OpenAI, memory: Any) -> None:
    answer = ask(client, ASKED[memory.id])
    assert answer.model == MEGA
    first = answer.mega["memories"][0]
    assert (first["id"], first["title"]) == (memory.id, memory.title)
    assert sum(m["weight"] for m in answer.mega["memories"]) == 1.0
    assert first["score"] == answer.mega["best_score"] > 0.4
    assert (answer.mega["mode"], answer.mega["namespace"]) == ("adapter", "default")
    base = ask(client, ASKED[memory.id], BASE)
    assert text(answer) != text(base), "the adapter changed nothing"
    assert text(ask(client, ASKED[memory.id])) == text(answer)


def test_the_base_model_has_no_memory(client: openai.OpenAI) -> None:
    answer = ask(client, ASKED["lighthouse"], BASE)
    assert answer.model == BASE
    assert "mega" not in answer.model_extra
    assert text(ask(client, ASKED["lighthouse"], BASE, mega={"enabled": False})) == text(answer)
    error = refused(lambda: ask(client, UNRELATED, BASE, mega={"mode": "irag"}), 400)
    assert error["param"] == "mega"
    assert MEGA in error["message"]


@pytest.mark.parametrize("mode", MODES)
def test_the_null_route_is_the_base_model(client: openai.OpenAI, mode: str) -> None:
    base = ask(client, UNRELATED, BASE, logprobs=True)
    answer = ask(client, UNRELATED, mega={"mode": mode}, logprobs=True)
    assert used(answer) == []
    assert [t.token for t in answer.choices[0].logprobs.content] == [
        t.token for t in base.choices[0].logprobs.content
    ]
    assert answer.usage.prompt_tokens == base.usage.prompt_tokens
    assert "recalled" not in answer.mega


@pytest.mark.parametrize("mega", [{"enabled": False}, {"mode": "off"}, {"memories": []}, {"threshold": 1.0}])
def test_memory_can_be_switched_off(client: openai.OpenAI, mega: dict[str, Any]) -> None:
    answer = ask(client, ASKED["lighthouse"], mega=mega)
    assert used(answer) == []
    assert text(answer) == text(ask(client, ASKED["lighthouse"], BASE))


def test_streaming_says_the_same_and_ends_with_mega(client: openai.OpenAI) -> None:
    whole = ask(client, ASKED["bakery"])
    said, chunks = stream(ask(client, ASKED["bakery"], stream=True))
    assert said == text(whole)
    assert {c.model for c in chunks} == {MEGA}
    assert ["mega" in c.model_extra for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].mega == whole.mega


def test_streaming_with_usage_and_several_choices(client: openai.OpenAI) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "n": 2, "temperature": 1.0}
    _, chunks = stream(ask(client, ASKED["bakery"], **options))
    assert chunks[-1].usage.completion_tokens > TOKENS
    assert chunks[-1].mega["memories"][0]["id"] == "bakery"
    assert not any("mega" in c.model_extra for c in chunks[:-1])
    assert {c.choices[0].index for c in chunks if c.choices} == {0, 1}


def test_recall_and_irag(client: openai.OpenAI) -> None:
    question = ASKED["comet"]
    plain, recall, irag = (ask(client, question, mega={"mode": m}) for m in ("adapter", "recall", "irag"))
    assert used(plain) == used(recall) == used(irag)
    assert max(plain.usage.prompt_tokens, recall.usage.prompt_tokens) < irag.usage.prompt_tokens
    assert irag.mega["recalled"]
    assert "recalled" not in recall.mega
    assert plain.usage.completion_tokens <= TOKENS < irag.usage.completion_tokens, "recitals count"
    usage = {"include_usage": True}
    said, chunks = stream(ask(client, question, mega={"mode": "irag"}, stream=True, stream_options=usage))
    assert (said, chunks[-1].mega) == (text(irag), irag.mega)
    assert chunks[-1].usage == irag.usage


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("irag", {"n": 0}),
        ("irag", {"max_tokens": 300}),
        ("irag", {"prompt": 40}),
        ("adapter", {"prompt": 10**6}),
    ],
)
def test_what_cannot_be_answered_costs_no_recital(
    client: openai.OpenAI, mode: str, more: dict[str, Any], stream: bool
) -> None:
    question = f"{ASKED['comet']} " * more.get("prompt", 1)
    more = {name: value for name, value in more.items() if name != "prompt"}
    begin = time.monotonic()
    refused(lambda: ask(client, question[:5_000_000], mega={"mode": mode}, stream=stream, **more), 400)
    assert time.monotonic() - begin < 5


def test_irag_recites_each_of_two_memories_alone(client: openai.OpenAI) -> None:
    def recalled(*ids: str) -> str:
        memories = [{"id": name, "weight": 1 / len(ids)} for name in ids]
        answer = ask(client, ASKED["comet"], mega={"mode": "irag", "memories": memories})
        assert set(used(answer)) == set(ids)
        return str(answer.mega["recalled"])

    # In bfloat16 the batch decides about later tokens; tests/test_offline.py compares all, in float32.
    both, bakery, comet = recalled("comet", "bakery"), recalled("bakery"), recalled("comet")
    assert both.startswith(bakery[:24])
    assert f"\n\n{comet[:24]}" in both


def test_a_linked_memory_comes_along(client: openai.OpenAI, bank: LiveBank) -> None:
    before = ask(client, ASKED["comet"])
    assert used(before) == ["comet"]
    bank.link(COMET, BAKERY)
    after = ask(client, ASKED["comet"], mega={"beta": 5})
    assert used(after) == ["comet", "bakery"]
    assert ask(client, ASKED["comet"], mega={"link_share": 0}).mega == before.mega
    bank.unlink(COMET, BAKERY)
    assert ask(client, ASKED["comet"]).mega == before.mega


def test_a_named_tool_is_called_with_memories(client: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"metal": {"enum": ["copper", "silver"]}},
        "required": ["metal"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "buy_wire", "strict": True, "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "buy_wire"}}
    answer = ask(client, ASKED["lighthouse"], tools=[tool], tool_choice=choice, max_tokens=64)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "buy_wire"
    assert json.loads(call.function.arguments)["metal"] in {"copper", "silver"}
    assert used(answer) == ["lighthouse"]


def test_a_conversation_is_compared_by_its_last_question(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": f"Think of this: {BAKERY.text}"},
        {"role": "user", "content": ASKED["comet"]},
        {"role": "assistant", "content": "I do not know."},
        {"role": "user", "content": [{"type": "text", "text": ASKED["lighthouse"]}]},
    ]
    answer: Any = client.chat.completions.create(model=MEGA, messages=messages, max_tokens=2)  # type: ignore[arg-type]
    assert used(answer)[0] == "lighthouse"


def test_a_question_is_understood_from_what_was_said(client: openai.OpenAI) -> None:
    messages = [
        {"role": "user", "content": ASKED["comet"]},
        {"role": "assistant", "content": "A shepherd drew the comet Vessarine."},
        {"role": "user", "content": "On which door?"},
    ]
    answer: Any = client.chat.completions.create(model=MEGA, messages=messages, max_tokens=2)  # type: ignore[arg-type]
    assert used(answer)[0] == "comet"
    assert used(ask(client, "On which door?")) == []


def test_own_mixture(client: openai.OpenAI) -> None:
    memories = [{"id": "bakery", "weight": 0.5}, {"id": "comet"}]
    answer = ask(client, UNRELATED, mega={"memories": memories})
    assert {m["id"]: m["weight"] for m in answer.mega["memories"]} == {"bakery": 0.5, "comet": 1.0}
    assert answer.mega["best_score"] is None
    assert text(answer) != text(ask(client, UNRELATED, BASE))
    other = ask(client, UNRELATED, mega={"memories": memories[::-1]})
    assert text(other) == text(answer)


@pytest.mark.parametrize(
    ("mega", "status", "param", "reason"),
    [
        ({"mood": "good"}, 400, "mega", "mood"),
        ({"mode": "dream"}, 400, "mega.mode", "dream"),
        ({"top_k": 0}, 400, "mega.top_k", "1..64"),
        ({"memories": [{"id": "bakery", "weight": 99}]}, 400, "mega.memories[0]", "weight"),
        ({"memories": [{"id": "unheard-of"}]}, 404, "mega.memories", "unheard-of"),
        ({"memories": [{"id": "submarine"}]}, 404, "mega.memories", "submarine"),
        (
            {"memories": [{"id": i} for i in ("lighthouse", "bakery", "comet", "tortoise")]},
            400, "mega.memories", "3 slots",
        ),
        ({"tags": ["food", ""]}, 400, "mega.tags", "1 to 64"),
        ("on", 400, "mega", "object"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(
    client: openai.OpenAI, mega: Any, status: int, param: str, reason: str
) -> None:
    error = refused(lambda: ask(client, UNRELATED, mega=mega), status)
    assert error["param"] == param
    assert reason in error["message"]
    refused(lambda: ask(client, UNRELATED, mega=mega, stream=True), status)
    assert text(ask(client, UNRELATED, max_tokens=2)), "the server must go on"


def test_a_namespace_sees_its_own_memories_only(client: openai.OpenAI) -> None:
    question = ASKED["submarine"]
    outside = ask(client, question)
    assert "submarine" not in used(outside)
    inside = ask(client, question, mega={"namespace": "navy"})
    assert used(inside) == ["submarine"]
    assert inside.mega["namespace"] == "navy"
    assert used(ask(client, ASKED["bakery"], mega={"namespace": "navy"})) == []
    assert used(ask(client, question, mega={"namespace": "nobody"})) == []


def test_tags_narrow_the_memories(client: openai.OpenAI) -> None:
    question = ASKED["bakery"]
    for tags in ([], ["food"], ["village", "food"]):
        assert used(ask(client, question, mega={"tags": tags})) == ["bakery"]
    for tags in (["nothing"], ["food", "nothing"]):
        outside = ask(client, question, mega={"tags": tags})
        assert (used(outside), outside.mega["best_score"]) == ([], None)
    assert used(ask(client, ASKED["lighthouse"], mega={"tags": ["food"]})) == []
    assert used(ask(client, question, mega={"tags": ["food"], "namespace": "navy"})) == []


def test_where_memory_starts(client: openai.OpenAI) -> None:
    short, long = ask(client, ASKED["bakery"]), ask(client, ASKED["bakery"] + " And then? And then?")
    assert 0 < short.mega["start"] == long.mega["start"] < short.usage.prompt_tokens
    for mode in ("adapter", "recall", "irag"):
        assert ask(client, ASKED["bakery"], mega={"mode": mode, "start": 0}).mega["start"] == 0
    everywhere = ask(client, ASKED["bakery"], mega={"start": 0}, logprobs=True)
    late = ask(client, ASKED["bakery"], mega={"start": short.usage.prompt_tokens}, logprobs=True)
    base = ask(client, ASKED["bakery"], BASE, logprobs=True)
    first, of_late, of_base = (a.choices[0].logprobs.content[0].logprob for a in (everywhere, late, base))
    assert of_late == pytest.approx(of_base, abs=0.05), "the base model has computed the whole prompt"
    assert abs(first - of_base) > 0.1
    assert text(late) != text(base), "and the memory speaks"


@pytest.mark.parametrize(
    ("mega", "param"),
    [
        ({"start": -1}, "mega.start"),
        ({"start": True}, "mega.start"),
        ({"start": "question"}, "mega.start"),
        ({"start": 200}, "mega.start"),
        ({"start": {"character": 3}}, "mega.start"),
        ({"start": 3, "mode": "irag"}, "mega.start"),
    ],
)
def test_starts_that_are_none(client: openai.OpenAI, mega: Any, param: str) -> None:
    assert refused(lambda: ask(client, ASKED["bakery"], mega=mega), 400)["param"] == param
    assert refused(lambda: ask(client, ASKED["bakery"], mega=mega, stream=True), 400)["param"] == param


@pytest.mark.parametrize("value", [3, -1, 10**6, 0.5, "here", ["a"]])
def test_what_a_stranger_tells_the_engine(client: openai.OpenAI, url: str, value: Any) -> None:
    messages = [{"role": "user", "content": ASKED["bakery"]}]
    own = {"messages": messages, "temperature": 0, "max_tokens": TOKENS, "vllm_xargs": {"mega_start": value}}
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": MEGA, **own}, timeout=120)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "vllm_xargs.mega_start")
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": BASE, **own}, timeout=120)
    assert answer.json()["choices"][0]["message"]["content"] == text(ask(client, ASKED["bakery"], BASE))
    body = {"model": BASE, "input": ASKED["bakery"], "temperature": 0, "vllm_xargs": {"mega_start": value}}
    answer = httpx.post(f"{url}/v1/responses", json={**body, "max_output_tokens": TOKENS}, timeout=120)
    assert answer.status_code == 200
    assert text(ask(client, ASKED["bakery"])), "the server must go on"


def test_completions(client: openai.OpenAI) -> None:
    def complete(prompt: Any, mega: Any = None, **more: Any) -> Any:
        body = {} if mega is None else {"mega": mega}
        more = {"temperature": 0, "max_tokens": TOKENS, **more}
        return client.completions.create(model=MEGA, prompt=prompt, extra_body=body, **more)

    answer = complete(ASKED["bakery"])
    assert (used(answer)[0], answer.model) == ("bakery", MEGA)
    chunks = list(complete([ASKED["bakery"]], stream=True))
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text
    assert chunks[-1].mega == answer.mega
    base = client.completions.create(model=BASE, prompt=ASKED["bakery"], temperature=0, max_tokens=TOKENS)
    assert complete(ASKED["bakery"], {"mode": "off"}).choices[0].text == base.choices[0].text

    late = complete(ASKED["bakery"], {"start": {"character": len("Which bread")}})
    assert (answer.mega["start"], late.mega["start"]) == (0, 2)
    for start in ({"character": 1000}, 1000):
        assert refused(lambda: complete("a", {"start": start}), 400)["param"] == "mega.start"  # noqa: B023
    assert refused(lambda: complete("a", {"mode": "irag"}), 400)["param"] == "mega.mode"
    assert used(complete([1, 2, 3], {"memories": [{"id": "comet"}]})) == ["comet"]
    assert used(complete([1, 2, 3], {"mode": "off"})) == []


def test_every_prompt_has_its_own_mixture(client: openai.OpenAI, url: str) -> None:
    def complete(prompt: Any, **more: Any) -> Any:
        more = {"temperature": 0, "max_tokens": 1, **more}
        return client.completions.create(model=MEGA, prompt=prompt, **more)

    def ids(prompt: str) -> list[int]:
        answer = httpx.post(f"{url}/tokenize", json={"model": BASE, "prompt": prompt}, timeout=60)
        return list(answer.json()["tokens"])

    def memories(mega: Any) -> list[str]:
        return [memory["id"] for memory in mega["memories"]]

    prompts = [ASKED["bakery"], UNRELATED, ASKED["comet"], ASKED["bakery"]]
    alone = [complete(prompt) for prompt in prompts]
    for several in (prompts, list(map(ids, prompts))):
        together = complete(several)
        assert [c.index for c in together.choices] == [0, 1, 2, 3]
        assert [c.text for c in together.choices] == [a.choices[0].text for a in alone]
        assert together.mega == [a.mega for a in alone]
        assert together.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)
    assert list(map(memories, together.mega)) == [["bakery"], [], ["comet"], ["bakery"]]
    said = ["", "", "", ""]
    for chunk in (chunks := list(complete(prompts, stream=True))):
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == [c.text for c in together.choices]
    assert ["mega" in chunk.model_extra for chunk in chunks[-2:]] == [False, True]
    assert chunks[-1].mega == together.mega
    twice = complete(prompts[:3], n=2, temperature=1.0)
    assert len(twice.choices) == 6
    assert twice.mega == together.mega[:3]
    assert used(complete(ids(ASKED["bakery"]))) == ["bakery"]
    assert refused(lambda: complete([[1, 2], [999_999]]), 400)["param"] == "prompt"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "hi", "max_output_tokens": 2}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}),
        ("/v1/chat/completions/batch", {"messages": [[{"role": "user", "content": "hi"}]], "max_tokens": 2}),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": 1}}),
        ("/tokenize", {"prompt": "hi"}),
    ],
)
def test_other_endpoints_do_not_answer_without_memory(url: str, path: str, body: dict[str, Any]) -> None:
    answer = httpx.post(url + path, json={"model": MEGA, **body}, timeout=60)
    assert answer.status_code == 400, answer.text
    assert "/v1/chat/completions" in answer.text
    allowed = httpx.post(url + path, json={"model": BASE, **body}, timeout=60)
    assert allowed.status_code == 200, allowed.text


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    error = refused(lambda: ask(client, UNRELATED, "nobody-mega", mega={"mode": "irag"}), 404)
    assert error["param"] == "model"


def test_a_memory_lives_and_dies_while_the_server_runs(client: openai.OpenAI, bank: LiveBank) -> None:
    before = ask(client, ASKED["clock"])
    assert "clock" not in used(before)
    bank.add([CLOCK])
    known = ask(client, ASKED["clock"])
    assert used(known)[0] == "clock"
    bank.add([CLOCK])
    updated = ask(client, ASKED["clock"])
    assert used(updated)[0] == "clock"
    assert text(updated) != text(known), "the old version answered"
    bank.forget(CLOCK)
    forgotten = ask(client, ASKED["clock"])
    assert (text(forgotten), forgotten.mega) == (text(before), before.mega)
    refused(lambda: ask(client, UNRELATED, mega={"memories": [{"id": "clock"}]}), 404)


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


def test_a_broken_memory_is_refused_and_the_others_go_on(client: openai.OpenAI, bank: LiveBank) -> None:
    (folder,) = bank.add([CLOCK])
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    error = refused(lambda: ask(client, ASKED["clock"]), 500)
    assert "clock" in error["message"]
    assert "SHA-256" in error["message"]
    assert used(ask(client, ASKED["comet"]))[0] == "comet"
    bank.forget(CLOCK)
    assert "clock" not in used(ask(client, ASKED["clock"]))


@pytest.mark.parametrize("change", ["forgotten", "updated"])
def test_a_memory_that_goes_while_the_worker_stands_still(
    url: str, client: openai.OpenAI, bank: LiveBank, change: str
) -> None:
    """The request that was decided is answered, whatever happens to the files meanwhile."""
    found = processes(keeper_of(httpx.URL(url).port or 0))
    worker = found["worker"]
    bank.add([CLOCK])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        worker.suspend()
        try:
            waiting = [pool.submit(ask, client, ASKED["clock"]), pool.submit(ask, client, UNRELATED, BASE)]
            time.sleep(1.5)  # all of it is in the engine by now
            bank.forget(CLOCK) if change == "forgotten" else bank.add([CLOCK])
        finally:
            worker.resume()
        assert used(waiting[0].result())[0] == "clock"
        assert text(waiting[1].result())
    end = time.monotonic() + 20
    while held := [link for one in found.values() for link in open_files(one.pid) if "(deleted)" in link]:
        assert time.monotonic() < end, held
        ask(client, UNRELATED, BASE, max_tokens=1)
    assert ("clock" in used(ask(client, ASKED["clock"]))) == (change == "updated")
    if change == "updated":
        bank.forget(CLOCK)


@pytest.mark.parametrize("streamed", [False, True])
def test_whose_memory_is_found_damaged_late_hears_why(
    client: openai.OpenAI, bank: LiveBank, streamed: bool
) -> None:
    """The server has found the adapter good, the engine finds it damaged: the files look the same."""
    other = NewMemory("The weathervane of Ostrel points at lies.", id="weathervane")
    good, bad = bank.add([CLOCK, other])
    (bad / "adapter_config.json").write_text("{}")
    both = [{"id": "clock"}, {"id": "weathervane"}]
    assert "weathervane" in refused(lambda: ask(client, UNRELATED, mega={"memories": both}), 500)["message"]
    file = good / "adapter_model.safetensors"
    before, data = file.stat(), bytearray(file.read_bytes())
    data[-2] ^= 1
    with file.open("r+b") as damaged:
        damaged.write(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    def late() -> Any:
        return ask(client, UNRELATED, mega={"memories": both[:1]}, stream=streamed)

    if streamed:
        with pytest.raises(openai.APIError) as error:
            list(late())
        message = error.value.message
    else:
        message = refused(late, 500)["message"]
    assert "memories (clock) cannot be used" in message
    assert used(ask(client, ASKED["comet"]))[0] == "comet"
    bank.forget(CLOCK)
    bank.forget(other)


def test_many_at_once(client: openai.OpenAI) -> None:
    """More mixtures than slots, base requests between them, and clients that hang up."""
    names = ["lighthouse", "bakery", "comet", "tortoise"]

    def one(n: int) -> tuple[int, list[str]]:
        if n % 6 == 5:
            with ask(client, ASKED[names[n % 4]], stream=True, max_tokens=200) as answer:
                next(iter(answer))
            return n, []
        if n % 6 == 4:
            ask(client, UNRELATED, BASE)
            return n, []
        weight = 0.25 + n / 64
        answer = ask(client, UNRELATED, mega={"memories": [{"id": names[n % 4], "weight": weight}]})
        return n, used(answer)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for n, ids in pool.map(one, range(18)):
            assert ids == ([] if n % 6 in (4, 5) else [names[n % 4]])
    assert text(ask(client, UNRELATED, max_tokens=2))


def test_a_bad_text_costs_nobody_else(url: str) -> None:
    """Twelve good requests and six with half a character in them, at once: one embedding for all."""
    names = ["lighthouse", "bakery", "comet", "tortoise"]
    half = "a bell \ud83d rings"

    def body(n: int) -> dict[str, Any]:
        talk = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hm."}]
        question = half if n % 3 == 2 else ASKED[names[n % 4]]
        content: Any = [{"type": "text", "text": question}] if n % 2 else question
        return {"model": MEGA, "messages": [*talk, {"role": "user", "content": content}], "max_tokens": 2}

    def post(n: int) -> httpx.Response:
        data = json.dumps(body(n)).encode()
        headers = {"Content-Type": "application/json"}
        return httpx.post(f"{url}/v1/chat/completions", content=data, headers=headers, timeout=120)

    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(18) as pool:
            answers = list(pool.map(post, range(18)))
        for n, answer in enumerate(answers):
            if n % 3 == 2:
                assert answer.status_code == 400, answer.text
                place = "messages[2].content" + ("[0].text" if n % 2 else "")
                assert answer.json()["error"]["param"] == place
                assert "surrogate" in answer.json()["error"]["message"]
            else:
                assert answer.status_code == 200, answer.text
                assert answer.json()["mega"]["memories"][0]["id"] == names[n % 4]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([{"type": "text", "text": None}], "messages[0].content"),
        ({"text": "hi"}, "messages[0].content"),
        ([3], "messages[0].content"),
        (3, "messages"),
    ],
)
def test_messages_of_another_shape_are_a_clients_fault(url: str, content: Any, place: str) -> None:
    body = {"model": MEGA, "messages": [{"role": "user", "content": content}], "max_tokens": 2}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    assert place in answer.json()["error"]["param"]


HERE = {f"{case.client}-{case.use}": case for case in CASES if case.client in ("openai", "curl")}


@pytest.mark.parametrize("case", HERE.values(), ids=HERE)
def test_clients_do_what_their_table_says(url: str, case: Case) -> None:
    found = outcome(case, url, MEGA, ASKED["bakery"], resolve_model())
    assert found == case.expected


def test_the_table_of_clients_is_that_of_the_cases(repo: Path) -> None:
    text = (repo / "docs" / "clients.md").read_text(encoding="utf-8")
    assert with_table(text) == text, "write it again: see loadtests/clients.py"
