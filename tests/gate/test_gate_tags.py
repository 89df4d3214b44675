"""Tags narrow the memories that a query may have, and nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.banks import WHO
from tests.gate.banks import CHESS, FERRY, KILN, ORCHID, add, open_gate
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.changes import tag
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.config import GateSettings
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Query
from vllm_mega.mixture import EMPTY

OPEN = GateSettings(top_k=64, threshold=-1.0, beta=0.0)
TAGGED = [
    msgspec.structs.replace(KILN, tags=("craft", "blue")),
    msgspec.structs.replace(FERRY, tags=("craft",), links=("chess",)),
    CHESS,
    msgspec.structs.replace(ORCHID, tags=("secret", "blue")),
]


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    add(tmp_path / "tagged", FakeEmbedder(), TAGGED)
    return tmp_path / "tagged"


def tagged_query(*tags: str, text: str = KILN.text, namespace: str = "default") -> Query:
    return Query(text, namespace, OPEN, tags=tags)


@pytest.mark.parametrize(
    ("tags", "ids"),
    [((), {"kiln", "ferry", "chess"}), (("craft",), {"kiln", "ferry"}), (("blue", "craft"), {"kiln"})],
)
def test_a_memory_must_have_all_tags(tagged: Path, tags: tuple[str, ...], ids: set[str]) -> None:
    gate = open_gate(tagged, FakeEmbedder())
    decision, shown = gate.explain(tagged_query(*tags))
    assert {hit.id for hit in decision.hits} == {hit.id for hit in shown} == ids
    (whole,) = gate.decide([tagged_query()])
    scores = {hit.id: hit.score for hit in whole.hits}
    assert {hit.id: hit.score for hit in decision.hits} == {name: scores[name] for name in ids}


def test_the_best_score_is_of_the_memories_that_take_part(tagged: Path) -> None:
    queries = [tagged_query(*tags, text=CHESS.text) for tags in (("craft",), ())]
    far, near = open_gate(tagged, FakeEmbedder()).decide(queries)
    assert near.best_score == 1.0
    assert far.best_score == max(hit.score for hit in far.hits if hit.score is not None) < 0.9


def test_a_tag_that_no_memory_has_opens_nothing(tagged: Path) -> None:
    gate = open_gate(tagged, FakeEmbedder())
    asked = [("nothing",), ("craft", "nothing"), ("blue", "secret"), ("secret",), ("Craft",)]
    for tags in asked:
        decision, shown = gate.explain(tagged_query(*tags, text=ORCHID.text))
        assert (decision.mixture, decision.hits, decision.best_score, shown) == (EMPTY, (), None, ()), tags


def test_tags_of_another_namespace_do_not_leak(tagged: Path) -> None:
    gate = open_gate(tagged, FakeEmbedder())
    mine, theirs, nobody = gate.decide(
        [tagged_query("blue", text=ORCHID.text, namespace=space) for space in ("default", "garden", "nobody")]
    )
    assert [hit.id for hit in mine.hits] == ["kiln"]
    assert [hit.id for hit in theirs.hits] == ["orchid"]
    assert (nobody.hits, nobody.best_score) == ((), None)


def test_links_lead_to_no_memory_without_the_tags(tagged: Path) -> None:
    settings = GateSettings(top_k=3, threshold=0.45, beta=1.0, link_share=0.9)
    plain, narrow = open_gate(tagged, FakeEmbedder()).decide(
        [Query(FERRY.text, settings=settings, tags=tags) for tags in ((), ("craft",))]
    )
    assert [hit.id for hit in plain.hits] == ["ferry", "chess"]
    assert [hit.id for hit in narrow.hits] == ["ferry"]


def test_queries_with_tags_get_the_same_alone_and_among_others(tagged: Path) -> None:
    tags: list[tuple[str, ...]] = [(), ("craft",), ("blue",), ("nothing",), ("craft", "blue"), ("craft",)]
    queries = [tagged_query(*some, text=text) for some in tags for text in (KILN.text, FERRY.text, "blue")]
    queries += [tagged_query("blue", namespace="garden")]
    gate = open_gate(tagged, FakeEmbedder())
    together = gate.decide(queries)
    assert [open_gate(tagged, FakeEmbedder()).decide([query])[0] for query in queries] == together
    assert gate.decide(queries[::-1]) == together[::-1]


def test_a_tag_that_changes_is_seen(tagged: Path) -> None:
    gate = open_gate(tagged, FakeEmbedder())
    assert gate.decide([tagged_query("blue")])[0].hits[0].id == "kiln"
    with open_catalog(tagged) as catalog:
        tag(catalog, MemoryName("default", "kiln"), WHO, remove=["craft", "blue"])
        tag(catalog, MemoryName("default", "chess"), WHO, add=["blue"])
    (decision,) = gate.decide([tagged_query("blue")])
    assert [hit.id for hit in decision.hits] == ["chess"]
