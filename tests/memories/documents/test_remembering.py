from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.bank.samples import BASE
from tests.clock import in_seconds
from tests.memories.documents.made import HANDBOOK, words
from vllm_mega.bank.catalog import changes, replacing
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.catalog.reading import list_memories
from vllm_mega.bank.catalog.records import BankSettings, Filter, MemoryName, Source
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import BankError, DocumentError, MemoryNotFoundError
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.memories import get_entry
from vllm_mega.memories.documents.division import Size
from vllm_mega.memories.documents.plan import Plan, Wish
from vllm_mega.memories.documents.reading import read_files
from vllm_mega.memories.documents.remembering import carry_out, forget_path, forget_source, make_plans
from vllm_mega.memories.drafting import draft
from vllm_mega.memories.reading import Entry

EMBEDDER = FakeEmbedder()
WHO = "oona"
MINE = Wish("default")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with create_catalog(tmp_path / "bank", BankSettings(BASE, EMBEDDER.info)) as made:
        yield made


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    path = tmp_path / "handbook.md"
    path.write_text(HANDBOOK)
    return path


def planned(catalog: Catalog | None, *paths: Path, wish: Wish = MINE) -> list[Plan]:
    return make_plans(catalog, read_files(paths), wish, words, Size())


def remember(catalog: Catalog, *paths: Path, wish: Wish = MINE) -> list[str]:
    """The changes that it made, in the order of the documents."""
    plans = planned(catalog, *paths, wish=wish)
    for plan in plans:
        carry_out(catalog, plan, EMBEDDER, WHO)
    return [step.change for plan in plans for step in plan.steps]


def entries(catalog: Catalog, source: Path, namespace: str = "default") -> list[Entry]:
    page = list_memories(catalog, Filter(namespace, source=str(source)))
    found = [get_entry(catalog, memory.name) for memory in page.memories]
    return sorted(found, key=lambda entry: entry.version.text)


def events(catalog: Catalog) -> list[str]:
    return [event.kind for event in events_after(catalog, 0)]


def test_a_document_becomes_memories_with_keys_and_sources(catalog: Catalog, handbook: Path) -> None:
    assert remember(catalog, handbook) == ["add"] * 4
    found = entries(catalog, handbook)
    bell = found[1]
    assert bell.version.text == "The bell was cast from melted spoons."
    assert bell.version.title == "Handbook > Bells"
    assert bell.version.key == EMBEDDER.embed([bell.version.text])[0].tobytes()
    assert bell.version.who == WHO
    source = bell.version.source
    assert source is not None
    assert HANDBOOK[source.start : source.end] == bell.version.text
    codes = next(entry for entry in found if entry.version.title.endswith("Codes"))
    assert codes.memory.id in bell.links
    assert list_jobs(catalog) == [], "no trainer was asked for"
    assert {entry.memory.state for entry in found} == {"pending"}


def test_the_same_document_again_writes_nothing(catalog: Catalog, handbook: Path) -> None:
    remember(catalog, handbook)
    before, written = entries(catalog, handbook), events(catalog)
    handbook.write_text(HANDBOOK + "\n\n")
    assert remember(catalog, handbook) == ["keep"] * 4
    assert events(catalog) == written
    assert entries(catalog, handbook) == before


def test_an_insertion_leaves_all_others_as_they_were(catalog: Catalog, handbook: Path) -> None:
    remember(catalog, handbook)
    before = {entry.memory.id: entry.version for entry in entries(catalog, handbook)}
    handbook.write_text(HANDBOOK.replace("## Doors", "## Geese\n\nNine geese count copper.\n\n## Doors"))
    assert remember(catalog, handbook) == ["link", "add", "link", "keep", "keep"]
    after = {entry.memory.id: entry.version for entry in entries(catalog, handbook)}
    assert {name: after[name] for name in before} == before, "ids, versions, keys and sources"
    assert len(after) == 5
    assert events(catalog)[4:] == ["added", "linked", "linked"]


def test_a_changed_part_is_a_new_version_and_a_dropped_one_is_forgotten(
    catalog: Catalog, handbook: Path
) -> None:
    remember(catalog, handbook)
    before = {entry.version.title: entry.memory.id for entry in entries(catalog, handbook)}
    text = HANDBOOK.replace("melted spoons", "melted copper spoons")
    handbook.write_text(text[: text.index("### Codes")] + text[text.index("## Bells") :])
    remember(catalog, handbook)
    after = {entry.version.title: entry for entry in entries(catalog, handbook)}
    assert set(before) - set(after) == {"Handbook > Doors > Codes"}
    bells = after["Handbook > Bells"]
    assert (bells.memory.id, bells.memory.newest) == (before["Handbook > Bells"], 2)
    assert bells.version.text == "The bell was cast from melted copper spoons."
    assert bells.links == (before["Handbook > Doors"],)
    with pytest.raises(MemoryNotFoundError):
        get_entry(catalog, MemoryName("default", before["Handbook > Doors > Codes"]))


def test_the_last_part_links_to_nothing(catalog: Catalog, handbook: Path) -> None:
    remember(catalog, handbook)
    handbook.write_text("# Handbook\n\n## Bells\n\nThe bell was cast from melted spoons.")
    assert remember(catalog, handbook) == ["link"]
    (bell,) = entries(catalog, handbook)
    assert bell.links == ()
    assert bell.memory.newest == 1
    assert remember(catalog, handbook) == ["keep"]


def test_what_is_cut_off_has_changed_nothing(
    catalog: Catalog, handbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(catalog, handbook)
    handbook.write_text("# Handbook\n\nNobody lives here.")

    def broken(*_: object) -> None:
        raise BankError("the disk is full")

    before, told = entries(catalog, handbook), events(catalog)
    monkeypatch.setattr(replacing, "delete", broken)
    with pytest.raises(BankError, match="the disk is full"):
        remember(catalog, handbook)
    monkeypatch.undo()
    assert (entries(catalog, handbook), events(catalog)) == (before, told)
    remember(catalog, handbook)
    assert [entry.version.text for entry in entries(catalog, handbook)] == ["Nobody lives here."]


def test_namespaces_have_their_own(catalog: Catalog, handbook: Path) -> None:
    remember(catalog, handbook)
    assert remember(catalog, handbook, wish=Wish("team", ("work",))) == ["add"] * 4
    assert {entry.memory.tags for entry in entries(catalog, handbook, "team")} == {("work",)}
    handbook.write_text("# Handbook\n\nNobody lives here.")
    remember(catalog, handbook)
    assert len(entries(catalog, handbook, "team")) == 4


def test_forgetting_a_source_forgets_all_that_came_from_it(
    catalog: Catalog, handbook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("The kettle sings.")
    remember(catalog, handbook, notes)
    remember(catalog, handbook, wish=Wish("team"))
    with pytest.raises(MemoryNotFoundError, match=r"no memory came from other\.md"):
        forget_source(catalog, "other.md", WHO)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MemoryNotFoundError, match=r"no memory came from handbook\.md"):
        forget_source(catalog, "handbook.md", WHO, "team")
    assert len(forget_path(catalog, "handbook.md", WHO, "team").events) == 4
    assert len(forget_source(catalog, str(handbook), WHO).events) == 4
    (left,) = list_memories(catalog).memories
    assert left.source == Source(str(notes), left.source.digest if left.source else "", 0, 17)


def test_a_dry_plan_needs_no_bank_and_writes_nothing(handbook: Path, tmp_path: Path) -> None:
    (plan,) = planned(None, handbook)
    assert [step.change for step in plan.steps] == ["add"] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["handbook.md"]


def test_a_memory_of_somebody_else_is_never_overwritten(catalog: Catalog, handbook: Path) -> None:
    (plan,) = planned(None, handbook)
    name = plan.steps[0].memory.id
    mine = NewMemory("Mine.", id=name)
    changes.put(catalog, [draft(mine, None)], WHO)
    remember(catalog, handbook)
    assert get_entry(catalog, MemoryName("default", name)).version.text == "Mine."
    assert f"{name}-2" in {entry.memory.id for entry in entries(catalog, handbook)}


def lines(path: Path, *memories: NewMemory) -> Path:
    path.write_bytes(b"\n".join(map(msgspec.json.encode, memories)))
    return path


LAMP = NewMemory("A lamp burned for nine nights.", id="lamp", tags=("sea",))
BELL = NewMemory("The bell rings.", id="bell", links=("lamp",))


def test_lines_are_added_updated_and_never_forgotten(catalog: Catalog, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", LAMP, BELL)
    assert remember(catalog, path, wish=Wish("default", ("work",))) == ["add", "add"]
    lamp = get_entry(catalog, MemoryName("default", "lamp"))
    assert lamp.version.tags == ("sea", "work")
    assert lamp.version.source is not None
    assert (lamp.version.source.file, lamp.version.source.start) == (str(path), None)
    changed = msgspec.structs.replace(LAMP, text="A lamp burned for ten nights.")
    lines(path, changed)
    written = len(events(catalog))
    assert remember(catalog, path, wish=Wish("default", ("work",))) == ["update"]
    assert events(catalog)[written:] == ["updated"]
    bell = get_entry(catalog, MemoryName("default", "bell"))
    assert bell.links == ("lamp",)
    lines(path, changed, msgspec.structs.replace(BELL, links=()))
    assert remember(catalog, path, wish=Wish("default", ("work",))) == ["keep", "keep"]
    assert get_entry(catalog, MemoryName("default", "bell")).links == ("lamp",)
    lines(path, changed, msgspec.structs.replace(BELL, links=("kettle",)))
    assert remember(catalog, path, wish=Wish("default", ("work",))) == ["keep", "link"]
    moment = in_seconds(60)
    lines(path, changed, msgspec.structs.replace(BELL, links=("kettle",), expires_at=moment))
    for told in (["dated"], []):
        written = len(events(catalog))
        remember(catalog, path, wish=Wish("default", ("work",)))
        assert events(catalog)[written:] == told
    assert get_entry(catalog, MemoryName("default", "bell")).memory.expires == moment.timestamp()
    assert len(forget_source(catalog, str(path), WHO).events) == 2


def test_lines_go_where_they_say_or_where_they_are_sent(catalog: Catalog, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", LAMP, msgspec.structs.replace(BELL, namespace="oona"))
    remember(catalog, path, wish=Wish("team"))
    assert {memory.name for memory in list_memories(catalog).memories} == {("team", "lamp"), ("oona", "bell")}


def test_two_files_with_one_memory_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    one, two = lines(tmp_path / "a.jsonl", LAMP), lines(tmp_path / "b.jsonl", LAMP)
    with pytest.raises(DocumentError, match="has a memory 'lamp', too: drop one"):
        planned(catalog, one, two)
