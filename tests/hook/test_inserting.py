"""Where the texts of memories stand in prompts: real templates and tokenizers, up to the engine's door."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from tests.gemma import resolve_gemma
from tests.hook.starts import NamingHook
from tests.http.rendering import Asked, Handlers, handlers
from vllm_mega.mixture import Mixture
from vllm_mega.models.start import start_of
from vllm_mega.prompts import MEMORY_PROMPT

pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")
CONTEXT = 256
SYSTEM = {"role": "system", "content": "You answer in one short sentence, and you never guess."}
BEES, OWLS = "All about bees.", "All about owls."


@pytest.fixture(scope="module")
def served() -> Handlers:
    return handlers(NamingHook(), CONTEXT)


async def chat(served: Handlers, messages: Any, mega: Any = None, **more: Any) -> tuple[Any, list[Asked]]:
    served.client.asked.clear()
    body = {"model": "base-mega", "messages": messages, "mega": mega, "max_tokens": 4, **more}
    answer = await served.chat.create_chat_completion(ChatCompletionRequest.model_validate(body))
    return answer, [*served.client.asked]


async def complete(served: Handlers, prompt: Any, mega: Any = None, **more: Any) -> tuple[Any, list[Asked]]:
    served.client.asked.clear()
    body = {"model": "base-mega", "prompt": prompt, "mega": mega, "max_tokens": 4, **more}
    answer = await served.completion.create_completion(CompletionRequest.model_validate(body))
    return answer, [*served.client.asked]


def text(served: Handlers, asked: Asked) -> str:
    return str(served.client.renderer.tokenizer.decode(asked.prompt["prompt_token_ids"]))


def steps(asked: Asked) -> list[int]:
    """Weights of the mixture, in steps of 1/64."""
    mixture = Mixture.from_path(asked.mixture.lora_path) if asked.mixture else Mixture()
    return [component.steps for component in mixture.components]


def talk(question: str) -> list[dict[str, Any]]:
    return [SYSTEM, {"role": "user", "content": question}]


async def test_a_text_stands_behind_what_all_share_and_before_the_question(served: Handlers) -> None:
    _, (base,) = await chat(served, talk("Where are the bees?"), {"mode": "off"})
    answer, (first,) = await chat(served, talk("Where are the bees?"), {"mode": "text"})
    _, (second,) = await chat(served, talk("Who counts the bees?"), {"mode": "text"})
    assert f"{BEES}\n\nWhere are the bees? Answer" in text(served, first)
    ids, others = (asked.prompt["prompt_token_ids"] for asked in (first, second))
    shared = str(served.client.renderer.tokenizer.decode(ids[: start_of(ids, others)]))
    assert SYSTEM["content"] in shared
    assert shared.rstrip().endswith(BEES), "the text is computed once for both"
    assert text(served, base).startswith(shared[: shared.index(BEES)])
    assert (answer.mega["start"], first.mixture, first.start) == (None, None, None)
    assert answer.mega["recalled"] == BEES


@pytest.mark.parametrize(
    ("mode", "weights", "form"),
    [("adapter", [64], "adapter"), ("both", [16], "both"), ("text", [], "text")],
)
async def test_what_acts_beside_a_text(served: Handlers, mode: str, weights: list[int], form: str) -> None:
    answer, (asked,) = await chat(served, talk("Where are the bees?"), {"mode": mode})
    assert steps(asked) == weights
    assert (BEES in text(served, asked)) == (mode != "adapter")
    (memory,) = answer.mega["memories"]
    assert (memory["state"], memory["version"], memory["as"]) == ("ready", 1, form)


@pytest.mark.parametrize("mode", ["adapter", "recall", "irag", "text", "both"])
async def test_a_memory_without_an_adapter_is_read_in_every_mode(served: Handlers, mode: str) -> None:
    answer, (asked,) = await chat(served, talk("Where are the owls?"), {"mode": mode})
    question = MEMORY_PROMPT if mode == "recall" else "Where are the owls? Answer"
    assert f"{OWLS}\n\n{question}" in text(served, asked)
    assert asked.mixture is None
    (memory,) = answer.mega["memories"]
    assert (memory["state"], memory["as"]) == ("pending", "text")


async def test_one_memory_acts_and_the_other_is_read(served: Handlers) -> None:
    answer, (asked,) = await chat(served, talk("Do bees meet owls?"))
    assert steps(asked) == [32]
    assert f"{OWLS}\n\nDo bees meet owls?" in text(served, asked)
    assert [(m["id"], m["as"]) for m in answer.mega["memories"]] == [("bees", "adapter"), ("owls", "text")]
    before = text(served, asked)[: text(served, asked).index("Do bees")]
    assert served.client.renderer.tokenizer.decode(asked.prompt["prompt_token_ids"][: asked.start]) == before


@pytest.mark.parametrize(
    ("mode", "question", "named"),
    [
        ("adapter", "Where are the bees?", None),
        ("text", "Where are the bees?", ["bees"]),
        ("both", "Where are the bees?", ["bees"]),
        ("adapter", "Where are the owls?", ["owls"]),
        ("off", "Where are the owls?", None),
    ],
)
async def test_the_engine_hears_which_parts_a_prompt_has(
    served: Handlers, mode: str, question: str, named: list[str] | None
) -> None:
    _, (asked,) = await chat(served, talk(question), {"mode": mode})
    _, (other,) = await complete(served, question, {"mode": mode})
    adapters = {"bees": [served.chat.mega.gate.digest("bees")], "owls": []}
    wanted = named and [*adapters[named[0]], f"default/{named[0]}/1"]
    for one in (asked, other):
        assert (one.sampling_params.extra_args or {}).get("mega_parts") == wanted


async def test_of_several_prompts_each_has_its_own_parts(served: Handlers) -> None:
    _, asked = await complete(served, ["Where are the owls?", "Nothing."])
    found = [(one.sampling_params.extra_args or {}).get("mega_parts") for one in asked]
    assert found == [["default/owls/1"], None]


@pytest.mark.parametrize(("mode", "about"), [("adapter", "owls"), ("text", "bees"), ("both", "bees")])
async def test_a_start_in_a_prompt_that_is_not_the_clients(served: Handlers, mode: str, about: str) -> None:
    answer, asked = await chat(served, talk(f"Where are the {about}?"), {"mode": mode, "start": 3})
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param, asked) == (400, "mega.start", [])
    answer, (one,) = await chat(served, talk("Do bees meet owls?"), {"mode": "adapter", "start": 0})
    assert (answer.mega["start"], one.start) == (0, 0)


async def test_a_text_that_the_context_does_not_hold(served: Handlers) -> None:
    long = talk("Where are the bees? " + "So? " * 108)
    assert len((await chat(served, long, {"mode": "adapter"}))[1]) == 1
    answer, asked = await chat(served, long, {"mode": "text"})
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param, asked) == (400, "messages", [])
    assert "The texts of the memories bees are a part of it" in answer.error.message


PROMPT = "Where are the bees?"


@pytest.mark.parametrize(("mode", "weights"), [("text", []), ("both", [16])])
async def test_in_a_completion_a_text_stands_first(served: Handlers, mode: str, weights: list[int]) -> None:
    answer, (asked,) = await complete(served, PROMPT, {"mode": mode})
    assert text(served, asked) == f"{BEES}\n\n{PROMPT}"
    assert (steps(asked), answer.mega["recalled"]) == (weights, BEES)
    assert answer.usage.prompt_tokens == len(asked.prompt["prompt_token_ids"])
    assert "prompt" not in asked.prompt, "what is logged and echoed is not what was asked"


async def test_in_a_completion_a_text_stands_where_memory_starts(served: Handlers) -> None:
    prompt = f"A long story.\n{PROMPT}"
    for start in ({"character": 14}, 5):
        answer, (asked,) = await complete(served, prompt, {"mode": "both", "start": start})
        assert text(served, asked) == f"A long story.\n{BEES}\n\n{PROMPT}"
        assert answer.mega["start"] == asked.start == 5


async def test_each_prompt_has_its_own_text(served: Handlers) -> None:
    prompts = [PROMPT, "Nothing.", "Do bees meet owls?"]
    answer, asked = await complete(served, prompts)
    assert [text(served, one) for one in asked] == [PROMPT, "Nothing.", f"{OWLS}\n\nDo bees meet owls?"]
    assert [steps(one) for one in asked] == [[64], [], [32]]
    assert ["recalled" in mega for mega in answer.mega] == [False, False, True]
    ids = [one.prompt["prompt_token_ids"] for one in (await complete(served, prompts, {"mode": "off"}))[1]]
    _, again = await complete(served, ids)
    assert [text(served, one) for one in again] == [text(served, one) for one in asked]
    _, named = await complete(served, ["One", "Two"], {"mode": "text", "memories": [{"id": "bees"}]})
    assert [text(served, one) for one in named] == [f"{BEES}\n\nOne", f"{BEES}\n\nTwo"]


async def test_the_token_that_begins_every_prompt_stays_the_first() -> None:
    gemma = handlers(NamingHook(), CONTEXT, resolve_gemma())
    begin = gemma.client.renderer.tokenizer.bos_token_id
    ids = gemma.client.renderer.tokenizer.encode(PROMPT, add_special_tokens=False)
    for prompt, first in (([begin, *ids], [begin]), (ids, [])):
        _, (asked,) = await complete(gemma, prompt, {"mode": "text"})
        found = asked.prompt["prompt_token_ids"]
        assert found[: len(first)] == first
        assert found.count(begin) == len(first)
        assert gemma.client.renderer.tokenizer.decode(found[len(first) :]) == f"{BEES}\n\n{PROMPT}"


@pytest.mark.parametrize("more", [{"echo": True}, {"prompt_logprobs": 1}])
async def test_what_asks_about_a_prompt_by_position_does_not_go_with_a_text(
    served: Handlers, more: dict[str, Any]
) -> None:
    answer, asked = await complete(served, "Where are the owls?", **more)
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param, asked) == (400, next(iter(more)), [])
    assert len((await complete(served, PROMPT, **more))[1]) == 1, "an adapter adds no token"


async def test_a_prompt_without_room_for_its_text(served: Handlers) -> None:
    long = PROMPT + " So?" * 120
    assert len((await complete(served, long, {"mode": "adapter"}))[1]) == 1
    named = [{"id": "bees"}, {"id": "goats"}]
    answer, asked = await complete(served, long, {"mode": "text", "memories": named})
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param, asked) == (400, "prompt", [])
    assert "the prompt leaves" in answer.error.message


async def test_no_control_token_comes_from_a_text(served: Handlers) -> None:
    for handler in (served.chat, served.completion):
        handler.control = frozenset({"bees."})
    try:
        _, (asked,) = await chat(served, talk("Where are the bees?"), {"mode": "text"})
        _, (bare,) = await complete(served, PROMPT, {"mode": "text"})
    finally:
        for handler in (served.chat, served.completion):
            del handler.control
    assert "All about b ees.\n\nWhere" in text(served, asked)
    assert text(served, bare) == f"All about b ees.\n\n{PROMPT}"
