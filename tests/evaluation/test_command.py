"""`vllm-mega eval`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.banks import make_bank
from tests.evaluation.fakes import contained
from vllm_mega import cli
from vllm_mega.commands import _eval_engine
from vllm_mega.commands._eval_engine import counted
from vllm_mega.commands.eval import EXAMPLES
from vllm_mega.config import GateSettings
from vllm_mega.evaluation import data
from vllm_mega.evaluation.model import OFF


def _arguments(output: Path) -> list[str]:
    files = [
        *("--data", str(EXAMPLES / "memories.jsonl")),
        *("--questions", str(EXAMPLES / "questions.jsonl")),
        *("--unrelated", str(EXAMPLES / "unrelated.jsonl")),
        *("--compositional", str(EXAMPLES / "compositional.jsonl")),
    ]
    return ["eval", *files, "--output", str(output)]


def _until_the_engine_starts(command: Sequence[str]) -> None:
    """Kill it when all is trained, and nothing asked."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert any("starting the engine" in line for line in run.stderr)
        run.kill()


def _adapters(folder: Path) -> dict[Path, int]:
    """When each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("adapter_model.safetensors")}


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_three_memories_from_text_to_report(tmp_path: Path) -> None:
    """Three that two of the compositional questions are about."""
    chosen = {"ferrow-bridge", "harrowick-flood", "kettle-nine"}
    memories = (EXAMPLES / "memories.jsonl").read_text().splitlines()
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join(line for line in memories if json.loads(line)["id"] in chosen))
    output = tmp_path / "report"
    arguments = _arguments(output)
    arguments[2] = str(some)
    prompts = (EXAMPLES / "unrelated.jsonl").read_text().splitlines(keepends=True)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(prompts[:6]))
    arguments[arguments.index("--unrelated") + 1] = str(few)
    judge = ["--judge", f"{contained.__module__}:{contained.__name__}"]
    command = [sys.executable, "-m", "vllm_mega", *arguments, "--limit", "3", *judge]
    _until_the_engine_starts(command)
    trained = _adapters(output)
    assert len(trained) == 3 + 3 + 1  # memories, checkpoints, joint
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert _adapters(output) == trained, "what was trained is trained again"
    assert min(done.stderr.count(f"answering: {way}") for way in ("base", "joint_lora")) == 1
    assert "3 memories" in done.stdout
    report = json.loads((output / "report.json").read_text())
    assert report["n_memories"] == 3
    assert set(report["qa"]) == set(report["qa_lenient"]) == {
        "base", "rag_top1", "rag_top3", "direct", "irag", "text", "both", "top1_adapter",
        "sequential_lora", "joint_lora",
    }  # fmt: skip
    assert report["qa_lenient"]["direct"] > report["qa_lenient"]["base"]
    assert report["recall"]["cosine"] > 0.9
    assert report["gate"]["top1"] == 1.0
    assert report["null_route"]["identical"] is True
    assert report["compositional"]["questions"] == 2
    first, *_, last = report["forgetting"]
    assert (first["after"], last["after"]) == (0, 2)
    assert abs(last["recall_cosine"] - first["recall_cosine"]) <= 0.01
    assert first["sequential_lora_cosine"] > 0.9 > last["sequential_lora_cosine"]
    general = report["general"]
    assert general["base"]["accuracy"] > 0.4  # of four options
    # One of 40: in bfloat16 a tie falls otherwise in another batch, and batches are a matter of time.
    assert abs(general["gated"]["accuracy"] - general["base"]["accuracy"]) <= 1 / 40 + 1e-9
    assert general["gated"]["log_likelihood"] == pytest.approx(general["base"]["log_likelihood"], abs=0.01)
    assert general["forced"]["log_likelihood"] < general["base"]["log_likelihood"]
    assert 0 < report["cost"]["share_of_base"] < 0.01
    assert report["cost"]["latency_ms"]["irag"] > 0
    assert len((output / "answers.jsonl").read_text().splitlines()) == 9
    assert "<svg" not in (output / "report.html").read_text()  # inside, but apart
    assert (output / "plots" / "forgetting.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--questions": None}, "has no questions"),
        ({"--data": "none.jsonl"}, "cannot read none.jsonl"),
        ({"--unrelated": "none.jsonl"}, "cannot read none.jsonl"),
        ({"--compositional": "none.jsonl"}, "cannot read none.jsonl"),
        ({"--general": "none.jsonl"}, "cannot read none.jsonl"),
        ({"--plain-text": "none.txt"}, "cannot read none.txt"),
        ({"--system": "none.txt"}, "cannot read none.txt"),
        ({"--limit": "0"}, "--limit must be at least 1"),
        ({"--judge": "no_such_module:judge"}, "cannot be imported"),
        ({"--top-k": "0"}, "top_k must be 1..64"),
        ({"--beta": "-1"}, "beta must be finite"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str | None], words: str
) -> None:
    arguments = _arguments(tmp_path)
    for name, value in change.items():
        at = arguments.index(name) if name in arguments else len(arguments)
        arguments[at : at + 2] = [] if value is None else [name, value]
    assert cli.main(arguments) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_system_prompt_stands_before_every_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[dict[str, str]]] = []

    class Fake:
        def __init__(self, *_: object, max_model_len: int, enable_prefix_caching: bool, **__: object) -> None:
            assert (max_model_len, enable_prefix_caching) == (4096, True)

        def chat(self, conversations: list[list[dict[str, str]]], *_: object, **__: object) -> list[object]:
            heard.extend(conversations)
            reply = SimpleNamespace(outputs=[SimpleNamespace(text="Yes.", token_ids=(1,))])
            return [SimpleNamespace(output=reply)] * len(conversations)

    monkeypatch.setattr("vllm_mega.offline.MegaLLM", Fake)
    make_bank(tmp_path)
    engine = _eval_engine.Engine(tmp_path, None, None, GateSettings(), 4, system="Be short.")
    asked = [{"role": "user", "content": "Is it?"}]
    assert engine.ask([asked], [OFF], 8)[0].text == "Yes."
    assert heard == [[{"role": "system", "content": "Be short."}, *asked]]


def test_matplotlib_is_asked_for_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(_arguments(tmp_path)) == 1
    assert "pip install 'vllm-mega[eval]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_ships_fits_together() -> None:
    items = data.add_questions(data.read_items(EXAMPLES / "memories.jsonl"), EXAMPLES / "questions.jsonl")
    assert all(len(item.qa) == 3 for item in items)
    both = data.read_compositional(EXAMPLES / "compositional.jsonl", items, all_there=True)
    texts = {item.id: item.text for item in items}
    for one in both:  # every part of an answer stands in one of the two memories
        parts = (one.answer,) if isinstance(one.answer, str) else one.answer
        assert all(any(part in texts[name] for name in one.memory_ids) for part in parts), one.question
    choices = data.read_choices(EXAMPLES / "general.jsonl")
    assert len(choices) == 40
    assert {len(choice.options) for choice in choices} == {4}
    places = [choice.options.index(choice.answer) for choice in choices]
    assert max(map(places.count, range(4))) < 20  # always saying the same letter is no knowledge
    assert 350 < sum(len(text.split()) for text in data.read_paragraphs(EXAMPLES / "plain_text.txt")) < 550


def _logprobs(*values: float) -> Sequence[dict[int, SimpleNamespace] | None]:
    other = {99: SimpleNamespace(logprob=-99.0)}
    return [None, *({n: SimpleNamespace(logprob=one), **other} for n, one in enumerate(values, start=1))]


@pytest.mark.parametrize(("start", "expected"), [(1, (-6.0, 3)), (2, (-5.0, 2)), (3, (-3.0, 1))])
def test_only_what_stands_behind_the_question_is_counted(start: int, expected: tuple[float, int]) -> None:
    assert counted(_logprobs(-1.0, -2.0, -3.0), [0, 1, 2, 3], start) == expected
