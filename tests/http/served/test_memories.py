"""Which memories a request uses, and that they change the answer."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.http.asking import BASE, MEGA, ask, refused, text, used
from tests.http.live_bank import ASKED, BAKERY, COMET, LIGHTHOUSE, TORTOISE, UNRELATED, LiveBank
from vllm_mega.config import MODES

pytestmark = pytest.mark.engine


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


def test_a_linked_memory_comes_along(client: openai.OpenAI, bank: LiveBank) -> None:
    before = ask(client, ASKED["comet"])
    assert used(before) == ["comet"]
    bank.link(COMET, BAKERY)
    after = ask(client, ASKED["comet"], mega={"beta": 5})
    assert used(after) == ["comet", "bakery"]
    assert ask(client, ASKED["comet"], mega={"link_share": 0}).mega == before.mega
    bank.unlink(COMET, BAKERY)
    assert ask(client, ASKED["comet"]).mega == before.mega


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
