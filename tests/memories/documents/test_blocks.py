from __future__ import annotations

import pytest

from tests.memories.documents.made import HANDBOOK
from vllm_mega.memories.documents.blocks import Places
from vllm_mega.memories.documents.markdown import markdown_blocks
from vllm_mega.memories.documents.plain import plain_blocks


def said(text: str) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in markdown_blocks(text)]


def test_a_handbook_has_headings_paragraphs_and_lists() -> None:
    assert said(HANDBOOK) == [
        (1, "Handbook"),
        (0, "The lamp house of Odrin is run by three keepers."),
        (2, "Doors"),
        (0, "The blue door opens on Mondays. Nobody knows who painted it."),
        (3, "Codes"),
        (0, "- The cellar has the code 4711.\n- The attic has the code 1902."),
        (2, "Bells"),
        (0, "The bell was cast from melted spoons."),
    ]


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_ends_of_lines_make_no_difference(newline: str) -> None:
    assert said(HANDBOOK.replace("\n", newline)) == said(HANDBOOK)


def test_headings_are_read_as_they_are_shown() -> None:
    assert said("## The *blue* `door` [of](http://a.b) lamps ##\n\nx") == [
        (2, "The blue door of lamps"),
        (0, "x"),
    ]
    assert said("Bells\nand lamps\n===\n\nx")[0] == (1, "Bells and lamps")


def test_what_is_no_text_is_left_out() -> None:
    text = "---\ntitle: Lamps\nby: Oona\n---\n\n<!-- a\nnote -->\n\nThe lamp.\n\n---\n\n[a]: http://a.b\n"
    assert said(text) == [(0, "The lamp.")]


def test_a_rule_at_the_beginning_is_no_front_matter() -> None:
    assert said("---\n\nThe lamp.\n\n---\n\nThe bell.") == [(0, "The lamp."), (0, "The bell.")]


def test_breaks_on_purpose_stay() -> None:
    assert said("one\ntwo  \nthree\\\nfour") == [(0, "one two\nthree\\\nfour")]


def test_headings_in_code_and_quotes_are_none() -> None:
    assert said("```\n# no\n```\n\n> # neither") == [(0, "```\n# no\n```"), (0, "> # neither")]


def test_tables_have_a_lead_and_rows() -> None:
    (table,) = markdown_blocks("| door | code |\n| --- | --- |\n| blue | 1 |\n| red | 2 |\n")
    assert table.lead == "| door | code |\n| --- | --- |"
    assert [table.text[row:].split("\n")[0] for row in table.rows] == ["| blue | 1 |", "| red | 2 |"]


def test_items_are_rows_and_their_other_lines_are_not() -> None:
    (block,) = markdown_blocks("- one\n  goes on\n- two\n  - inner\n\n- three\n")
    assert [block.text[row:].split("\n")[0] for row in block.rows] == ["- two", "- three"]


def test_every_block_knows_where_it_stands() -> None:
    text = HANDBOOK.replace("\n", "\r\n")
    for block in markdown_blocks(text):
        if not block.level:
            assert text[block.start : block.end].split() == block.text.split()


def test_spans_of_parts_of_a_block() -> None:
    text = "First line\r\n  goes on. Second one.\r\n"
    (block,) = markdown_blocks(text)
    start = block.text.index("Second")
    places = Places(text, block)
    assert text[slice(*places.span(start, len(block.text)))] == "Second one."
    assert text[slice(*places.span(0, start - 1))] == "First line\r\n  goes on."


def test_wrapped_prose_becomes_one_line() -> None:
    text = (
        "The lamp house of Odrin was built by the carpenter\nHanne Brisk, who had never seen the sea, and "
        "was\npainted orange.\n \t\nShort."
    )
    assert [block.text for block in plain_blocks(text)] == [
        "The lamp house of Odrin was built by the carpenter Hanne Brisk, who had never seen the sea, and was "
        "painted orange.",
        "Short.",
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_facts_keep_their_lines(newline: str) -> None:
    lines = [
        "The cellar of the lamp house has the code 4711.",
        "The attic has the code 1902, since May.",
        "# no",
    ]
    (block,) = plain_blocks(newline.join(lines) + newline * 3)
    assert block.text == "\n".join(lines)
    assert [block.text[row:].split("\n")[0] for row in block.rows] == lines[1:]


def test_plain_text_has_no_headings_and_pages_end_paragraphs() -> None:
    assert [(b.level, b.text) for b in plain_blocks("# one\ftwo\n\n\n\nthree")] == [
        (0, "# one"),
        (0, "two"),
        (0, "three"),
    ]
