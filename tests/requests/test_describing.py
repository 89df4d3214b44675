"""The field `mega` of a response."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.requests.decisions import decision_of
from vllm_mega.config import MegaSettings
from vllm_mega.gate.gate import Explanation, Followed
from vllm_mega.requests.deciding import NULL_ROUTE
from vllm_mega.requests.describing import describe
from vllm_mega.requests.reading import with_texts
from vllm_mega.requests.schemas import Plan, make_plan


def plan(**mega: Any) -> Plan:
    return make_plan(mega, MegaSettings(bank="bank"))


def memory(name: str, weight: float, form: str = "adapter", state: str = "ready") -> dict[str, Any]:
    return {
        "id": name, "title": "", "version": 3, "state": state, "weight": weight, "score": 0.5, "as": form,
    }  # fmt: skip


def test_which_memories_were_used_and_why() -> None:
    decision = replace(decision_of({"bees": 0.75, "owls": 0.25}), best_score=0.9)
    assert describe(plan(mode="irag", namespace="n"), decision, 7, "Once.") == {
        "memories": [memory("bees", 0.75), memory("owls", 0.25)],
        "mode": "irag", "best_score": 0.9, "namespace": "n", "start": 7, "recalled": "Once.",
    }  # fmt: skip
    assert describe(plan(), NULL_ROUTE) == {
        "memories": [], "mode": "adapter", "best_score": None, "namespace": "default", "start": None,
    }  # fmt: skip


def test_a_memory_says_how_it_was_used() -> None:
    decision = decision_of({"bees": 0.5, "elk": 0.375, "owls": 0.125}, pending="elk")
    read = with_texts(decision, ["bees", "elk"], lambda row: "Text.")
    used = describe(plan(mode="both"), read)["memories"]
    assert used == [
        memory("bees", 0.5, "both"), memory("elk", 0.375, "text", "pending"), memory("owls", 0.125),
    ]  # fmt: skip
    assert [one["as"] for one in describe(plan(mode="text"), read)["memories"]][:2] == ["text", "text"]


def test_an_explanation_is_given_when_it_is_asked_for() -> None:
    decision = decision_of({"bees": 1.0})
    (other,) = decision_of({"owls": 0.0}).hits
    told = replace(
        decision, explanation=Explanation(((other, "threshold"),), (Followed("bees", "owls", 0.3, 0.4),))
    )
    assert "explain" not in describe(plan(), told)
    runner_up = memory("owls", 0.0)
    del runner_up["weight"], runner_up["as"]
    assert describe(plan(explain=True, threshold=0.45), told)["explain"] == {
        "top_k": 2, "threshold": 0.45, "beta": 25.0, "link_share": 0.8,
        "runners_up": [{**runner_up, "why": "threshold"}],
        "links": [{"from": "bees", "to": "owls", "score": 0.3, "raised": 0.4}],
    }  # fmt: skip
    assert describe(plan(explain=True), NULL_ROUTE)["explain"] is None, "nothing was compared"
