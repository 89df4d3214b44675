"""Which memories are read, in every mode: where it matters, and where there is no adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.requests.decisions import decision_of
from vllm_mega.config import MegaSettings
from vllm_mega.errors import RequestError
from vllm_mega.gate.gate import Explanation
from vllm_mega.mixture import EMPTY
from vllm_mega.requests.deciding import NULL_ROUTE
from vllm_mega.requests.reading import form, settled, texts, unfit, with_texts
from vllm_mega.requests.schemas import Plan, make_plan

WEIGHTS = {"a": 0.75, "b": 0.25}
UNEVEN = {"a": 0.875, "b": 0.125}


def plan(mode: str, *given: str) -> Plan:
    mega: dict[str, Any] = {"mode": mode}
    if given:
        mega["memories"] = [{"id": name} for name in given]
    return make_plan(mega, MegaSettings(bank="bank"))


@pytest.mark.parametrize("mode", ["adapter", "recall", "irag", "off"])
def test_adapters_act_where_there_are_some(mode: str) -> None:
    given = plan(mode, "a", "b")
    assert settled(given, decision_of(WEIGHTS)) == (decision_of(WEIGHTS), frozenset())


@pytest.mark.parametrize(("weights", "read"), [(WEIGHTS, "ab"), (UNEVEN, "a")])
def test_in_mode_text_what_matters_is_read_and_nothing_acts(weights: dict[str, float], read: str) -> None:
    decision, ids = settled(plan("text"), decision_of(weights))
    assert (decision.mixture, ids) == (EMPTY, frozenset(read))
    assert [hit.id for hit in decision.hits] == list(read)
    decision, ids = settled(plan("text", "a", "b"), decision_of(weights))
    assert ids == frozenset("ab"), "the client has named them"


@pytest.mark.parametrize(("weights", "read"), [(WEIGHTS, "ab"), (UNEVEN, "a")])
def test_in_mode_both_all_adapters_act(weights: dict[str, float], read: str) -> None:
    found = decision_of(weights)
    assert settled(plan("both"), found) == (found, frozenset(read))


@pytest.mark.parametrize("mode", ["adapter", "irag", "both", "text"])
def test_what_has_no_adapter_is_read_or_takes_no_part(mode: str) -> None:
    decision, read = settled(plan(mode), decision_of(WEIGHTS, pending="b"))
    assert "b" in read
    decision, read = settled(plan(mode), decision_of(UNEVEN, pending="b"))
    assert "b" not in read
    assert [hit.id for hit in decision.hits] == ["a"]
    assert settled(plan(mode, "a", "b"), decision_of(UNEVEN, pending="b"))[1] >= {"b"}


def test_recall_takes_the_heaviest_even_without_an_adapter() -> None:
    decision, read = settled(plan("recall"), decision_of(WEIGHTS, pending="a"))
    assert (read, decision.mixture) == ({"a"}, EMPTY)
    assert [(hit.id, hit.weight) for hit in decision.hits] == [("a", 1.0)]


@pytest.mark.parametrize(("mode", "pending"), [("text", ""), ("both", ""), ("adapter", "b")])
def test_a_text_cannot_be_taken_away(mode: str, pending: str) -> None:
    found = decision_of({"a": 1.0, "b": -0.5}, pending=pending)
    with pytest.raises(RequestError, match=r"weight of 'b' is -0\.5") as refusal:
        settled(plan(mode, "a", "b"), found)
    assert refusal.value.param == "mega.memories"
    assert settled(plan("adapter", "a", "b"), decision_of({"a": 1.0, "b": -0.5}))[1] == frozenset()


def test_what_the_mode_leaves_out_is_a_runner_up() -> None:
    found = replace(decision_of(UNEVEN), explanation=Explanation((), ()))
    decision, _ = settled(plan("text"), found)
    assert decision.explanation is not None
    assert [(hit.id, hit.weight, why) for hit, why in decision.explanation.runners_up] == [("b", 0.0, "mode")]
    assert settled(plan("both"), found)[0].explanation == found.explanation


def test_texts_and_forms() -> None:
    decision = decision_of({"a": 0.5, "b": 0.375, "c": 0.125}, pending="b")
    read = with_texts(decision, {"a", "b"}, lambda row: f"About {row.id}.")
    assert texts(read) == ["About a.", "About b."]
    assert texts(decision) == texts(NULL_ROUTE) == []
    assert [form(plan("both"), hit) for hit in read.hits] == ["both", "text", "adapter"]
    assert [form(plan("text"), hit) for hit in read.hits[:2]] == ["text", "text"]
    assert [form(plan("irag"), hit) for hit in decision.hits] == ["adapter"] * 3


def test_a_prompt_that_is_too_long_for_its_texts() -> None:
    class TooLongError(ValueError):
        parameter = "input_tokens"

    read = with_texts(decision_of(WEIGHTS), {"a"}, lambda row: "Text.")
    told = unfit(read, TooLongError("Too long."))
    assert isinstance(told, RequestError)
    assert str(told) == "Too long. The texts of the memories a are a part of it"
    other, long = ValueError("Other."), TooLongError("Too long.")
    assert unfit(read, other) is other
    assert unfit(decision_of(WEIGHTS), long) is long
