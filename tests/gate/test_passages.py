"""Long texts: in passages that lose nothing, and windows that make one key."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vllm_mega.gate.embedder import Embedder, load_embedder
from vllm_mega.gate.gate import Query, query_vectors
from vllm_mega.gate.passages import ends, passages
from vllm_mega.gate.reading import MOST, SHORT
from vllm_mega.gate.selection import best_of

MEMORY = "Oskar Lindqvist keeps a grey parrot called Admiral, who counts only to six."
QUESTION = "What is Oskar's parrot called?"
LOG = [
    f"2031-04-{10 + n % 19} 07:{n:02}:13 WARN httpd[{411 + n}]: worker {n} timed out after 30 s"
    for n in range(60)
]
THRESHOLD = 0.4


def words(texts: list[str]) -> list[int]:
    """Counts words."""
    return [len(text.split()) for text in texts]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder()


@pytest.mark.parametrize(
    ("text", "size", "parts"),
    [
        ("One two. Three four. Five.", 4, ["One two. Three four.", "Five."]),
        ("one\ntwo\n\nthree", 2, ["one two", "three"]),
        ("a b c d e f g h i", 4, ["a b c d", "e f", "g h i"]),
        ("", 4, []),
        (" \n ", 4, []),
    ],
)
def test_passages(text: str, size: int, parts: list[str]) -> None:
    assert passages(text, size, words) == parts


def test_a_text_without_any_place_to_divide_it_is_divided_all_the_same() -> None:
    def signs(texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    found = passages("x" * 100, 16, signs)
    assert "".join(found) == "x" * 100
    assert max(map(len, found)) <= 16


def test_ends() -> None:
    assert ends(list("abcdef"), 6) == list("abcdef")
    assert ends(list("abcdef"), 5) == list("abcef")


@pytest.mark.parametrize("lines", [25, 60], ids=["1,000 tokens", "2,400 tokens"])
@pytest.mark.parametrize("place", ["before", "behind", "between"])
def test_a_question_beside_pasted_text_opens_the_gate(embedder: Embedder, place: str, lines: int) -> None:
    log = LOG[:lines]
    at = {"before": 0, "behind": lines, "between": lines // 2}[place]
    text = "\n".join([*log[:at], QUESTION, *log[at:]])
    keys = embedder.embed([MEMORY])
    (asked,), (pasted,) = (
        best_of(keys, vectors) for vectors in query_vectors(embedder, [Query(text), Query("\n".join(log))])
    )
    assert asked >= THRESHOLD > pasted


def test_a_short_query_is_one_passage_a_long_one_has_the_whole_and_at_most_so_many(
    embedder: Embedder,
) -> None:
    assert embedder.passages(QUESTION) == [QUESTION]
    middle = " ".join(LOG[:3])
    assert embedder.passages(middle)[0] == middle
    assert len(embedder.passages(middle)) > 1
    endless = "\n".join(f"The lamp number {n} of the long hall was lit again." for n in range(2000))
    found = embedder.passages(endless)
    assert len(found) == MOST
    assert "number 0 " in found[0]
    assert "number 1999 " in found[-1]
    assert SHORT < 254


STORY = (
    "The wind mill of Harn has blue sails. ",
    "Its miller Petra Ohm collects brass keys. ",
    "A goat named Thunder turns the mill when there is no wind. ",
)


def test_the_end_of_a_long_memory_is_worth_as_much_as_its_beginning(embedder: Embedder) -> None:
    """One vector a memory: the mean of windows. The second half of the old keys' texts was never read."""
    filler = "People of the valley bring their rye in carts and wait their turn at the gate. " * 30
    first, last = (embedder.embed([text])[0] for text in (MEMORY + " " + filler, filler + MEMORY))
    (question,) = embedder.embed(["Who is the grey parrot that counts to six?"])
    assert abs(first @ question - last @ question) < 0.1
    assert last @ question > 0.6 * (first @ question)


def test_a_long_text_is_the_mean_of_its_windows_whatever_else_is_in_the_call(embedder: Embedder) -> None:
    long = " ".join("".join(order) for order in itertools.permutations(STORY)) * 3
    together = embedder.embed([QUESTION, long, MEMORY])
    alone = np.concatenate([embedder.embed([text]) for text in (QUESTION, long, MEMORY)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
