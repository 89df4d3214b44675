"""Texts of memories in the context, on a real server: with adapters, without them, and from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.http.asking import BASE, MEGA, ask, serve_command, stream, text, used
from tests.http.live_bank import ASKED, BAKERY, CLOCK, COMET, LIGHTHOUSE, TORTOISE, LiveBank
from vllm_mega.bank.layout import NewMemory
from vllm_mega.demo.server import free_port, serving
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.models import resolve_model
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.models.start import start_of
from vllm_mega.prompts import irag_messages

pytestmark = pytest.mark.engine

BLOCK = 32
"""Tokens of a block of the prefix cache: on CPUs a multiple of this."""


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> LiveBank:
    bank = LiveBank(tmp_path_factory.mktemp("texts") / "bank", load_embedder(None))
    bank.add([LIGHTHOUSE, BAKERY, COMET, TORTOISE])
    return bank


@pytest.fixture(scope="module")
def url(bank: LiveBank, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = serve_command("OMP_NUM_THREADS=1", "VLLM_CPU_KVCACHE_SPACE=1")
    command += ["--bank", str(bank.root), "--port", str(port), "--max-loras", "3", "--max-model-len", "512"]
    command += ["--block-size", str(BLOCK), "--enable-prompt-tokens-details", "--dtype", "float32"]
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(command, port, log, 180, lambda _: None) as root:
        yield root


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_a_memory_that_waits_for_its_adapter_answers_as_text(client: openai.OpenAI, bank: LiveBank) -> None:
    bank.store(CLOCK)
    read = ask(client, ASKED["clock"], mega={"mode": "text"})
    for mode in ("adapter", "recall", "irag", "both"):
        answer = ask(client, ASKED["clock"], mega={"mode": mode})
        (memory,) = answer.mega["memories"]
        assert (memory["id"], memory["state"], memory["as"]) == ("clock", "pending", "text")
        assert answer.mega["recalled"] == CLOCK.text
        assert answer.mega["start"] is None
        assert mode == "recall" or text(answer) == text(read)
    named = ask(client, ASKED["clock"], mega={"memories": [{"id": "clock"}]})
    assert text(named) == text(read)
    bank.forget(CLOCK)
    assert "clock" not in used(ask(client, ASKED["clock"]))


@pytest.mark.parametrize("mode", ["text", "both"])
def test_a_text_that_is_asked_again_costs_no_prefill(url: str, mode: str) -> None:
    """Up to the last whole block all of it comes from the prefix cache, whatever is asked, in any mixture."""
    chat = load_chat_format(resolve_model())

    def asked(question: str, weight: float) -> tuple[list[int], int]:
        """The prompt, and how many tokens of it were cached."""
        memories = [{"id": name, "weight": weight} for name in ("bakery", "comet", "tortoise")]
        body = {
            "model": MEGA, "max_tokens": 2, "messages": [{"role": "user", "content": question}],
            "mega": {"mode": mode, "memories": memories},
        }  # fmt: skip
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).json()
        prompt = chat.prompt(irag_messages(question, answer["mega"]["recalled"]))
        assert answer["usage"]["prompt_tokens"] == len(prompt)
        return list(prompt), answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    first, _ = asked("So?", 0.5)
    assert COMET.text in chat.tokenizer.decode(first)
    for question, weight in (("Who drew it first?", 0.25), ("When is there post in the village?", 0.75)):
        prompt, cached = asked(question, weight)
        shared = start_of(first, prompt)
        assert chat.tokenizer.decode(prompt[:shared]).rstrip().endswith(TORTOISE.text)
        assert cached == shared // BLOCK * BLOCK > BLOCK


@pytest.mark.parametrize("mode", ["adapter", "text", "both"])
def test_nobody_finds_a_memory_in_the_cache_by_guessing_it(url: str, bank: LiveBank, mode: str) -> None:
    """A prompt that says word for word what another's did is computed anew from the memory on; and the same
    memory in another namespace shares nothing with it."""
    twin = NewMemory(COMET.text, id="comet", title=COMET.title, namespace="strangers")
    bank.store(twin) if mode == "text" else bank.add([twin])
    chat, before = load_chat_format(resolve_model()), "Say it in one sentence, and say it politely. " * 8
    system = {"role": "system", "content": before}
    question = f"{ASKED['comet']} ({mode})" + " Take the time that you need, and then say the name alone." * 5

    def asked(model: str, content: str, mega: dict[str, Any] | None) -> tuple[int, int, Any]:
        """Tokens of the prompt, those that were cached, and what is said of memory."""
        messages = [system, {"role": "user", "content": content}]
        body = {"model": model, "max_tokens": 2, "messages": messages, "mega": mega}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120).json()
        usage = answer["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], answer.get("mega")

    named = {"mode": mode, "memories": [{"id": "comet"}]}
    tokens, _, mega = asked(MEGA, question, named)
    prompt = irag_messages(question, mega["recalled"])[0]["content"] if "recalled" in mega else question
    shared = chat.tokenizer.encode(before, add_special_tokens=False)
    guess, found, _ = asked(BASE, prompt, None)
    assert guess == tokens, "the guess is right, word for word"
    assert len(shared) - BLOCK < found < len(shared) + BLOCK, "what stands before the memory is everybody's"
    assert asked(MEGA, question, {**named, "namespace": "strangers"})[1] == found
    again = asked(MEGA, question, named)[1]
    assert again == (tokens - 1) // BLOCK * BLOCK > found, "but its own namespace finds it"
    bank.forget(twin)


def test_the_modes_text_and_both(client: openai.OpenAI) -> None:
    asked = [{"mode": mode} for mode in ("off", "adapter", "text", "both")]
    off, adapter, read, both = (ask(client, ASKED["bakery"], mega=mega) for mega in asked)
    assert len({text(answer) for answer in (off, adapter, read)}) == 3
    for answer, form in ((adapter, "adapter"), (read, "text"), (both, "both")):
        assert (used(answer), answer.mega["memories"][0]["as"]) == (["bakery"], form)
    assert read.mega["recalled"] == both.mega["recalled"] == BAKERY.text
    assert read.mega["start"] is None
    assert both.mega["start"] > adapter.mega["start"], "behind the text"
    assert read.usage.prompt_tokens == both.usage.prompt_tokens > adapter.usage.prompt_tokens
    said, chunks = stream(ask(client, ASKED["bakery"], stream=True, mega={"mode": "both"}))
    assert (said, chunks[-1].mega) == (text(both), both.mega)


def test_provenance_stands_in_body_and_header(url: str) -> None:
    messages = [{"role": "user", "content": ASKED["comet"]}]
    body: dict[str, Any] = {"model": MEGA, "max_tokens": 2, "messages": messages, "mega": {"explain": True}}
    answers = [
        httpx.post(f"{url}/v1/chat/completions", json={**body, "stream": stream}, timeout=120)
        for stream in (False, True)
    ]
    mega = answers[0].json()["mega"]
    (memory,) = mega["memories"]
    told = f'"comet";version={memory["version"]};weight=1;as=adapter;score={memory["score"]:.4f}'
    assert [answer.headers["mega-memories"] for answer in answers] == [told, told]
    assert mega["explain"]["threshold"] == 0.4
    assert [one["why"] for one in mega["explain"]["runners_up"]] == ["threshold"] * 3
    base = httpx.post(f"{url}/v1/chat/completions", json={**body, "model": BASE, "mega": None}, timeout=120)
    assert "mega-memories" not in base.headers
