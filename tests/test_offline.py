"""MegaLLM on the real engine (see offline_session.py): one start, many questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gate.banks import open_gate
from tests.http.live_bank import ASKED, BAKERY, COMET, LIGHTHOUSE, TORTOISE, UNRELATED, LiveBank
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.requests.deciding import Ask, decide
from vllm_mega.requests.describing import describe
from vllm_mega.requests.schemas import make_plan

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("offline")
    embedder = load_embedder()
    LiveBank(folder / "bank", embedder).add([LIGHTHOUSE, BAKERY, COMET, TORTOISE])
    plan = make_plan(None, MegaSettings(str(folder / "bank"), gate=GateSettings(top_k=2)))
    gate = open_gate(folder / "bank", embedder)
    expected = decide(
        gate, [Ask(plan, ASKED["lighthouse"]), Ask(plan, UNRELATED), Ask(plan, ASKED["comet"])], 3
    )

    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_") or k == "VLLM_MEGA_HOME"}
    environment["OMP_NUM_THREADS"] = "1"
    environment["TMPDIR"] = str(folder / "temporary")
    (folder / "temporary").mkdir()
    command = [sys.executable, "-m", "tests.offline_session", folder / "bank", folder / "out.json"]
    run = subprocess.run(
        command, cwd=repo, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    answers: dict[str, Any] = json.loads((folder / "out.json").read_text())
    answers["left"] = [path.name for path in (folder / "temporary").glob("vllm-mega-*")]
    answers["said"] = run.stdout + run.stderr
    answers["expected"] = [describe(plan, decision) for decision in expected]  # type: ignore[arg-type]
    return answers


def used(answer: Any) -> list[str]:
    return [memory["id"] for memory in answer[1]["memories"]]


def test_it_ends_quietly_and_leaves_no_file(results: dict[str, Any]) -> None:
    assert "exited unexpectedly" not in results["said"]
    assert results["left"] == []


def test_mixtures_are_those_of_a_server(results: dict[str, Any]) -> None:
    assert [{**mega, "start": None} for _, mega, _ in results["adapter"]] == results["expected"]
    assert [used(answer)[:1] for answer in results["adapter"]] == [["lighthouse"], [], ["comet"]]


def test_memories_change_answers_and_the_null_route_does_not(results: dict[str, Any]) -> None:
    pairs = list(zip(results["adapter"], results["off"], strict=True))
    assert [with_memory[0] == without[0] for with_memory, without in pairs] == [False, True, False]
    assert [with_memory[2] == without[2] for with_memory, without in pairs] == [True] * 3, "prompts differ"


def test_where_memory_starts(results: dict[str, Any]) -> None:
    by_meaning, everywhere, fifth = results["starts"]
    assert [answer[1]["start"] for answer in (everywhere, fifth)] == [0, 5]
    assert 5 < by_meaning[1]["start"] < by_meaning[2]
    with_system = results["adapter"][2]
    assert by_meaning[1]["start"] != with_system[1]["start"]
    assert results["adapter"][1][1]["start"] is None, "there is no mixture"
    recall, irag, _ = results["modes"]
    assert recall[1]["start"] == by_meaning[1]["start"], "the same template before each"
    assert by_meaning[1]["start"] < irag[1]["start"] < irag[2], (
        "behind what was recalled, before the question"
    )


def test_modes(results: dict[str, Any]) -> None:
    recall, irag, adapter = results["modes"]
    assert [answer[1]["mode"] for answer in results["modes"]] == ["recall", "irag", "adapter"]
    assert [used(answer)[0] for answer in results["modes"]] == ["bakery"] * 3
    assert max(adapter[2], recall[2]) < irag[2]
    assert irag[1]["recalled"]
    assert all("recalled" not in answer[1] for answer in (recall, adapter))


def test_irag_recites_each_of_two_memories_alone(results: dict[str, Any]) -> None:
    both, *alone = [answer[1]["recalled"] for answer in results["two"]]
    assert both == "\n\n".join(alone)


def test_the_null_route_is_the_same_in_every_mode(results: dict[str, Any]) -> None:
    assert {answer[0] for answer in results["unrelated"]} == {results["off"][1][0]}
    assert {answer[2] for answer in results["unrelated"]} == {results["off"][1][2]}
    assert [used(answer) for answer in results["unrelated"]] == [[], [], []]


def test_own_mixture_and_nothing_to_do(results: dict[str, Any]) -> None:
    (answer,) = results["explicit"]
    assert answer[1]["memories"] == [
        {"id": "comet", "title": "The comet", "version": 1, "state": "ready", "weight": 0.5, "score": None,
         "as": "adapter"}
    ]  # fmt: skip
    assert results["none"] == []


def test_tags_narrow_the_memories(results: dict[str, Any]) -> None:
    narrow, nothing, plain = results["tags"]
    assert used(narrow) == ["bakery"]
    assert used(plain)[0] == "bakery"
    assert (used(nothing), nothing[1]["best_score"]) == ([], None)


@pytest.mark.parametrize(
    ("name", "kind", "reason", "where"),
    [
        ("unknown", "MemoryNotFoundError", "elk", "in conversation 1"),
        ("field", "RequestError", "mood", "in conversation 2"),
        ("tags twice", "RequestError", "mega.tags names food more than once", "in conversation 1"),
        ("length", "RequestError", "3 conversations", None),
        ("wide", "MixtureError", "3 slots", "in conversation 0"),
        ("no question", "RequestError", "last user message", "in conversation 0"),
        ("start", "RequestError", "mega.start is 1000, but the prompt has", "in conversation 2"),
        ("character", "RequestError", "give a token", "in conversation 0"),
        ("broken", "BankError", "SHA-256", None),
    ],
)
def test_bad_requests_are_refused(
    results: dict[str, Any], name: str, kind: str, reason: str, where: str | None
) -> None:
    found, message, notes = results[name]
    assert found == kind
    assert reason in message
    assert notes == ([where] if where else [])


def test_a_memory_lives_and_dies_while_it_runs(results: dict[str, Any]) -> None:
    (added,), (forgotten,), (after,) = results["added"], results["forgotten"], results["after"]
    assert used(added)[0] == "clock"
    assert "clock" not in used(forgotten)
    assert after[0] == results["adapter"][0][0], "a broken memory must not change the others"
