"""From which token blocks are a namespace's alone: real templates and tokenizers, up to the engine's door."""

from __future__ import annotations

import pytest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from tests.hook.starts import CONTEXT, NamingHook, chat, complete, system, user
from tests.http.rendering import Asked, Handlers, handlers
from vllm_mega.engine.private import PRIVATE, Salts

pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")
SALTS = Salts("a secret")
TALK = [system("You answer in one short sentence."), user("Where are the bees?")]


@pytest.fixture(scope="module")
def served() -> Handlers:
    made = handlers(NamingHook(), CONTEXT)
    made.chat.salts = made.completion.salts = SALTS
    return made


def private(asked: Asked) -> tuple[int, str] | None:
    """Position and salt."""
    said = (asked.sampling_params.extra_args or {}).get(PRIVATE)
    return None if said is None else (int(said.partition(":")[0]), said.partition(":")[2])


def before(served: Handlers, asked: Asked) -> str:
    found = private(asked)
    assert found is not None
    return str(served.client.renderer.tokenizer.decode(asked.prompt["prompt_token_ids"][: found[0]]))


@pytest.mark.parametrize("mode", ["adapter", "recall", "irag", "text", "both"])
@pytest.mark.parametrize("about", ["bees", "owls"])
async def test_every_pass_with_a_memory_is_private_from_it_on(
    served: Handlers, mode: str, about: str
) -> None:
    messages = [TALK[0], user(f"Where are the {about}?")]
    _, asked = await chat(served, messages, {"mode": mode, "namespace": "sea"})
    assert len(asked) == (2 if (mode, about) == ("irag", "bees") else 1)
    for one in asked:
        begin, salt = private(one) or (None, None)
        assert salt == SALTS.of("sea")
        reads = one.start is not None and one is asked[-1] and mode in ("irag", "both")
        assert one.start is None or (begin < one.start if reads else begin == one.start)
        assert before(served, one).endswith("<|im_start|>user\n")
        assert before(served, one).startswith("<|im_start|>system\n"), "what stands before is everybody's"
    (other,) = (await chat(served, messages, {"mode": "adapter", "namespace": "land"}))[1]
    assert private(other) == (private(asked[-1])[0], SALTS.of("land"))  # type: ignore[index]


async def test_what_has_nothing_of_a_memory_is_everybodys(served: Handlers) -> None:
    for mega in (None, {"mode": "off"}):
        _, (one,) = await chat(served, [TALK[0], user("Where are my shoes?")], mega)
        assert private(one) is None
    _, (off,) = await chat(served, TALK, {"mode": "off"})
    assert private(off) is None


async def test_in_completions_each_prompt_is_private_where_its_memory_begins(served: Handlers) -> None:
    prompts = ["Where are the bees?", "Nothing.", "Where are the owls?"]
    _, asked = await complete(served, prompts, {"namespace": "sea"})
    assert [private(one) for one in asked] == [(0, SALTS.of("sea")), None, (0, SALTS.of("sea"))]
    _, (one,) = await complete(served, "A long story.\nWhere are the bees?", {"mode": "text", "start": 5})
    assert private(one) == (5, SALTS.of("default"))


async def test_beam_search_is_as_private(served: Handlers) -> None:
    _, asked = await chat(served, TALK, {"mode": "text"}, use_beam_search=True, n=2)
    assert {private(one) for one in asked} == {private((await chat(served, TALK, {"mode": "text"}))[1][0])}


async def test_no_client_says_it_itself(served: Handlers) -> None:
    answer, asked = await chat(served, TALK, vllm_xargs={PRIVATE: "0:abc"})
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param, asked) == (400, f"vllm_xargs.{PRIVATE}", [])


async def test_a_clients_own_salt_stays(served: Handlers) -> None:
    _, (one,) = await chat(served, TALK, {"mode": "text"}, cache_salt="mine")
    assert one.prompt["cache_salt"] == "mine"
    assert private(one) is not None
