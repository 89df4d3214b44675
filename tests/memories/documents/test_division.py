from __future__ import annotations

import random

import pytest

from tests.memories.documents.made import HANDBOOK, words
from vllm_mega.errors import ConfigError
from vllm_mega.memories.documents.blocks import Document
from vllm_mega.memories.documents.division import Size, divide
from vllm_mega.memories.documents.markdown import markdown_blocks
from vllm_mega.memories.documents.plain import plain_blocks
from vllm_mega.memories.documents.sections import Part, document_parts, title_of
from vllm_mega.memories.documents.units import Border, Unit

SIZE = Size(60)


def parts(text: str, size: Size = SIZE, *, plain: bool = False) -> list[Part]:
    blocks = plain_blocks(text) if plain else markdown_blocks(text)
    return document_parts(Document("notes", "", "notes", tuple(blocks)), text, words, size)


def facts(count: int, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    return [f"The lamp {n} of Odrin burns " + "on " * chance.randint(2, 14) + "oil." for n in range(count)]


def test_a_handbook_by_its_sections() -> None:
    found = parts(HANDBOOK)
    assert [(part.title, part.text) for part in found] == [
        ("Handbook", "The lamp house of Odrin is run by three keepers."),
        ("Handbook > Doors", "The blue door opens on Mondays. Nobody knows who painted it."),
        ("Handbook > Doors > Codes", "- The cellar has the code 4711.\n- The attic has the code 1902."),
        ("Handbook > Bells", "The bell was cast from melted spoons."),
    ]
    for part in found:
        assert HANDBOOK[part.start : part.end].split() == part.text.split()
    assert HANDBOOK[found[1].start : found[1].end].startswith("The blue door")


def test_a_document_without_a_title_has_the_name_of_its_file() -> None:
    assert [part.title for part in parts("# Doors\n\na\n\n# Bells\n\nb")] == [
        "notes > Doors",
        "notes > Bells",
    ]
    assert [part.title for part in parts("before\n\n# Doors\n\na")] == ["notes", "notes > Doors"]
    assert [part.title for part in parts("a", plain=True)] == ["notes"]


def test_long_titles_keep_their_end() -> None:
    way = ["Handbook " * 8, "Doors " * 8, "Codes of the cellar"]
    assert title_of(way) == " > ".join(way[1:])
    assert title_of(["lamp " * 40]) == ("lamp " * 23).strip() + "..."


def test_sizes_are_kept() -> None:
    tokens = [part.tokens for part in parts("\n\n".join(facts(300)))]
    assert max(tokens) <= 60
    assert min(tokens) >= SIZE.least == 12
    assert sum(tokens) == sum(words(facts(300)))


def test_nothing_is_lost_and_nothing_comes_twice() -> None:
    text = "\n\n".join([*facts(50), "one " * 500, "x" * 900, "The end. " * 40])
    joined = "".join("".join(part.text.split()) for part in parts(text))
    assert joined == "".join(text.split())


def test_better_borders_first() -> None:
    first, second = "A lamp burns here. " * 11, "The bell rings there. " * 11
    found = parts(f"{first}\n\n{second}")
    assert [part.text for part in found] == [first.strip(), second.strip()]


def test_sentences_are_divided_only_when_they_must_be() -> None:
    text = " ".join(facts(30))
    assert all(part.text.endswith("oil.") for part in parts(text, plain=True))
    assert [part.tokens for part in parts("on " * 61, plain=True)] != [61]


def test_rows_come_with_the_header_of_their_table() -> None:
    rows = [f"| door {n} | the code of it is {n} and nobody knows |" for n in range(20)]
    header = "| door | code |\n| --- | --- |"
    found = parts("\n".join([header, *rows]))
    assert len(found) > 3
    assert all(part.text.startswith(header) for part in found)
    assert [line for part in found for line in part.text.split("\n") if line in rows] == rows


@pytest.mark.parametrize("between", ["\n", "\n\n"])
@pytest.mark.parametrize("at", [0, 7, 150, 300])
def test_what_is_inserted_changes_its_neighbours_alone(between: str, at: int) -> None:
    lines = facts(300)
    before = {part.text for part in parts(between.join(lines), plain=True)}
    lines.insert(at, "The bell of Harrowick rings for every lamp that goes out.")
    after = {part.text for part in parts(between.join(lines), plain=True)}
    assert len(before) > 60
    assert 1 <= len(before - after) <= 3
    assert 1 <= len(after - before) <= 4


def test_lines_of_one_length_are_no_worse() -> None:
    lines = [f"The lamp number {n} of Odrin burns on oil." for n in range(300)]
    before = {part.text for part in parts("\n".join(lines), plain=True)}
    after = {part.text for part in parts("\n".join(["The bell is out.", *lines]), plain=True)}
    assert len(before - after) <= 3


def test_thousands_of_equal_lines_are_divided_at_once() -> None:
    found = parts("The lamp is out.\n" * 20_000, plain=True)
    assert max(part.tokens for part in found) <= 60
    assert sum(part.tokens for part in found) == 80_000


def test_a_row_that_no_border_divides_well_is_divided_all_the_same() -> None:
    units = [Unit(0, n, n + 1, str(n), Border.BLOCK) for n in range(2)]
    assert divide(units, [3, 59], Size(60)) == [range(1), range(1, 2)]
    assert divide([], [], Size(60)) == []


def test_sizes_out_of_range_are_refused() -> None:
    assert Size.of(16).most == 16
    for most in (15, 1025, -1):
        with pytest.raises(ConfigError, match=f"16 to 1024 tokens, not {most}"):
            Size.of(most)
