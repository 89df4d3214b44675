from __future__ import annotations

from tests.memories.documents.made import words
from vllm_mega.bank.catalog.records import Source
from vllm_mega.bank.layout import NewMemory
from vllm_mega.memories.documents.names import part_id
from vllm_mega.memories.documents.plan import Known, Plan, Wish, make_plan
from vllm_mega.memories.documents.sections import Part

SOURCE = Source("/home/oona/Night Watch.md", "ab" * 32)
WISH = Wish("default")
TEXTS = ("The lamp of Odrin is orange.", "The bell was cast from spoons.", "Nine geese count the copper.")


def part(text: str, title: str = "Watch", start: int = 0) -> Part:
    return Part(title, text, start, start + len(text), words([text])[0])


def free(_: str) -> bool:
    return False


def plan(texts: list[Part], known: list[Known] | None = None, wish: Wish = WISH) -> Plan:
    return make_plan(SOURCE, texts, known or [], wish, free)


def stored(made: Plan) -> list[Known]:
    """What the bank has when the plan has been carried out."""
    steps = [(step.memory, step.source) for step in made.steps]
    return [Known(one.id, one.title, one.text, one.tags, one.links, source) for one, source in steps]


def changes(made: Plan) -> list[str]:
    return [step.change for step in made.steps]


def ids(made: Plan) -> list[str]:
    return [step.memory.id for step in made.steps]


FIRST = plan([part(text, start=n * 40) for n, text in enumerate(TEXTS)])


def test_a_new_document_is_added_and_its_neighbours_are_linked() -> None:
    assert changes(FIRST) == ["add"] * 3
    one, two, three = ids(FIRST)
    assert [step.memory.links for step in FIRST.steps] == [(two,), (one, three), (two,)]
    assert FIRST.steps[1].memory == NewMemory(TEXTS[1], id=two, title="Watch", links=(one, three))
    assert FIRST.steps[1].source == Source(SOURCE.file, SOURCE.digest, 40, 70)
    assert one.startswith("night-watch-")


def test_the_same_document_changes_nothing() -> None:
    again = make_plan(
        Source(SOURCE.file, "cd" * 32), [part(text, start=500) for text in TEXTS], stored(FIRST), WISH, free
    )
    assert changes(again) == ["keep"] * 3
    assert stored(again) == stored(FIRST), (
        "the place and digest of what is kept are those of the file it was read from"
    )
    assert again.gone == []


def test_what_is_inserted_renumbers_nothing() -> None:
    parts = [part(text) for text in (TEXTS[0], "Kettle Nine flew a wedding ring.", *TEXTS[1:])]
    made = plan(parts, stored(FIRST))
    assert changes(made) == ["link", "add", "link", "keep"]
    assert [ids(made)[n] for n in (0, 2, 3)] == ids(FIRST)
    assert made.steps[0].memory.links == (ids(made)[1],)


def test_what_changed_a_little_is_the_same_memory() -> None:
    made = plan(
        [part(TEXTS[0]), part("The bell was cast from melted spoons."), part(TEXTS[2])], stored(FIRST)
    )
    assert changes(made) == ["keep", "update", "keep"]
    assert ids(made) == ids(FIRST)
    assert made.gone == []


def test_what_is_another_text_is_another_memory() -> None:
    made = plan(
        [part(TEXTS[0]), part("A toll of three buttons is collected."), part(TEXTS[2])], stored(FIRST)
    )
    assert changes(made) == ["link", "add", "link"]
    assert [gone.id for gone in made.gone] == [ids(FIRST)[1]]
    assert ids(made)[1] not in ids(FIRST)


def test_other_headings_and_places_keep_the_memory() -> None:
    made = plan([part(TEXTS[2], "Geese"), part(TEXTS[0]), part(TEXTS[1])], stored(FIRST))
    assert ids(made) == [ids(FIRST)[2], ids(FIRST)[0], ids(FIRST)[1]]
    assert changes(made)[0] == "update"
    assert "update" not in changes(made)[1:]


def test_another_title_of_a_long_document_keeps_all_memories() -> None:
    texts = [f"The lamp {n} of Odrin is out." for n in range(600)]
    old = plan([part(text) for text in texts])
    made = plan([part(text, "Night watch") for text in texts], stored(old))
    assert ids(made) == ids(old)
    assert changes(made) == ["update"] * 600
    assert made.gone == []


def test_a_paragraph_twice_is_two_memories_and_stays_so() -> None:
    twice = [part(TEXTS[0]), part(TEXTS[1]), part(TEXTS[0], "Elsewhere")]
    made = plan(twice)
    assert ids(made)[2] == f"{ids(made)[0]}-2"
    again = plan(list(reversed(twice)), stored(made))
    assert ids(again) == list(reversed(ids(made)))
    assert "update" not in changes(again)
    once = plan(twice[1:], stored(made))
    assert ids(once) == ids(made)[1:]
    assert [gone.id for gone in once.gone] == ids(made)[:1]


def test_a_text_that_comes_back_does_not_take_the_id_of_what_it_became() -> None:
    edited = plan([part("The lamp of Odrin is bright orange."), *map(part, TEXTS[1:])], stored(FIRST))
    assert ids(edited) == ids(FIRST)
    both = plan([part(TEXTS[0]), *(part(step.memory.text) for step in edited.steps)], stored(edited))
    assert len(set(ids(both))) == 4
    assert ids(both)[1:] == ids(FIRST)
    assert ids(both)[0] == f"{ids(FIRST)[0]}-2"


def test_ids_of_others_are_left_alone() -> None:
    name = part_id(SOURCE.file, TEXTS[0], free)
    assert part_id(SOURCE.file, TEXTS[0], {name, f"{name}-2"}.__contains__) == f"{name}-3"
    assert part_id("/other/Night Watch.md", TEXTS[0], free) != name
    assert part_id("灯.md", TEXTS[0], free).startswith("document-")


def test_tags_are_set_when_given_and_kept_else() -> None:
    parts = [part(text) for text in TEXTS]
    tagged = plan(parts, stored(FIRST), Wish("default", ("watch",)))
    assert changes(tagged) == ["update"] * 3
    assert [step.memory.tags for step in tagged.steps] == [("watch",)] * 3
    assert changes(plan(parts, stored(tagged))) == ["keep"] * 3
    assert changes(plan(parts, stored(tagged), Wish("default", ()))) == ["update"] * 3


def test_links_to_other_memories_stay_and_those_to_what_is_gone_go() -> None:
    known = [one._replace(links=(*one.links, "lantern-ferry")) for one in stored(FIRST)]
    made = plan([part(TEXTS[0]), part(TEXTS[2])], known)
    one, three = ids(made)
    assert [step.memory.links for step in made.steps] == [(three, "lantern-ferry"), (one, "lantern-ferry")]
    alone = plan([part(TEXTS[0])], stored(FIRST))
    assert alone.steps[0].memory.links == ()
    assert alone.steps[0].unlinked == (ids(FIRST)[1],)
    assert alone.steps[0].change == "link"


def test_a_document_that_is_another_one_is_not_compared_for_ever() -> None:
    old = [Known(f"old-{n}", "Watch", f"lamp {n} is out", (), (), SOURCE) for n in range(1000)]
    made = plan([part(f"lamp {n} is on") for n in range(1000)], old)
    assert len(made.gone) == 1000
