"""Adding memories, with an adapter and for a trainer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bank.command.running import Run
from tests.bank.samples import key, write_adapter
from tests.banks import last_event, newest
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.drafts import key_array
from vllm_mega.bank.catalog.jobs import fail, lease


def test_add(run: Run, bank: Path, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora", 5)
    words = [
        "--text",
        "The tide is late.",
        "--title",
        "Tide",
        "--id",
        "tide",
        "--tag",
        "sea",
        "--tag",
        "time",
    ]
    assert run("add", "--adapter", lora, *words) == (
        0, "added default/tide, version 1, ready, rank 2\n", "",
    )  # fmt: skip
    version = newest(bank, "tide")
    assert (version.title, version.tags, version.text) == ("Tide", ("sea", "time"), "The tide is late.")
    assert version.key is not None
    np.testing.assert_array_equal(key_array(version.key), key(len("The tide is late.")))
    assert run("verify")[0] == 0


def test_add_for_a_trainer(run: Run, bank: Path, tmp_path: Path) -> None:
    assert run("add", "--text", "The tide is late.", "--id", "tide")[1] == (
        "added default/tide, version 1, pending\n"
    )
    assert run("add", "--text", "Nobody trains it.", "--id", "still", "--no-train")[0] == 0
    file = tmp_path / "many.jsonl"
    file.write_text('{"text": "One.", "id": "one"}\n{"text": "Two.", "id": "two"}\n')
    assert run("add", "--memory", file, "--namespace", "ben")[1].count("added ben/") == 2
    code, out, _ = run("jobs")
    assert code == 0
    assert [line.split()[:5] for line in out.splitlines()] == [
        ["NAMESPACE", "ID", "VERSION", "STATE", "ATTEMPTS"],
        ["default", "tide", "1", "waiting", "0"],
        ["ben", "one", "1", "waiting", "0"],
        ["ben", "two", "1", "waiting", "0"],
        ["jobs:", "3"],
    ]
    with open_catalog(bank) as catalog:
        fail(catalog, lease(catalog, "trainer", 60)[0], "the loss is not finite")
    told = json.loads(run("jobs", "--namespace", "default", "--json")[1])
    assert (told["attempts"], told["reason"]) == (1, "the loss is not finite")


def test_add_from_a_file(run: Run, bank: Path, tmp_path: Path) -> None:
    lora, file = write_adapter(tmp_path / "lora", 5), tmp_path / "memory.json"
    file.write_text('{"text": "The tide is late.", "id": "tide", "qa": [{"question": "q", "answer": "a"}]}')
    assert run("add", "--adapter", lora, "--memory", file, "--namespace", "ben")[0] == 0
    assert newest(bank, "tide", "ben").qa[0].answer == "a"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r"([a-z._0-9]+)*!"},
        {"target_modules": ["up_proj", "down_proj", "query_key_value"]},
        {"target_modules": "all-linear", "exclude_modules": r"([a-z._0-9]+)*!"},
        {"rank_pattern": {"o_proj": 9}, "alpha_pattern": {r"layers\.1.*": 3}},
        {"modules_to_save": [], "bias": "all"},
    ],
    ids=str,
)
def test_add_what_peft_may_have_written(run: Run, bank: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    write_adapter(tmp_path / "run" / "lamp", 5, **fields)
    started = time.monotonic()
    code, out, _ = run("add", "--adapter", tmp_path / "run", "--text", "The tide is late.", "--id", "tide")
    assert (code, out) == (0, "added default/tide, version 1, ready, rank 2\n")
    assert time.monotonic() - started < 20
    assert run("verify")[0] == 0
    assert not list((bank / "staging").iterdir())


def test_add_refuses_before_anything_is_written(run: Run, bank: Path, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora", 5, use_dora=True)
    code, _, err = run("add", "--adapter", lora, "--text", "x")
    assert code == 1
    assert f"{lora}/adapter_config.json: expected use_dora unset" in err
    assert not list((bank / "staging").iterdir())
    assert last_event(bank) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_add_from_a_file_of_another_system(run: Run, bank: Path, tmp_path: Path, encoding: str) -> None:
    lora, file = write_adapter(tmp_path / "lora", 5), tmp_path / "memory.json"
    file.write_bytes('{\r\n  "text": "The tide is late.",\r\n  "title": null\r\n}\r\n'.encode(encoding))
    assert run("add", "--adapter", lora, "--memory", file)[0] == 0
    file.write_bytes('[{"text": "One."}, {"text": "Two."}]'.encode(encoding))
    assert "expected one JSON object, found 2" in run("add", "--adapter", lora, "--memory", file)[2]
    assert "expected one JSON object, found 2" in run("add", "--memory", file, "--id", "both")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", " "], "text must not be empty"),
        (["--text", "half a \ud83d"], "half a character"),
        (["--text", "x", "--id", "../x"], "id must be 1 to 128 of"),
        (["--memory", "{tmp}/nowhere"], "No such file"),
        (["--memory", "{tmp}/lora/adapter_model.safetensors"], "line 1"),
        (["--text", "x", "--max-rank", "1"], "a rank r of at most 1, found 2"),
        (["--text", "x", "--model", "other-base"], "made for the base model invented-base"),
        (["--text", "x", "--embedder", "other-embedder"], "made with the embedder invented-embedder"),
    ],
    ids=str,
)
def test_add_refuses(run: Run, bank: Path, tmp_path: Path, words: list[str], message: str) -> None:
    lora = write_adapter(tmp_path / "lora", 5)
    code, out, err = run("add", "--adapter", lora, *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert (code, out) == (1, "")
    assert message in err
    assert last_event(bank) == 2
