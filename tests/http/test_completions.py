"""/v1/completions: a mixture for each prompt, whatever form the prompts have. No engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from tests.http.fakes import FakeGate
from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.http.completions import MODES, MegaCompletion
from vllm_mega.mixture import Mixture
from vllm_mega.requests.deciding import decide

WORDS = ["bees", "goats", "owls", "and", "nothing"]


class Engine:
    """Answers every prompt with the memories that it ran with."""

    def __init__(self) -> None:
        self.dead_error = None
        self.starts: list[int | None] = []

    async def generate(
        self, prompt: Any, params: Any, request_id: str, *, lora_request: Any
    ) -> AsyncGenerator[str, None]:
        memories = Mixture.from_path(lora_request.lora_path).components if lora_request else ()
        self.starts.append((params.extra_args or {}).get("mega_start"))
        yield " ".join(sorted(c.path.split("/")[2] for c in memories))


class Tokenizer:
    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(WORDS[i] for i in ids)


class Renderer:
    tokenizer = Tokenizer()

    def validate_token_ids(self, ids: list[int], parameter: str) -> None:
        if any(i >= len(WORDS) for i in ids):
            raise ValueError(f"{parameter} has a token id that the model does not have")


class Hook:
    slots = 4

    def __init__(self, mode: Any) -> None:
        self.settings = MegaSettings(bank="bank", mode=mode)
        self.gate: Any = FakeGate()

    async def route(self, ask: Any) -> Any:
        (decision,) = decide(self.gate, [ask], 4)
        if isinstance(decision, Exception):
            raise decision
        return decision, to_lora_request(decision.mixture)


@pytest.fixture(autouse=True)
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts to inputs, one after the other to the engine: as vLLM's own handler does."""

    async def render(self: Any, request: CompletionRequest) -> list[Any]:
        prompts = request.prompt if isinstance(request.prompt, list) else [request.prompt]
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        return [{"prompt": prompt} for prompt in prompts]

    async def create(self: Any, request: CompletionRequest, raw_request: Any = None) -> Any:
        inputs = await self.render_completion_request(request)
        lora = self._maybe_get_adapters(request)
        answers = [
            self.engine_client.generate(i, SamplingParams(), f"x-{n}", lora_request=lora)
            for n, i in enumerate(inputs)
        ]
        assert self.engine_client.dead_error is None, "whatever else the handler asks the client for"
        return SimpleNamespace(used=[await anext(answer) for answer in answers])

    monkeypatch.setattr(OpenAIServingCompletion, "render_completion_request", render)
    monkeypatch.setattr(OpenAIServingCompletion, "create_completion", create)


def handler(mode: str = "adapter") -> Any:
    made: Any = MegaCompletion.__new__(MegaCompletion)
    made.engine_client, made.renderer, made.mega = Engine(), Renderer(), Hook(mode)
    made.models = SimpleNamespace(_has_memory=lambda name: True)
    return made


def request(prompt: Any, mega: Any = None, **more: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m-mega", "prompt": prompt, "mega": mega, **more})


def ids(mega: Any) -> list[str]:
    return [memory["id"] for memory in mega["memories"]]


@pytest.mark.parametrize("prompt", ["bees", ["bees"], [0], [[0]]])
async def test_one_prompt_in_any_form(prompt: Any) -> None:
    answer = await handler().create_completion(request(prompt))
    assert answer.used == ["bees"]
    assert ids(answer.mega) == ["bees"]


@pytest.mark.parametrize(
    "prompts", [["bees", "nothing", "goats and owls", "bees"], [[0], [4], [1, 3, 2], [0]]], ids=str
)
async def test_each_prompt_has_its_own_mixture(prompts: Any) -> None:
    made = handler()
    engine = made.engine_client
    answer = await made.create_completion(request(prompts))
    assert answer.used == ["bees", "", "goats owls", "bees"]
    assert [ids(mega) for mega in answer.mega] == [["bees"], [], ["goats", "owls"], ["bees"]]
    assert made.engine_client is engine, "the next request has another handler"
    assert (await made.create_completion(request("owls"))).used == ["owls"]


async def test_a_given_mixture_is_that_of_all_prompts() -> None:
    answer = await handler().create_completion(request(["a", "b"], {"memories": [{"id": "goats"}]}))
    assert answer.used == ["goats", "goats"]
    assert ids(answer.mega) == ["goats"]


@pytest.mark.parametrize("mode", ["adapter", "recall", "irag", "off"])
async def test_a_servers_mode_falls_back_to_one_that_is_there(mode: str) -> None:
    answer = await handler(mode).create_completion(request("bees"))
    assert answer.mega["mode"] == (mode if mode in MODES else "adapter")
    assert answer.used == ["" if mode == "off" else "bees"]


@pytest.mark.parametrize(
    ("prompt", "more", "param"),
    [
        ("bees", {"mega": {"mode": "irag"}}, "mega.mode"),
        ([], {}, "prompt"),
        (["bees", "\ud83d"], {}, "prompt[1]"),
        (["bees", "owls"], {"use_beam_search": True}, "use_beam_search"),
        (None, {"prompt_embeds": "AAAA"}, "prompt_embeds"),
        (["bees", "bees goats owls"], {"mega": {"top_k": 65}}, "mega.top_k"),
    ],
)
async def test_what_is_refused(prompt: Any, more: Any, param: str) -> None:
    answer = await handler().create_completion(request(prompt, **more))
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param) == (400, param)


async def test_an_unknown_token_is_a_clients_fault() -> None:
    with pytest.raises(ValueError, match="token id"):
        await handler().create_completion(request([[0], [99]]))
