"""The field `mega`: what it may hold, and what it means with the server's settings."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.errors import RequestError
from vllm_mega.mixture import MAX_WEIGHT
from vllm_mega.requests.schemas import MemoryWeight, Start, make_plan, parse_mega

SETTINGS = MegaSettings(bank="bank", mode="irag", namespace="team", gate=GateSettings(top_k=3, threshold=0.5))


def test_absent_means_as_the_server_is_configured() -> None:
    plan = make_plan(None, SETTINGS)
    assert (plan.mode, plan.namespace, plan.gate, plan.memories) == ("irag", "team", SETTINGS.gate, None)
    assert plan == make_plan({}, SETTINGS)
    assert plan.asks_gate


def test_the_request_wins() -> None:
    plan = make_plan({"mode": "recall", "top_k": 1, "threshold": -0.25, "namespace": "other"}, SETTINGS)
    assert (plan.mode, plan.namespace) == ("recall", "other")
    assert plan.gate == GateSettings(top_k=1, threshold=-0.25, beta=SETTINGS.gate.beta)


@pytest.mark.parametrize("value", [{"enabled": False}, {"mode": "off"}, {"enabled": False, "mode": "irag"}])
def test_off(value: dict[str, Any]) -> None:
    plan = make_plan(value, SETTINGS)
    assert plan.mode == "off"
    assert not plan.asks_gate


def test_what_a_request_asks_of_the_gate() -> None:
    value = {"top_k": 4, "threshold": 0.2, "beta": 5, "link_share": 0}
    assert make_plan(value, SETTINGS).gate == GateSettings(top_k=4, threshold=0.2, beta=5.0, link_share=0.0)
    assert parse_mega({"beta": 0.0}).gate == {"beta": 0.0}


@pytest.mark.parametrize(
    ("value", "param", "reason"),
    [
        ({"beta": -1}, "mega.beta", "beta must be finite and >= 0, got -1"),
        ({"beta": math.inf}, "mega.beta", "got inf"),
        ({"beta": "5"}, "mega.beta", "got `str`"),
        ({"link_share": 1.5}, "mega.link_share", "link_share must be in [0, 1], got 1.5"),
        (
            {"memories": [{"id": "a"}], "beta": 1, "link_share": 1},
            "mega",
            "beta, link_share do not go with it",
        ),
    ],
)
def test_bad_numbers_for_the_gate(value: object, param: str, reason: str) -> None:
    with pytest.raises(RequestError) as refusal:
        make_plan(value, SETTINGS)
    assert refusal.value.param == param
    assert reason in str(refusal.value)


def test_own_mixture() -> None:
    plan = make_plan({"memories": [{"id": "a"}, {"id": "b", "weight": -2}]}, SETTINGS)
    assert plan.memories == (MemoryWeight("a", 1.0), MemoryWeight("b", -2.0))
    assert not plan.asks_gate


@pytest.mark.parametrize(
    ("value", "param", "reason"),
    [
        ("yes", "mega", "Expected `object`, got `str`"),
        ([], "mega", "Expected `object`, got `array`"),
        ({"modus": "irag"}, "mega", "unknown field `modus`"),
        ({"mode": "dream"}, "mega.mode", "'dream'"),
        ({"enabled": "false"}, "mega.enabled", "Expected `bool`, got `str`"),
        ({"top_k": 0}, "mega.top_k", "top_k must be 1..64, got 0"),
        ({"top_k": 2.5}, "mega.top_k", "got `float`"),
        ({"top_k": True}, "mega.top_k", "got `bool`"),
        ({"threshold": 1.5}, "mega.threshold", "[-1, 1]"),
        ({"threshold": math.nan}, "mega.threshold", "got nan"),
        ({"namespace": "../x"}, "mega", "namespace must be"),
        ({"namespace": ""}, "mega", "namespace must be"),
        ({"memories": "a"}, "mega.memories", "got `str`"),
        ({"memories": [{"weight": 1}]}, "mega.memories[0]", "missing required field `id`"),
        ({"memories": [{"id": "a"}, {"id": "b", "wait": 1}]}, "mega.memories[1]", "unknown field `wait`"),
        ({"memories": [{"id": "a", "weight": "1"}]}, "mega.memories[0].weight", "got `str`"),
        ({"memories": [{"id": "a", "weight": True}]}, "mega.memories[0].weight", "got `bool`"),
        ({"memories": [{"id": "a", "weight": math.nan}]}, "mega.memories[0]", "finite"),
        ({"memories": [{"id": "a", "weight": math.inf}]}, "mega.memories[0]", "finite"),
        ({"memories": [{"id": "a", "weight": -MAX_WEIGHT - 0.01}]}, "mega.memories[0]", "weight must be"),
        ({"memories": [{"id": "a/../b"}]}, "mega.memories[0]", "id must be"),
        ({"memories": [{"id": "a"}, {"id": "a"}]}, "mega", "a more than once"),
        ({"memories": [{"id": "a"}], "top_k": 2}, "mega", "do not go with it"),
    ],
)
def test_bad_values_are_refused_by_name(value: object, param: str, reason: str) -> None:
    with pytest.raises(RequestError) as refusal:
        make_plan(value, SETTINGS)
    assert refusal.value.param == param
    assert reason in str(refusal.value)
    assert str(refusal.value).startswith("mega")


@pytest.mark.parametrize(
    ("value", "param", "reason"),
    [
        ({"tags": "red"}, "mega.tags", "got `str`"),
        ({"tags": [1]}, "mega.tags[0]", "got `int`"),
        ({"tags": [""]}, "mega.tags", "tags must have 1 to 64 characters each"),
        ({"tags": ["ok", " red"]}, "mega.tags", "got ' red'"),
        ({"tags": ["x" * 65]}, "mega.tags", "1 to 64 characters"),
        ({"tags": ["red", "red"]}, "mega.tags", "tags names red more than once"),
        ({"tags": [str(n) for n in range(33)]}, "mega.tags", "at most 32, got 33"),
        ({"tags": ["x" * 10**6]}, "mega.tags", "1 to 64 characters"),
        ({"tags": ["red"], "memories": [{"id": "a"}]}, "mega", "tags do not go with it"),
    ],
)
def test_bad_tags_are_refused_by_name(value: object, param: str, reason: str) -> None:
    with pytest.raises(RequestError) as refusal:
        make_plan(value, SETTINGS)
    assert refusal.value.param == param
    assert reason in str(refusal.value)
    assert str(refusal.value).startswith("mega")
    assert len(str(refusal.value)) < 400


def test_tags() -> None:
    assert make_plan({"tags": ["red", "x" * 64]}, SETTINGS).tags == ("red", "x" * 64)
    assert make_plan({"tags": [str(n) for n in range(32)]}, SETTINGS).asks_gate
    for none in ({}, {"tags": None}, {"tags": []}, {"tags": [], "memories": [{"id": "a"}]}):
        assert make_plan(none, SETTINGS).tags == ()


def test_weights_at_the_limit_pass() -> None:
    assert parse_mega({"memories": [{"id": "a", "weight": MAX_WEIGHT}]}).memories
    assert parse_mega({"memories": []}).memories == ()


@pytest.mark.parametrize("default", ["adapter", "recall", "irag", "off"])
def test_a_default_that_an_endpoint_does_not_have_falls_back(default: Any) -> None:
    settings = MegaSettings(bank="bank", mode=default)
    plan = make_plan(None, settings, modes=("adapter", "off"))
    assert plan.mode == (default if default in ("adapter", "off") else "adapter")
    assert make_plan({"mode": "off"}, settings, modes=("adapter", "off")).mode == "off"
    for mode in ("irag", "recall"):
        with pytest.raises(RequestError, match=f"has the modes adapter, off, not {mode}") as error:
            make_plan({"mode": mode}, settings, modes=("adapter", "off"))
        assert error.value.param == "mega.mode"


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (None, None),
        (0, Start(token=0)),
        (7, Start(token=7)),
        ({"token": 7}, Start(token=7)),
        ({"character": 0}, Start(character=0)),
    ],
)
def test_where_to_start(value: object, start: Start | None) -> None:
    assert make_plan({"start": value}, SETTINGS).start == start


@pytest.mark.parametrize(
    ("value", "param", "reason"),
    [
        (-1, "mega.start", ">= 0"),
        (True, "mega.start", "got `bool`"),
        (1.5, "mega.start", "got `float`"),
        ("3", "mega.start", "got `str`"),
        ([3], "mega.start", "got `array`"),
        ({}, "mega.start", "either token or character"),
        ({"token": 1, "character": 2}, "mega.start", "either token or character"),
        ({"tokens": 1}, "mega.start", "unknown field `tokens`"),
        ({"token": -1}, "mega.start.token", ">= 0"),
        ({"character": True}, "mega.start.character", "got `bool`"),
    ],
)
def test_bad_starts(value: object, param: str, reason: str) -> None:
    with pytest.raises(RequestError) as refusal:
        make_plan({"start": value}, SETTINGS)
    assert refusal.value.param == param
    assert reason in str(refusal.value)
