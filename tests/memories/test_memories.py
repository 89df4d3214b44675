"""What one can do with memories, on a bank of an invented base model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from tests.bank.samples import BASE, SHAPES, write_adapter
from tests.banks import WHO, problems, row
from tests.clock import in_seconds
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog
from vllm_mega.bank.catalog.check import check
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.jobs import lease
from vllm_mega.bank.catalog.records import BankSettings, MemoryName, Source
from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.opening import open_if_there, open_or_create
from vllm_mega.errors import (
    AdapterError,
    BankError,
    BankMismatchError,
    ConfigError,
    DraftError,
    MemoryChangedError,
    MemoryNotFoundError,
)
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Query
from vllm_mega.memories import (
    expire,
    forget,
    get_entry,
    history,
    list_jobs,
    list_memories,
    remember,
    remember_adapter,
    restore,
    retire,
    search,
    tag,
    update,
)
from vllm_mega.memories.updating import Update

EMBEDDER = FakeEmbedder(8)
LAMP = NewMemory("The lamp burns nine nights.", id="lamp", title="Lamp", tags=("light",), links=("ferry",))
FERRY = NewMemory("Four oxen pull the ferry.", id="ferry")
NAME = MemoryName("default", "lamp")


class InventedBase:
    """A base model that has shapes and no tensors."""

    shapes = SHAPES
    names = frozenset[str]()

    def equals(self, *_: object) -> bool:
        raise AssertionError("no tensor was to be compared")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with create_catalog(tmp_path / "bank", BankSettings(BASE, EMBEDDER.info)) as made:
        yield made


def test_memories_are_stored_with_keys_and_wait_for_a_trainer(catalog: Catalog) -> None:
    source = Source("book.md", start=0, end=27)
    unnamed = NewMemory("Bells ring.")
    stored = remember(catalog, [LAMP, unnamed], EMBEDDER, WHO, sources=[source, None])
    assert [(one.id, one.state, one.newest) for one in stored] == [
        ("lamp", "pending", 1), (memory_id(unnamed), "pending", 1),
    ]  # fmt: skip
    entry = get_entry(catalog, NAME)
    assert (entry.version.text, entry.links, entry.version.source, entry.version.who) == (
        LAMP.text, ("ferry",), source, WHO,
    )  # fmt: skip
    assert entry.version.key == key_bytes(EMBEDDER.embed([LAMP.text])[0])
    assert [job.id for job in list_jobs(catalog)] == ["lamp", stored[1].id]
    again = remember(catalog, [LAMP], EMBEDDER, WHO, sources=[source])
    assert again[0].newest == 1


def test_memories_expire_and_are_retired(catalog: Catalog) -> None:
    moment = in_seconds(60)
    (stored,) = remember(catalog, [replace(LAMP, expires_at=moment)], EMBEDDER, WHO)
    assert stored.expires == moment.timestamp()
    assert remember(catalog, [LAMP], EMBEDDER, WHO)[0].expires == stored.expires
    retired = update(catalog, NAME, Update(retired=True, expires_at=None), EMBEDDER, WHO)
    assert (retired.newest, retired.retired, retired.expires) == (1, True, None)
    with pytest.raises(ConfigError, match="default/lamp: expires_at must name its zone"):
        update(catalog, NAME, Update(expires_at=datetime(2199, 1, 1)), EMBEDDER, WHO)
    assert not retire(catalog, NAME, WHO, retired=False).retired
    assert expire(catalog) == []


def test_without_training_there_is_no_job(catalog: Catalog) -> None:
    (stored,) = remember(catalog, [LAMP], EMBEDDER, WHO, train=False)
    assert (stored.state, list_jobs(catalog)) == ("pending", [])
    remember(catalog, [LAMP], EMBEDDER, WHO)
    assert [job.id for job in list_jobs(catalog)] == ["lamp"]


def test_an_adapter_of_peft_answers_at_once(catalog: Catalog, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "run" / "lora", 5)
    stored = remember_adapter(catalog, LAMP, tmp_path / "run", EMBEDDER, InventedBase(), WHO)
    assert (stored.state, stored.rank, list_jobs(catalog)) == ("ready", 2, [])
    assert stored.adapter_bytes > 0
    assert check(catalog, SHAPES) == []
    with pytest.raises(AdapterError, match="a rank r of at most 1, found 2"):
        remember_adapter(catalog, FERRY, lora, EMBEDDER, InventedBase(), WHO, max_rank=1)
    with pytest.raises(MemoryNotFoundError):
        get_entry(catalog, MemoryName("default", "ferry"))


def test_an_update_changes_what_it_names(catalog: Catalog, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", 5)
    first = remember_adapter(catalog, LAMP, tmp_path / "lora", EMBEDDER, InventedBase(), WHO)
    tagged = update(catalog, NAME, Update(tags=("light", "old")), EMBEDDER, WHO)
    assert (tagged.newest, tagged.state, tagged.adapter) == (2, "ready", first.adapter)
    changed = update(catalog, NAME, Update(text="The lamp burns ten nights."), EMBEDDER, WHO)
    assert (changed.newest, changed.current, changed.state) == (3, 2, "pending")
    version = get_entry(catalog, NAME).version
    assert (version.text, version.title, version.tags) == (
        "The lamp burns ten nights.", "Lamp", ("light", "old"),
    )  # fmt: skip
    assert version.key == key_bytes(EMBEDDER.embed(["The lamp burns ten nights."])[0])
    assert get_entry(catalog, NAME, 1).version.text == LAMP.text
    assert get_entry(catalog, NAME).links == ("ferry",)
    restored = restore(catalog, NAME, 1, WHO)
    assert (restored.newest, restored.state, restored.adapter) == (4, "ready", first.adapter)
    assert update(catalog, NAME, Update(), EMBEDDER, WHO).newest == 4
    with pytest.raises(ConfigError, match="default/lamp: text must not be empty"):
        update(catalog, NAME, Update(text=" "), EMBEDDER, WHO)
    with pytest.raises(MemoryNotFoundError):
        update(catalog, MemoryName("default", "x"), Update(), EMBEDDER, WHO)


def test_an_update_keeps_what_another_has_changed_meanwhile(catalog: Catalog) -> None:
    """Another change comes between the embedding and the transaction: neither is lost."""
    remember(catalog, [LAMP], EMBEDDER, WHO)

    class Slow(FakeEmbedder):
        def embed(self, texts: Sequence[str]) -> Any:
            if texts == [LAMP.text]:
                update(catalog, NAME, Update(text="The lamp is out."), EMBEDDER, "ben")
            return super().embed(texts)

    changed = update(catalog, NAME, Update(title="Lantern"), Slow(8), "ann")
    version = get_entry(catalog, NAME).version
    assert (changed.newest, version.text, version.title) == (3, "The lamp is out.", "Lantern")
    assert version.key == key_bytes(EMBEDDER.embed(["The lamp is out."])[0])


def test_who_asks_for_a_stamp_changes_no_other_memory(catalog: Catalog) -> None:
    remember(catalog, [LAMP], EMBEDDER, WHO)
    first = get_entry(catalog, NAME).stamp
    lease(catalog, "trainer", 60)
    assert get_entry(catalog, NAME).stamp == first, "what trainers do changes nothing that was said"
    update(catalog, NAME, Update(pinned=True), EMBEDDER, WHO, stamp=first)
    second = get_entry(catalog, NAME).stamp
    assert second > first
    for act in (
        lambda: update(catalog, NAME, Update(title="x"), EMBEDDER, WHO, stamp=first),
        lambda: restore(catalog, NAME, 1, WHO, stamp=first),
        lambda: forget(catalog, [NAME], WHO, stamps={NAME: first}),
    ):
        with pytest.raises(MemoryChangedError, match="was changed since it was read"):
            act()
    assert get_entry(catalog, NAME).stamp == second
    forget(catalog, [NAME], WHO, stamps={NAME: second})
    assert list_memories(catalog).memories == ()


def test_text_links_and_pin_change_together_or_not_at_all(catalog: Catalog) -> None:
    remember(catalog, [LAMP], EMBEDDER, WHO)
    with pytest.raises(DraftError, match="names the memory itself"):
        update(catalog, NAME, Update(text="New.", links=("lamp",), pinned=True), EMBEDDER, WHO)
    entry = get_entry(catalog, NAME)
    assert (entry.memory.newest, entry.memory.pinned, entry.links) == (1, False, ("ferry",))
    update(catalog, NAME, Update(text="New.", links=(), pinned=True), EMBEDDER, WHO)
    entry = get_entry(catalog, NAME)
    assert (entry.version.text, entry.memory.pinned, entry.links) == ("New.", True, ())


def test_history_outlives_the_memory_without_what_it_said(catalog: Catalog) -> None:
    remember(catalog, [LAMP], EMBEDDER, "ann")
    tag(catalog, NAME, "ben", add=["old"])
    found = history(catalog, NAME)
    assert [(v.number, v.who, v.tags) for v in found.versions] == [
        (2, "ben", ("light", "old")), (1, "ann", ("light",)),
    ]  # fmt: skip
    forget(catalog, [NAME], "cy")
    found = history(catalog, NAME)
    assert found.versions == ()
    assert [(e.kind, e.who) for e in found.events][-1] == ("forgotten", "cy")
    assert LAMP.text not in repr(found)
    with pytest.raises(MemoryNotFoundError):
        history(catalog, MemoryName("default", "never"))


def test_another_embedder_is_refused(catalog: Catalog) -> None:
    with pytest.raises(BankMismatchError, match="was made with the embedder fake"):
        remember(catalog, [LAMP], FakeEmbedder(9), WHO)
    assert list_memories(catalog).memories == ()


def test_one_twice_and_nothing_is_stored(catalog: Catalog) -> None:
    with pytest.raises(BankError, match="default/lamp is given twice"):
        remember(catalog, [LAMP, FERRY, LAMP], EMBEDDER, WHO)
    assert list_memories(catalog).memories == ()


def test_search_asks_the_gate_and_cuts_the_list() -> None:
    asked: list[Query] = []
    hits = [SimpleNamespace(id=f"m{n}", title=f"T{n}", score=1.0 - n, weight=0.5) for n in range(3)]

    class Gate:
        def explain(self, query: Query, limit: int | None = None) -> tuple[object, Sequence[object]]:
            asked.append(query)
            return object(), hits[:limit]

    found = search(Gate(), "Which lamp?", "ann", tags=("light",), limit=2)  # type: ignore[arg-type]
    assert [(one.id, one.title, one.score, one.weight) for one in found] == [
        ("m0", "T0", 1.0, 0.5), ("m1", "T1", 0.0, 0.5),
    ]  # fmt: skip
    assert (asked[0].text, asked[0].namespace, asked[0].tags) == ("Which lamp?", "ann", ("light",))


def test_a_bank_is_opened_or_made(tmp_path: Path) -> None:
    settings = BankSettings(BASE, EMBEDDER.info)
    assert open_if_there(tmp_path / "new") is None
    with open_or_create(tmp_path / "new", settings) as made:
        remember(made, [LAMP], EMBEDDER, WHO)
    with open_or_create(tmp_path / "new", settings) as again:
        assert [one.id for one in list_memories(again).memories] == ["lamp"]
    with pytest.raises(BankMismatchError):
        open_or_create(tmp_path / "new", BankSettings(BASE, FakeEmbedder(9).info))
    (tmp_path / "new" / "catalog.sqlite").unlink()
    assert open_if_there(tmp_path / "new") is None


def test_the_row_of_a_pending_memory_has_no_adapter(catalog: Catalog) -> None:
    remember(catalog, [FERRY], EMBEDDER, WHO)
    assert (row(catalog.root, "ferry").state, row(catalog.root, "ferry").adapter) == ("pending", None)
    assert problems(catalog.root) == []
