"""A bank goes out as files and comes back the same."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.bank.samples import BASE, SHAPES, key, write_adapter
from tests.banks import WHO, Item, make_bank, problems
from tests.clock import forward
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.catalog import changes, jobs
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.known import known
from vllm_mega.bank.catalog.reading import get_links, history, list_memories
from vllm_mega.bank.catalog.records import Filter, Memory, MemoryName
from vllm_mega.bank.layout import QA, NewMemory
from vllm_mega.errors import AdapterError, BankError, BankFormatError, BankMismatchError
from vllm_mega.memories import export_bank, forget, import_bank

LAMP = NewMemory(
    "The lamp burns nine nights.", id="lamp", title="Lamp", tags=("light", "sea"), links=("ferry", "away"),
    paraphrases=("For nine nights it burns.",), qa=(QA("How long?", "Nine nights."),),
)  # fmt: skip
FERRY = NewMemory("Four oxen pull the ferry.", id="ferry", namespace="river")
BELL = NewMemory("Bells ring at noon.", id="bell")
NAME = MemoryName("default", "lamp")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A pinned lamp with three versions of one adapter, a ferry with a new text, a bell that failed."""
    root, lora = tmp_path / "bank", write_adapter(tmp_path / "lora", 1)
    recipe, training = "c" * 64, {"steps": 3, "ending": "learnt"}
    make_bank(root, [Item(LAMP, lora, key(1), training, recipe), Item(BELL, None, key(5))])
    make_bank(root, [Item(FERRY, write_adapter(tmp_path / "other", 2), key(2))])
    make_bank(root, [Item(msgspec.structs.replace(FERRY, text="Five oxen pull it."), None, key(3))])
    with open_catalog(root) as catalog:
        changes.tag(catalog, NAME, "ben", add=["old"])
        make_bank(root, [Item(msgspec.structs.replace(LAMP, title="A lamp"), lora, key(4))])
        changes.pin(catalog, NAME, "ben")
        for _ in range(3):
            (job,) = jobs.lease(catalog, "one", 60, names=[MemoryName("default", "bell")])
            jobs.fail(catalog, job, "no")
    return root


@pytest.fixture
def catalog(root: Path) -> Iterator[Catalog]:
    with open_catalog(root) as opened:
        yield opened


def told(catalog: Catalog) -> dict[tuple[str, str], Any]:
    """All that a bank says of its memories, but for times, people and the results of jobs."""
    return {one.name: _told(catalog, one) for one in list_memories(catalog).memories}


def _told(catalog: Catalog, memory: Memory) -> Any:
    versions = [
        {name: value for name, value in msgspec.structs.asdict(version).items() if name not in ("who", "at")}
        for version in history(catalog, *memory.name)
    ]
    job = known(catalog, [memory.name])[memory.name].job
    return (
        memory.newest,
        memory.current,
        memory.pinned,
        get_links(catalog, *memory.name),
        job is None,
        versions,
    )


def test_what_expires_and_what_is_retired_comes_back_so(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = round(time.time()) + 60.0
    changes.edit(catalog, NAME, changes.Edit(expires=moment), WHO)
    changes.retire(catalog, MemoryName("default", "bell"), WHO)
    assert export_bank(catalog, tmp_path / "out") == 3
    assert import_bank(tmp_path / "out", tmp_path / "again", SHAPES, WHO) == 3
    with open_catalog(tmp_path / "again") as again:
        found = {one.id: (one.expires, one.retired) for one in list_memories(again).memories}
    assert found == {"lamp": (moment, False), "bell": (None, True), "ferry": (None, False)}
    forward(monkeypatch)(61)
    assert import_bank(tmp_path / "out", tmp_path / "later", SHAPES, WHO) == 2
    with open_catalog(tmp_path / "later") as later:
        assert {one.id for one in list_memories(later).memories} == {"bell", "ferry"}
    assert export_bank(catalog, tmp_path / "without") == 2


def test_the_whole_bank_comes_back(catalog: Catalog, tmp_path: Path) -> None:
    assert export_bank(catalog, tmp_path / "out") == 3
    assert import_bank(tmp_path / "out", tmp_path / "copy", SHAPES, WHO) == 3
    with open_catalog(tmp_path / "copy") as copy:
        assert copy.settings() == catalog.settings()
        assert told(copy) == told(catalog)
        assert len(history(copy, *NAME)) == 3
    assert problems(tmp_path / "copy") == []
    with open_catalog(tmp_path / "copy") as copy:
        assert export_bank(copy, tmp_path / "again") == 3
    lines = [sorted(_lines(tmp_path / name), key=str) for name in ("out", "again")]
    assert lines[0] == lines[1]


def _lines(folder: Path) -> list[Any]:
    found = [json.loads(line) for line in (folder / "memories.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("who", "at")} for line in found]


def test_adapters_are_plain_peft_folders(catalog: Catalog, tmp_path: Path) -> None:
    export_bank(catalog, tmp_path / "out", Filter(namespace="river"))
    assert [line["memory"]["text"] for line in _lines(tmp_path / "out")] == [
        "Four oxen pull the ferry.", "Five oxen pull it.",
    ]  # fmt: skip
    (folder,) = (tmp_path / "out" / "adapters").glob("??/*")
    assert adapter_digest(folder) == folder.name == adapter_digest(tmp_path / "other")


def test_into_a_bank_that_has_the_memory_comes_the_newest(catalog: Catalog, tmp_path: Path) -> None:
    export_bank(catalog, tmp_path / "out")
    make_bank(tmp_path / "copy", [Item(NewMemory("Another lamp.", id="lamp"), None, key(9))])
    assert import_bank(tmp_path / "out", tmp_path / "copy", SHAPES, WHO) == 3
    assert import_bank(tmp_path / "out", tmp_path / "copy", SHAPES, WHO) == 3
    with open_catalog(tmp_path / "copy") as copy:
        versions = history(copy, *NAME)
        assert [version.title for version in versions] == ["A lamp", ""]
        assert list_memories(copy, Filter(state="ready")).memories[0].id == "lamp"
    assert problems(tmp_path / "copy") == []


def test_what_is_forgotten_meanwhile_is_left_out(catalog: Catalog, tmp_path: Path) -> None:
    def meddle(memories: Iterator[Memory]) -> Iterator[Memory]:
        for memory in memories:
            if memory.id == "lamp":
                forget(catalog, [NAME], WHO)
            yield memory

    assert export_bank(catalog, tmp_path / "out", progress=meddle) == 2
    assert b"nine nights" not in (tmp_path / "out" / "memories.jsonl").read_bytes()


def test_what_is_no_export_or_was_changed_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy"
    with pytest.raises(BankFormatError, match="no exported bank"):
        import_bank(tmp_path / "nowhere", copy, SHAPES, WHO)
    assert not copy.exists()
    export_bank(catalog, out)
    with pytest.raises(BankError, match="is not empty"):
        export_bank(catalog, out)
    lines = (out / "memories.jsonl").read_text()
    for change, message in (
        (lines.replace('"id":"bell",', "", 1), "line . : the memory has no id|the memory has no id"),
        (lines.replace('"adapter":"', '"adapter":"../../', 1), "expected a digest"),
        (lines + "{", "memories.jsonl, line 7: "),
    ):
        (out / "memories.jsonl").write_text(change)
        with pytest.raises(BankFormatError, match=message):
            import_bank(out, tmp_path / message[:6].strip(), SHAPES, WHO)
    (out / "memories.jsonl").write_text(lines)
    weights = next((out / "adapters").glob("??/*/adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(AdapterError, match="SHA-256"):
        import_bank(out, copy, SHAPES, WHO)


def test_a_bank_of_another_base_model_takes_nothing(catalog: Catalog, tmp_path: Path) -> None:
    export_bank(catalog, tmp_path / "out")
    make_bank(tmp_path / "copy", base=msgspec.structs.replace(BASE, fingerprint="base-2"))
    with pytest.raises(BankMismatchError, match="fingerprint base-2"):
        import_bank(tmp_path / "out", tmp_path / "copy", SHAPES, WHO)
