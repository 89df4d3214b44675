"""What becomes of a memory: versions, tags, links, pins; what is trained and what is not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.bank.catalog.invented import WHO, draft, name, placed
from tests.bank.samples import files_with
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.changes import add, link, pin, put, restore, tag, unlink, update
from vllm_mega.bank.catalog.events import events_after, events_of
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import lease, publish
from vllm_mega.bank.catalog.reading import get_links, get_memory, get_version, history
from vllm_mega.bank.catalog.records import Source
from vllm_mega.bank.catalog.store import adapter_folder, on_disk
from vllm_mega.bank.layout import QA
from vllm_mega.errors import BankError, MemoryNotFoundError


def train(catalog: Catalog, folder: Path, seed: int = 1) -> str:
    """Do the job that waits; the adapter's digest."""
    [job] = lease(catalog, "trainer", 60)
    trained = placed(catalog, folder, seed, recipe="recipe-1", training={"steps": 7})
    publish(catalog, job, trained)
    return trained.adapter


def kinds(catalog: Catalog) -> list[str]:
    return [event.kind for event in events_after(catalog, 0)]


def test_a_memory_comes_back_as_it_was_given(catalog: Catalog) -> None:
    source = Source("handbook.md", "f" * 64, 10, 90)
    given = draft(
        title="Lamp", tags=("night", "sea"), paraphrases=("It burns.",), qa=(QA("How long?", "1 night"),),
        links=("oil", "wick"), source=source,
    )  # fmt: skip
    [memory] = add(catalog, [given], WHO)
    assert (memory.state, memory.newest, memory.current, memory.pinned) == ("pending", 1, 1, False)
    assert (memory.title, memory.tags, memory.source, memory.reason) == ("Lamp", ("night", "sea"), source, "")
    version = get_version(catalog, "default", "lamp")
    assert (version.text, version.title, version.paraphrases, version.qa) == (
        given.memory.text, "Lamp", ("It burns.",), (QA("How long?", "1 night"),),
    )  # fmt: skip
    assert (version.tags, version.source, version.who) == (("night", "sea"), source, WHO)
    assert (version.text_digest, version.key, version.adapter) == (given.text_digest, given.key, None)
    assert get_links(catalog, "default", "lamp") == ("oil", "wick")


def test_many_are_added_at_once_or_none(catalog: Catalog) -> None:
    assert [m.id for m in add(catalog, [draft("b"), draft("a")], WHO)] == ["b", "a"]
    with pytest.raises(BankError, match="has a memory 'a' already: update it"):
        add(catalog, [draft("new"), draft("a", 2)], WHO)
    with pytest.raises(MemoryNotFoundError, match="has no memory 'nobody'"):
        update(catalog, [draft("a", 2), draft("nobody")], WHO)
    with pytest.raises(MemoryNotFoundError):
        get_memory(catalog, "default", "new")
    assert get_memory(catalog, "default", "a").newest == 1
    assert kinds(catalog) == ["added", "added"]


def test_the_version_before_answers_until_the_new_one_is_ready(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft()], WHO)
    first = train(catalog, tmp_path, 1)
    [memory] = put(catalog, [draft(nights=2)], WHO)
    assert (memory.state, memory.newest, memory.current) == ("pending", 2, 1)
    assert get_version(catalog, "default", "lamp").adapter == first
    second = train(catalog, tmp_path, 2)
    memory = get_memory(catalog, "default", "lamp")
    assert (memory.state, memory.newest, memory.current) == ("ready", 2, 2)
    version = get_version(catalog, "default", "lamp")
    assert (version.adapter, version.rank, version.recipe, version.training) == (
        second,
        2,
        "recipe-1",
        {"steps": 7},
    )
    assert [v.adapter for v in history(catalog, "default", "lamp")] == [second, first]


def test_without_an_adapter_the_newest_text_answers(catalog: Catalog) -> None:
    add(catalog, [draft()], WHO)
    [memory] = put(catalog, [draft(nights=2)], WHO)
    assert (memory.newest, memory.current) == (2, 2)


def test_what_says_nothing_new_changes_nothing(catalog: Catalog) -> None:
    add(catalog, [draft(tags=("night",), links=("oil",))], WHO)
    put(catalog, [draft(tags=("night",), links=("oil",))], WHO)
    put(catalog, [draft(tags=("night",))], WHO)
    tag(catalog, name(), WHO, add=["night"], remove=["day"])
    restore(catalog, name(), 1, WHO)
    link(catalog, name(), ["oil"], WHO)
    pin(catalog, name(), WHO, pinned=False)
    assert kinds(catalog) == ["added"]
    assert len(history(catalog, "default", "lamp")) == 1


def test_tags_links_and_pins_train_nothing(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft()], WHO)
    adapter = train(catalog, tmp_path)
    memory = tag(catalog, name(), "mira", add=["night", "sea"])
    assert (memory.state, memory.newest, memory.current, memory.tags) == ("ready", 2, 2, ("night", "sea"))
    assert tag(catalog, name(), WHO, add=["oil"], remove=["night"]).tags == ("sea", "oil")
    assert link(catalog, name(), ["oil", "wick"], WHO) == ("oil", "wick")
    assert unlink(catalog, name(), ["oil"], WHO) == ("wick",)
    assert pin(catalog, name(), WHO).pinned
    [memory] = put(catalog, [draft(tags=("sea", "oil"), source=Source("other.md"))], WHO)
    assert (memory.state, memory.newest, memory.pinned) == ("ready", 4, True)
    assert lease(catalog, "trainer", 60) == []
    assert [v.adapter for v in history(catalog, "default", "lamp")] == [adapter] * 4
    assert [v.who for v in history(catalog, "default", "lamp")] == [WHO, WHO, "mira", WHO]
    assert kinds(catalog)[3:] == ["updated", "updated", "linked", "linked", "pinned", "updated"]


def test_a_tag_does_not_disturb_a_training(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft()], WHO)
    [job] = lease(catalog, "trainer", 60)
    assert tag(catalog, name(), WHO, add=["night"]).state == "training"
    trained = placed(catalog, tmp_path)
    memory = publish(catalog, job, trained)
    assert (memory.state, memory.current, memory.tags) == ("ready", 2, ("night",))
    assert [v.adapter for v in history(catalog, "default", "lamp")] == [trained.adapter] * 2


def test_an_earlier_version_comes_back_with_its_adapter(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft(tags=("night",))], WHO)
    first = train(catalog, tmp_path, 1)
    put(catalog, [draft(nights=2)], WHO)
    memory = restore(catalog, name(), 1, WHO)
    assert (memory.state, memory.newest, memory.current, memory.tags) == ("ready", 3, 3, ("night",))
    version = get_version(catalog, "default", "lamp")
    assert (version.text, version.adapter) == (draft().memory.text, first)
    assert lease(catalog, "trainer", 60) == [], "the job of version 2 is gone"
    memory = restore(catalog, name(), 2, WHO)
    assert (memory.state, memory.newest, memory.current) == ("pending", 4, 3)
    assert len(lease(catalog, "trainer", 60)) == 1
    with pytest.raises(MemoryNotFoundError, match="of version 9"):
        restore(catalog, name(), 9, WHO)


def test_memories_can_be_kept_without_training(catalog: Catalog) -> None:
    [memory] = add(catalog, [draft(train=False)], WHO)
    assert memory.state == "pending"
    assert lease(catalog, "trainer", 60) == []
    put(catalog, [draft(train=True)], WHO)
    put(catalog, [draft(train=True)], WHO)
    assert kinds(catalog) == ["added", "queued"]
    assert len(lease(catalog, "trainer", 60)) == 1


def test_an_adapter_can_come_with_the_draft(catalog: Catalog, tmp_path: Path) -> None:
    trained = placed(catalog, tmp_path)
    [memory] = add(catalog, [draft(trained=trained)], WHO)
    assert (memory.state, memory.current) == ("ready", 1)
    assert lease(catalog, "trainer", 60) == []
    with pytest.raises(BankError, match="nothing claims the adapter"):
        add(catalog, [draft("other", trained=trained)], WHO)


def test_forgetting_leaves_a_receipt_and_nothing_else(catalog: Catalog, tmp_path: Path) -> None:
    add(catalog, [draft("hazelnut-lamp", tags=("night",), links=("oil",)), draft("other", 2)], WHO)
    jobs = lease(catalog, "trainer", 60, limit=2)
    publish(catalog, jobs[0], shared := placed(catalog, tmp_path, 1))
    publish(catalog, jobs[1], placed(catalog, tmp_path, 1))
    put(catalog, [draft("hazelnut-lamp", 3)], WHO)
    own = placed(catalog, tmp_path, 3)
    publish(catalog, *lease(catalog, "trainer", 60), own)
    folder = adapter_folder(catalog, own.adapter)
    assert folder.is_dir()
    receipt = forget(catalog, [name("hazelnut-lamp")], "mira")
    [event] = receipt.events
    assert (event.kind, event.id, event.version, event.who) == ("forgotten", "hazelnut-lamp", 2, "mira")
    assert receipt.erased == catalog.database.sqlite, "PostgreSQL keeps deleted rows"
    [gone] = receipt.memories
    assert [version.number for version in gone.versions] == [1, 2]
    assert (receipt.removed, receipt.kept) == ((own.adapter,), (shared.adapter,))
    assert not folder.exists()
    assert on_disk(catalog) == {shared.adapter}, "the other memory has the same bytes"
    assert files_with(catalog.root, b"hazelnut-lamp burns") == []
    assert [e.kind for e in events_of(catalog, "default", "hazelnut-lamp")] == [
        "added", "leased", "ready", "updated", "leased", "ready", "forgotten",
    ]  # fmt: skip
    with pytest.raises(MemoryNotFoundError):
        history(catalog, "default", "hazelnut-lamp")


def test_text_is_in_the_files_before_it_is_forgotten(catalog: Catalog) -> None:
    if catalog.database.sqlite:
        add(catalog, [draft("hazelnut-lamp")], WHO)
        assert files_with(catalog.root, b"hazelnut-lamp burns"), "the test above looks at nothing"


def test_forgetting_is_all_or_nothing(catalog: Catalog) -> None:
    add(catalog, [draft("a"), draft("b")], WHO)
    with pytest.raises(MemoryNotFoundError, match="has no memory 'c'"):
        forget(catalog, [name("a"), name("c")], WHO)
    assert get_memory(catalog, "default", "a").newest == 1
    assert len(forget(catalog, [name("a"), name("b"), name("a")], WHO).events) == 2


def test_numbers_of_versions_are_never_used_twice(catalog: Catalog) -> None:
    add(catalog, [draft()], WHO)
    put(catalog, [draft(nights=2)], WHO)
    forget(catalog, [name()], WHO)
    [memory] = add(catalog, [draft(nights=3)], WHO)
    assert (memory.newest, memory.current) == (3, 3)
    assert [v.number for v in history(catalog, "default", "lamp")] == [3]


def test_namespaces_are_apart(catalog: Catalog) -> None:
    add(catalog, [draft(), draft(nights=2, namespace="other")], WHO)
    forget(catalog, [name()], WHO)
    assert get_version(catalog, "other", "lamp").text == draft(nights=2).memory.text


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (draft(title="a\0b"), "NUL character"),
        (msgspec.structs.replace(draft(), key=b"abc"), "expected a key of 32 bytes, found 3"),
        (msgspec.structs.replace(draft(), key=bytes(32)), "expected unit length"),
        (msgspec.structs.replace(draft(), text_digest=""), "digest of what trains"),
        (draft(""), "expected an id"),
    ],
)
def test_drafts_that_cannot_be_kept_are_refused(catalog: Catalog, bad: object, reason: str) -> None:
    with pytest.raises(BankError, match=reason):
        add(catalog, [draft("fine"), bad], WHO)  # type: ignore[list-item]
    assert kinds(catalog) == []


def test_one_memory_twice_and_bad_links_are_refused(catalog: Catalog) -> None:
    with pytest.raises(BankError, match="default/lamp is given twice"):
        add(catalog, [draft(), draft(nights=2)], WHO)
    add(catalog, [draft()], WHO)
    for target in ("lamp", "no id"):
        with pytest.raises(BankError, match="memory default/lamp"):
            link(catalog, name(), [target], WHO)


def test_texts_of_every_script_come_back(catalog: Catalog) -> None:
    title = "Öl 油 🪔 'quoted\"; DROP TABLE memories; \x01\n"
    add(catalog, [draft(title=title, tags=("油", "ö\u0301"))], WHO)
    version = get_version(catalog, "default", "lamp")
    assert (version.title, version.tags) == (title, ("油", "ö\u0301"))
