"""What is told before anything is trained or served, of memories and embedders that will disappoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bank.samples import BASE
from tests.gate.banks import CHESS, FERRY, KILN, ORCHID, add
from tests.gate.scripts import BANKS
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.keys import BankKeys, read_keys
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.gate.advice import advice, crowded
from vllm_mega.gate.embedder import Embedder, FakeEmbedder, load_embedder
from vllm_mega.gate.vectors import Vectors, unit
from vllm_mega.hook import opening
from vllm_mega.models import DEFAULT_MODEL

OLD = NewMemory("The code of the side door of the mill is 4471.", id="old")
NEW = NewMemory("The code of the side door of the mill is 9036.", id="new")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder()


class Crowded(FakeEmbedder):
    """All that it sees lies in one direction, nearly."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = super().embed(texts)
        vectors[:, 0] += 2
        return unit(vectors)


def told(memories: Sequence[NewMemory], embedder: Embedder, bank: BankKeys | None = None) -> list[str]:
    return advice(memories, embedder.embed([memory.text for memory in memories]), embedder, bank)


def test_ordinary_memories_get_none(embedder: Embedder) -> None:
    assert told([KILN, FERRY, CHESS, ORCHID, *BANKS["English"][1:], *BANKS["German"][1:2]], embedder) == []


@pytest.mark.parametrize("language", ["Chinese", "Arabic"])
def test_memories_that_the_embedder_cannot_read(embedder: Embedder, language: str) -> None:
    (line,) = told([KILN, *BANKS[language]], embedder)
    assert "all-MiniLM-L6-v2 cannot read these memories" in line
    assert "--embedder" in line
    assert line.endswith(": default/ferry, default/parrot, default/light")


@pytest.mark.parametrize("text", ["Call Mum", "Buy milk!", "Dentist: Tuesday", "Renew passport in May"])
def test_texts_of_a_few_words(embedder: Embedder, text: str) -> None:
    (line,) = told([KILN, NewMemory(text, id="note")], embedder)
    assert "4 words or fewer" in line
    assert line.endswith(": default/note")
    assert text not in line


def test_memories_that_nearly_coincide(embedder: Embedder) -> None:
    (line,) = told([OLD, KILN, NEW], embedder)
    assert "give its id with the new text, or forget the old one (vllm-mega bank forget)" in line
    assert line.endswith(": default/old and new (0.92)")


def test_with_those_of_the_bank_of_the_same_namespace_but_not_with_what_they_replace(
    tmp_path: Path, embedder: Embedder
) -> None:
    root = tmp_path / "bank"
    add(root, embedder, [OLD, NewMemory(NEW.text, id="other", namespace="elsewhere")])
    with open_catalog(root) as catalog:
        bank = read_keys(catalog)
    (line,) = told([NEW], embedder, bank)
    assert line.endswith(": default/new and old, which the bank has (0.92)")
    assert told([NewMemory(NEW.text, id="old")], embedder, bank) == []


def test_of_many_the_first_are_named(embedder: Embedder) -> None:
    names = ["Ada", "Bo", "Cy", "Di", "Eli", "Fay", "Gus", "Hal", "Ida", "Jo", "Kit", "Lou"]
    notes = [NewMemory(f"{name} again", id=name) for name in names]
    line = told(notes, embedder)[0]
    assert line.endswith("default/Ida, default/Jo and 2 more")


def test_embedders_that_tell_prompts_apart_pass(embedder: Embedder) -> None:
    assert crowded(embedder, GateSettings()) is None


@pytest.mark.parametrize("name", ["invented", f"base:{DEFAULT_MODEL}"])
def test_embedders_for_which_everything_is_near(name: str) -> None:
    embedder = Crowded() if name == "invented" else load_embedder(name)
    why = crowded(embedder, GateSettings())
    assert why is not None
    assert f"for the embedder {embedder.info.name} everything is near" in why
    assert "--embedder" in why
    assert "--threshold" in why
    assert crowded(embedder, GateSettings(threshold=0.999)) is None


def test_a_server_tells_it_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "bank"
    add(root, Crowded(), [KILN])
    monkeypatch.setattr(opening, "bank_embedder", lambda *_, **__: Crowded())
    monkeypatch.setattr(opening, "resolve_model", Path)
    monkeypatch.setattr(opening, "fingerprint", lambda _: BASE.fingerprint)
    with caplog.at_level(logging.WARNING):
        opening.gate_embedder(MegaSettings(str(root)), "model", 4)
    assert "everything is near" in caplog.text
