from __future__ import annotations

from vllm_mega.memories.documents.pages import Bookmark, page_blocks

LONG = "The lamp house of Odrin stands on the cliff and was built by"


def said(pages: list[str], bookmarks: tuple[Bookmark, ...] = ()) -> list[tuple[int, str]]:
    text, blocks = page_blocks(pages, bookmarks)
    assert all(text[block.start : block.end] == block.text for block in blocks)
    return [(block.level, block.text) for block in blocks]


def test_lines_become_paragraphs() -> None:
    lines = [
        LONG,
        "the carpenter Hanne Brisk.",
        LONG,
        "nobody, says her sister.",
        "\u2022 a bell",
        "\u2022 a lamp",
    ]
    page = "\r\n".join(lines)
    assert said([page]) == [
        (0, f"{LONG} the carpenter Hanne Brisk."),
        (0, f"{LONG} nobody, says her sister."),
        (0, "\u2022 a bell"),
        (0, "\u2022 a lamp"),
    ]


def test_paragraphs_go_on_over_pages() -> None:
    assert said([LONG, "three bakers."]) == [(0, f"{LONG} three bakers.")]


def test_bookmarks_are_headings_where_they_stand() -> None:
    marks = (Bookmark(1, "1. Doors", 0), Bookmark(2, "Codes", 0), Bookmark(1, "Bells", 1))
    page = f"Doors\n{LONG} bakers.\n1.2 Codes\nThe code is 4711."
    assert said([page, "The bell rings."], marks) == [
        (1, "1. Doors"),
        (0, f"{LONG} bakers."),
        (2, "Codes"),
        (0, "The code is 4711."),
        (1, "Bells"),
        (0, "The bell rings."),
    ]


def test_what_is_at_the_edge_of_most_pages_is_no_text() -> None:
    pages = [
        f"Odrin Gazette\nLamp {name} is out, and nobody knows why it is.\npage {n} of 4"
        for n, name in enumerate("abcd")
    ]
    assert [text for _, text in said(pages)] == [
        f"Lamp {name} is out, and nobody knows why it is." for name in "abcd"
    ] or said(pages) == [(0, " ".join(f"Lamp {name} is out, and nobody knows why it is." for name in "abcd"))]


def test_two_pages_have_no_running_heads() -> None:
    assert [text for _, text in said(["Odrin Gazette\nOne.", "Odrin Gazette\nTwo."])] == [
        "Odrin Gazette One.",
        "Odrin Gazette Two.",
    ]


def test_empty_pages_say_nothing() -> None:
    assert page_blocks(["", " \n"], []) == ("", [])
