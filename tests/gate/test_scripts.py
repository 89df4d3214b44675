"""The null route holds in every script: what the embedder cannot read opens nothing."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.gate.scripts import BANKS, RELATED, SIGNS, UNRELATED
from vllm_mega.config import GateSettings
from vllm_mega.gate.embedder import Embedder, load_embedder
from vllm_mega.gate.gate import Query, query_vectors
from vllm_mega.gate.reading import READABLE, Reading
from vllm_mega.gate.selection import best_of

THRESHOLD = GateSettings().threshold
PROMPTS = [prompt for prompts in UNRELATED.values() for prompt in prompts]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder()


def opened(embedder: Embedder, language: str, prompts: list[str]) -> list[bool]:
    keys = embedder.embed([memory.text for memory in BANKS[language]])
    found = query_vectors(embedder, [Query(prompt) for prompt in prompts])
    return [bool(best_of(keys, vectors).max() >= THRESHOLD) for vectors in found]


@pytest.mark.parametrize("language", BANKS)
def test_unrelated_prompts_in_twelve_scripts_open_at_most_2_percent(
    embedder: Embedder, language: str
) -> None:
    assert len(UNRELATED) == 12
    assert len(PROMPTS) >= 200
    assert np.mean(opened(embedder, language, PROMPTS)) <= 0.02
    assert not any(opened(embedder, language, SIGNS))


@pytest.mark.parametrize("language", ["English", "German"])
def test_related_questions_are_found_where_the_embedder_can_read_them(
    embedder: Embedder, language: str
) -> None:
    keys = embedder.embed([memory.text for memory in BANKS[language]])
    ids = [memory.id for memory in BANKS[language]]
    for question, wanted in RELATED[language].items():
        scores = best_of(keys, query_vectors(embedder, [Query(question)])[0])
        assert (ids[scores.argmax()], scores.max() >= THRESHOLD) == (wanted, True)


@pytest.mark.parametrize("dialogue", [None, "The ferry of Dunmarrow is pulled by oxen.\nWho pulls it?"])
def test_what_cannot_be_read_has_no_score_whatever_was_said_before(
    embedder: Embedder, dialogue: str | None
) -> None:
    (vectors,) = query_vectors(embedder, [Query(UNRELATED["Thai"][3], dialogue=dialogue)])
    assert vectors.shape == (0, embedder.info.dim)
    assert best_of(np.ones((3, embedder.info.dim), np.float32), vectors).tolist() == [0, 0, 0]


def test_a_dialogue_that_cannot_be_read_says_nothing(embedder: Embedder) -> None:
    question = next(iter(RELATED["English"]))
    talk = f"{question}\n" + "\n".join(UNRELATED["Thai"])
    alone, talked = query_vectors(embedder, [Query(question), Query(question, dialogue=talk)])
    np.testing.assert_array_equal(alone, talked)


@pytest.mark.parametrize(
    "text",
    [
        "2 + 2 = ?",
        "",
        "I",
        "def f(x):\n    return x ** 2",
        "Kto to?",
        "Çok güzel bir gün",
        "What does 你好 mean?",
    ],
)
def test_what_can_be_read(embedder: Embedder, text: str) -> None:
    assert embedder.passages(text) == [text]


def reading(vocabulary: list[str], split: Regex | None = None) -> Reading:
    """Of a tokenizer that knows whole words, or, split by characters, whole characters."""
    ids = {word: number for number, word in enumerate(["<unk>", *vocabulary])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))  # noqa: S106  (no password)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Split(split, "isolated") if split else pre_tokenizers.Whitespace()
    )
    return Reading(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"), 64)  # noqa: S106


def test_an_embedder_that_knows_the_words_reads_them() -> None:
    greek = reading(["Πώς", "βράζω", "ρύζι"])
    assert greek.readable_share("Πώς βράζω ρύζι") == 1
    assert greek.readable_share("Πώς ταξινομώ μια λίστα") < READABLE


def test_characters_are_words_to_those_who_know_most_of_them() -> None:
    every = [chr(point) for point in range(0x4E00, 0xA000)]
    for known, share in ((every, 1), (every[:300], 0)):
        chinese = reading(known, Regex("."))
        assert chinese.readable_share("".join(every[:300:100])) == share


def test_japanese_and_korean_are_read_character_by_character_where_chinese_is() -> None:
    every = [*map(chr, range(0x4E00, 0xA000)), *"きつねの바다에"]
    assert reading(every, Regex(".")).readable_share("きつねの 바다에") == 1
    assert reading([*"きつねの바다에"], Regex(".")).readable_share("きつねの 바다에") == 0


def test_a_token_that_is_but_a_space_is_none_of_a_letter() -> None:
    words = ["\u2581", "λίμνη", *map(chr, range(0x4E00, 0xA000))]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((word, -1.0) for word in words)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert Reading(tokenizer, 64).readable_share("λίμνη 湖") == 1


def test_a_tokenizer_without_a_fast_half_counts_unknown_words() -> None:
    class Slow:
        unk_token_id = 0

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [int(word.isascii()) for word in text.split()]}

    slow = Reading(Slow(), 64)
    assert slow.counts(["one two", "ένα"]) == [2, 1]
    assert slow.passages("one two") == ["one two"]
    assert slow.passages("ένα two δύο") == []
