"""The passes of each mode: what is asked, of which mixture, and what the answer reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.requests.decisions import decision_of
from vllm_mega import prompts
from vllm_mega.config import MODES, MegaSettings
from vllm_mega.errors import RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.mixture import EMPTY, Mixture
from vllm_mega.requests.deciding import NULL_ROUTE
from vllm_mega.requests.passes import (
    REWRITING,
    answering,
    first_passes,
    last_pass,
    reading,
    recalled,
    recitals,
)
from vllm_mega.requests.reading import with_texts
from vllm_mega.requests.schemas import Plan, make_plan

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = [SYSTEM, {"role": "user", "content": "Who built the kiln?"}]
BOTH = decision_of({"a": 0.75, "b": 0.25})
RECITE = prompts.user(prompts.MEMORY_PROMPT)


def plan(mode: str, **mega: Any) -> Plan:
    return make_plan({"mode": mode, **mega}, MegaSettings(bank="bank"))


@pytest.mark.parametrize("mode", MODES)
def test_without_a_mixture_every_mode_asks_as_the_client_does(mode: str) -> None:
    silent = [SYSTEM]  # not even a question is needed
    for messages in (ASKED, silent):
        assert first_passes(plan(mode), NULL_ROUTE, messages, room=0) == []
        assert last_pass(plan(mode), NULL_ROUTE, messages, None) == (messages, EMPTY, False, None)


def test_the_mode_adapter_has_one_pass() -> None:
    assert first_passes(plan("adapter"), BOTH, ASKED, room=0) == []
    assert last_pass(plan("adapter"), BOTH, ASKED, None) == (ASKED, BOTH.mixture, False, None)


def test_the_mode_recall_has_one_pass_that_recites() -> None:
    assert first_passes(plan("recall"), BOTH, ASKED, room=0) == []
    assert last_pass(plan("recall"), BOTH, ASKED, None) == ([SYSTEM, *RECITE], BOTH.mixture, True, None)


def test_the_mode_irag_recites_each_memory_and_reads_them() -> None:
    first = first_passes(plan("irag"), BOTH, ASKED, room=400)
    whole = [Mixture([(name * 64, f"/bank/{name}", 1.0)]) for name in "ab"]
    assert first == [(RECITE, mixture, 100) for mixture in whole]
    context = recalled(BOTH, ["Once <|x|> it was.", "And then."], {"<|x|>"})
    assert context is not None
    assert "<|x|>" not in context
    last = last_pass(plan("irag"), BOTH, ASKED, context)
    asked = [SYSTEM, *prompts.irag_messages("Who built the kiln?", context)]
    assert last == (asked, reading(BOTH), False, context)


def read(decision: Decision, *ids: str) -> Decision:
    """The decision whose memories `ids` are read."""
    return with_texts(decision, ids, lambda row: f"About {row.adapter and row.adapter[0]}. <|x|>")


def test_the_mode_text_reads_and_no_adapter_acts() -> None:
    decision = read(replace(BOTH, mixture=EMPTY), "a", "b")
    assert first_passes(plan("text"), decision, ASKED, room=0) == []
    context = recalled(decision, [], {"<|x|>"})
    assert context == "About a. < |x|>\n\nAbout b. < |x|>"
    asked = [SYSTEM, *prompts.irag_messages("Who built the kiln?", context)]
    assert last_pass(plan("text"), decision, ASKED, context) == (asked, EMPTY, False, context)


def test_the_mode_both_reads_with_a_share_of_the_adapters() -> None:
    decision = read(BOTH, "a", "b")
    assert first_passes(plan("both"), decision, ASKED, room=0) == []
    context = recalled(decision, [], ())
    assert context == "About a. <|x|>\n\nAbout b. <|x|>"
    asked = [SYSTEM, *prompts.irag_messages("Who built the kiln?", context)]
    assert last_pass(plan("both"), decision, ASKED, context) == (asked, reading(BOTH), False, context)
    assert answering(plan("both"), decision) == reading(BOTH)


PENDING = decision_of({"a": 0.625, "b": 0.375}, pending="b")
"""An adapter acts for a, and there is none for b."""


@pytest.mark.parametrize("mode", ["adapter", "recall", "irag"])
def test_what_has_no_adapter_is_read_in_every_mode(mode: str) -> None:
    decision = read(PENDING, "b")
    first = first_passes(plan(mode), decision, ASKED, room=400)
    assert first == ([(RECITE, Mixture([("a" * 64, "/bank/a", 1.0)]), 100)] if mode == "irag" else [])
    said = ["A says."] if first else []
    context = recalled(decision, said, ())
    assert context == "\n\n".join(["About None. <|x|>", *said])
    messages, mixture, recites, before = last_pass(plan(mode), decision, ASKED, context)
    wanted = prompts.behind(context, RECITE if mode == "recall" else asked_plainly())
    assert messages == [SYSTEM, *wanted]
    assert mixture == (reading(PENDING) if mode == "irag" else PENDING.mixture)
    assert recites == (mode == "recall")
    assert before == context


def asked_plainly() -> list[prompts.Message]:
    return prompts.user(prompts.question_prompt("Who built the kiln?"))


@pytest.mark.parametrize("mode", ["adapter", "recall", "irag", "text", "both"])
def test_a_memory_without_an_adapter_alone(mode: str) -> None:
    decision = read(decision_of({"b": 1.0}, pending="b"), "b")
    assert first_passes(plan(mode), decision, ASKED, room=0) == [], "there is nothing to recite"
    context = recalled(decision, [], ())
    assert context == "About None. <|x|>"
    messages, mixture, _, _ = last_pass(plan(mode), decision, ASKED, context)
    assert mixture == EMPTY
    assert str(messages[-1]["content"]).startswith(f"{context}\n\n")


def test_beside_a_text_no_light_memory_is_recited() -> None:
    light = decision_of({"a": 0.125, "b": 0.875}, pending="b")
    assert recitals(read(light, "b")) == []
    assert recitals(light) == [light.mixture]


@pytest.mark.parametrize("mode", ["adapter", "text", "both"])
def test_a_text_needs_a_question_to_stand_before(mode: str) -> None:
    with pytest.raises(RequestError, match="rewrites the last user message"):
        first_passes(plan(mode), read(PENDING, "b"), [SYSTEM], room=400)


def test_nothing_recited_is_nothing_read() -> None:
    assert recalled(BOTH, [], {"<|x|>"}) is None
    assert recalled(BOTH, [""], {"<|x|>"}) == ""


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_that_replaces_the_question_needs_one(mode: str) -> None:
    if mode not in REWRITING:
        assert first_passes(plan(mode), BOTH, [SYSTEM], room=400) == []
        return
    with pytest.raises(RequestError, match="rewrites the last user message"):
        first_passes(plan(mode), BOTH, [SYSTEM], room=400)


def test_a_recital_without_room_is_refused() -> None:
    with pytest.raises(RequestError, match="leave 63 tokens"):
        first_passes(plan("irag"), BOTH, ASKED, room=63)


@pytest.mark.parametrize(
    ("weights", "recited"),
    [
        ({"a": 0.5, "b": 0.5}, ["a", "b"]),
        ({"a": 0.3, "b": 0.7}, ["b", "a"]),
        ({"a": 0.9, "b": 0.1}, ["a"]),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, ["a", "b", "c", "d"]),
        ({"a": 2.0, "b": -2.0}, ["a"]),
        ({"a": 0.5, "a2": 0.25, "b": 0.25}, ["a", "b"]),  # a2 has the adapter of a
    ],
    ids=str,
)
def test_of_a_blend_each_memory_that_matters_is_recited_alone(
    weights: dict[str, float], recited: list[str]
) -> None:
    alone = [Mixture([(name * 64, f"/bank/{name}", 1.0)]) for name in recited]
    assert recitals(decision_of(weights)) == alone


AS_THEY_ARE: list[dict[str, float]] = [
    {"a": 1.0},
    {"a": 0.5},
    {"a": 0.5, "a2": 0.5},
    {"a": -1.0, "b": -1.0},
    dict.fromkeys("abcde", 0.2),
]


@pytest.mark.parametrize("weights", AS_THEY_ARE, ids=str)
def test_other_mixtures_are_recited_as_they_are(weights: dict[str, float]) -> None:
    decision = decision_of(weights)
    assert recitals(decision) == [decision.mixture]


def test_the_second_pass_leans_a_quarter() -> None:
    assert reading(decision_of({"a": 0.75, "b": 0.25})) == Mixture(
        [("a" * 64, "/bank/a", 0.1875), ("b" * 64, "/bank/b", 0.0625)]
    )
    assert reading(decision_of({"a": 0.01})) == EMPTY


def test_a_recital_of_the_base_model_is_none() -> None:
    assert recitals(NULL_ROUTE) == [EMPTY]
