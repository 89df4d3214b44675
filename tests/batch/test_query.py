"""`vllm-mega query` as users run it, on the real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.http.live_bank import ASKED, BAKERY, COMET, LIGHTHOUSE, SUBMARINE, UNRELATED, LiveBank
from vllm_mega.cli import main
from vllm_mega.gate.embedder import load_embedder

ENGINE = [
    "--max-loras",
    "3",
    "--max-model-len",
    "256",
    "--enforce-eager",
    "--top-k",
    "2",
    "--max-tokens",
    "8",
]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bank = LiveBank(tmp_path_factory.mktemp("query") / "bank", load_embedder())
    bank.add([LIGHTHOUSE, BAKERY, COMET, SUBMARINE])
    return bank.root


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def query(
    bank: Path, source: Path, output: Path, *more: str, processes: bool = True
) -> subprocess.CompletedProcess[str]:
    """`processes`: whether the engine and its worker have their own, each of which imports vLLM."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_") or k == "VLLM_MEGA_HOME"}
    environment |= {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(processes))}
    command = [
        sys.executable,
        "-m",
        "vllm_mega",
        "query",
        "--bank",
        bank,
        "--input",
        source,
        "--output",
        output,
    ]
    return subprocess.run(
        [*command, *ENGINE, *more], env=environment, capture_output=True, text=True, check=False, timeout=400
    )


def used(line: Any) -> list[str]:
    return [memory["id"] for memory in line["mega"]["memories"]]


@pytest.mark.engine
def test_lines_are_answered_in_order_behind_those_that_are(bank: Path, tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASKED["comet"]}]
    lines: list[Any] = [
        {"id": "first", "prompt": ASKED["bakery"]},
        {"id": "second", "prompt": ASKED["bakery"], "mega": {"tags": ["food"]}},
        {"messages": talk},
        {"id": 7, "prompt": ASKED["comet"], "mega": {"mode": "irag", "tags": ["food"]}},
        {"prompt": ASKED["submarine"], "mega": {"namespace": "navy"}},
        {"prompt": UNRELATED, "mega": {"memories": [{"id": "elk"}]}},
    ]
    source, output = write(tmp_path / "in", lines), tmp_path / "out"
    kept = {"id": "first", "prompt": ASKED["bakery"], "answer": "from an earlier run", "mega": {}}
    output.write_text(json.dumps(kept) + '\n{"id": "second", "prompt": "Wh')

    run = query(bank, source, output, "--mode", "recall", "--progress", processes=False)
    assert run.returncode == 1, run.stdout + run.stderr
    answers = read(output)
    assert [line["id"] for line in answers] == ["first", "second", 3, 7, 5, 6]
    assert answers[0] == kept
    assert [line["prompt"] for line in answers[1:3]] == [ASKED["bakery"], ASKED["comet"]]
    assert [used(line)[:1] for line in answers[1:5]] == [["bakery"], ["comet"], [], ["submarine"]]
    assert [line["mega"]["mode"] for line in answers[1:5]] == ["recall", "recall", "irag", "recall"]
    assert all(line["answer"] and line.keys() == kept.keys() for line in answers[1:5])
    assert (answers[5]["answer"], answers[5]["mega"]) == (None, None)
    assert "elk" in answers[5]["error"]
    assert "has 1 of 6 answers" in run.stdout
    assert "answered 4 prompts, 1 not answered" in run.stdout
    assert "tokens/s" in run.stderr

    before = output.read_bytes()
    again = query(bank, source, output)
    assert (again.returncode, again.stdout) == (0, f"{output} has 6 of 6 answers\n")
    assert output.read_bytes() == before


@pytest.mark.engine
def test_openai_batch(bank: Path, tmp_path: Path) -> None:
    def line(custom_id: str, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"max_tokens": 4, **body}}

    name = "SmolLM2-135M-Instruct"
    ask = [{"role": "user", "content": ASKED["lighthouse"]}]
    lines = [
        line("with", model=f"{name}-mega", messages=ask, n=2, temperature=1.0),
        line("base", model=name, messages=ask, logprobs=True),
        line("own", model=f"{name}-mega", messages=ask, mega={"memories": [{"id": "comet"}]}),
        line("text", "/v1/completions", model=f"{name}-mega", prompt=ASKED["bakery"]),
        line("lost", model="nobody", messages=ask),
        line("bad", model=name, messages=ask, temperature=-1),
        line("other", "/v1/embeddings", model=name, input="hi"),
        {**line("got", model=name, messages=ask), "method": "GET"},
    ]
    output = tmp_path / "out"
    run = query(bank, write(tmp_path / "in", lines), output)
    assert run.returncode == 1, run.stdout + run.stderr
    answers = {a["custom_id"]: a for a in read(output)}
    assert list(answers) == ["with", "base", "own", "text", "lost", "bad", "other", "got"]
    bodies = {i: a["response"]["body"] for i, a in answers.items()}
    assert [a["response"]["status_code"] for a in answers.values()] == [200] * 4 + [404, 400, 400, 400]
    assert len(bodies["with"]["choices"]) == 2
    assert used(bodies["with"])[0] == "lighthouse"
    assert bodies["base"]["choices"][0]["logprobs"]["content"]
    assert "mega" not in bodies["base"]
    assert used(bodies["own"]) == ["comet"]
    assert used(bodies["text"])[0] == "bakery"
    assert answers["lost"]["error"]["error"]["param"] == "model"
    assert bodies["lost"] is bodies["bad"] is bodies["other"] is bodies["got"] is None
    assert "/v1/embeddings" in answers["other"]["error"]["error"]["message"]


@pytest.mark.engine
@pytest.mark.slow
def test_two_workers_answer_as_one_does(bank: Path, tmp_path: Path) -> None:
    """In float32, where no other batch can tip a tie."""
    asked = [*ASKED.values(), UNRELATED, "Who baked it?"]
    lines: list[Any] = [{"prompt": f"{question} ({n})"} for n in range(3) for question in asked]
    lines[4]["mega"] = {"memories": [{"id": "elk"}]}
    lines[5]["mega"] = {"mode": "irag"}
    source = write(tmp_path / "in", lines)
    more = ("--dtype", "float32", "--max-num-seqs", "4")
    one = query(bank, source, tmp_path / "one", *more)
    assert one.returncode == 1, one.stdout + one.stderr
    two = query(bank, source, tmp_path / "two", *more, "--workers", "2")
    assert two.returncode == 1, two.stdout + two.stderr
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    assert f"answered {len(lines) - 1} prompts, 1 not answered" in two.stdout


def run_here(bank: Path, source: Path, output: Path, *more: str) -> int:
    return main(["query", "--bank", str(bank), "--input", str(source), "--output", str(output), *more])


@pytest.mark.parametrize(
    ("lines", "output", "more", "message"),
    [
        ([{"prompt": "a"}, {"promt": "b"}], "", (), "line 2: Object contains unknown field `promt`"),
        ([], "", (), "no lines"),
        ([{"prompt": "a"}], '{"id": 9}\n', (), "is not the output of this input"),
        ([{"prompt": "a"}], "", ("--top-k", "0"), "top_k must be 1..64"),
        ([{"prompt": "a"}], "", ("--model", "/nowhere"), "/nowhere"),
        ([{"prompt": "a"}], "", ("--ray-address", "auto"), "--ray-address needs --workers"),
        ([{"prompt": "a"}], "", ("--workers", "0"), "at least 1 worker, got 0"),
    ],
)
def test_what_is_refused_before_the_engine_starts(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    lines: list[Any], output: str, more: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    target = tmp_path / "out"
    target.write_text(output)
    assert run_here(bank, write(tmp_path / "in", lines), target, *more) == 1
    assert message in capsys.readouterr().err
    assert target.read_text() == output


def test_the_output_may_not_be_the_input(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in", [{"prompt": "a"}])
    assert run_here(bank, source, source, "--overwrite") == 1
    assert "is the input" in capsys.readouterr().err
    assert run_here(bank, tmp_path / "none", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()
