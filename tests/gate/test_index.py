"""Keys come, change and go; every search is exact, however it was begun."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.gate.index_samples import DIM, row, vectors
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.gate.index import table as tables
from vllm_mega.gate.index.halves import join, split
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.index.search import candidates
from vllm_mega.gate.index.shelf import Asked, _groups
from vllm_mega.gate.index.table import Table
from vllm_mega.gate.index.tags import Tags
from vllm_mega.gate.selection import ranking, similarity
from vllm_mega.gate.vectors import Vectors


def test_two_halves_are_the_whole_and_the_upper_is_its_bfloat16() -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    numbers[0] = [0, -0.0, 1, -1, np.nextafter(np.float32(1), np.float32(0)), 1e-30, -1e-30, 0.1]
    upper, lower = np.empty((2, 50, 8), np.int16)
    split(numbers, upper, lower)
    np.testing.assert_array_equal(join(upper, lower).view(np.int32), numbers.view(np.int32))
    bare = torch.from_numpy(upper).view(torch.bfloat16).float().numpy()
    assert np.abs(bare - numbers).max() <= 2.0**-8 * np.abs(numbers).max()
    assert np.all(np.abs(bare - numbers) <= 2.0**-8 * np.abs(numbers))


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table of tiny blocks, on a processor with instructions for bfloat16 or without."""
    monkeypatch.setattr(tables, "computes_bfloat16", lambda: request.param == torch.bfloat16)
    monkeypatch.setattr(tables, "BLOCK", 128)
    return Table(DIM)


def test_a_table_of_several_blocks_keeps_what_it_is_given(table: Table) -> None:
    random = np.random.default_rng(1)
    held: list[Vectors] = []
    for step in range(500):
        key = vectors(random, 1)
        if held and random.random() < 0.2:
            hole = int(random.integers(len(held)))
            held[hole] = held[-1]
            held.pop()
            table.drop_last(hole)
        else:
            slot = int(random.integers(len(held))) if held and random.random() < 0.2 else len(held)
            held[slot : slot + 1] = [key]
            table.write(slot, key)
        assert len(table) == len(held), step
    assert len(table) > 128
    every = np.concatenate(held)
    np.testing.assert_array_equal(table.take(np.arange(len(held))), every)
    some = random.permutation(len(held))[:50]
    np.testing.assert_array_equal(table.take(some), every[some])
    queries = vectors(random, 3)
    exact = queries.astype(np.float64) @ every.T
    assert np.abs(table.scan(queries).double().numpy() - exact).max() <= table.error(queries) < 0.02


def test_many_at_once_and_down_to_nothing(table: Table) -> None:
    keys = vectors(np.random.default_rng(2), 300)
    table.write(0, keys)
    np.testing.assert_array_equal(table.take(np.arange(300)), keys)
    for _ in range(300):
        table.drop_last(0)
    assert len(table) == 0
    table.write(0, keys[:2])
    np.testing.assert_array_equal(table.take(np.arange(2)), keys[:2])


def test_a_row_has_the_same_product_whichever_others_there_are() -> None:
    random = np.random.default_rng(3)
    keys, query = vectors(random, 300, 384), vectors(random, 1, 384)[0]
    whole = similarity(keys, query)
    for rows in ([7], [299, 7, 0], random.permutation(300)[:33]):
        np.testing.assert_array_equal(similarity(keys[rows], query), whole[rows])
        np.testing.assert_array_equal(similarity(np.asfortranarray(keys[rows]), query), whole[rows])


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("size", [40, 500, 20_000])
def test_candidates_have_all_of_the_best_whatever_the_error_does(size: int, count: int) -> None:
    random = np.random.default_rng(size + count)
    exact = random.normal(size=size).round(2)
    wrong = torch.from_numpy((exact + random.uniform(-0.05, 0.05, size)).astype(np.float32))
    found = candidates(wrong, count, 0.05 + 1e-6)
    ids = [f"{n:05}" for n in range(size)]
    assert set(ranking(exact, ids, count)) <= set(found.tolist())
    assert len(found) < size or size == count
    assert len(set(found.tolist())) == len(found)


def test_tags_follow_what_is_put_and_dropped() -> None:
    random = np.random.default_rng(4)
    names = ["red", "green", "blue"]
    tags, held = Tags(), dict[int, list[str]]()
    for _ in range(2000):
        slot = int(random.integers(50))
        slot = min(slot, len(tags._puts))
        if slot in held:
            tags.drop(slot, held.pop(slot))
        if random.random() < 0.6:
            held[slot] = [name for name in names if random.random() < 0.4]
            tags.put(slot, held[slot])
        elif slot == len(tags._puts):
            held[slot] = []
            tags.put(slot, [])
    for wanted in (["red"], ["red", "green"], ["blue", "green", "red"], ["nothing"], ["red", "nothing"]):
        found = sorted(tags.having(wanted).tolist())
        assert found == sorted(slot for slot, some in held.items() if set(wanted) <= set(some))
    assert all(len(posting.slots) <= 200 for posting in tags._postings.values()), "nothing is ever cleared"


def test_many_positions_get_tags_at_once_also_those_that_were_dropped() -> None:
    tags = Tags()
    tags.extend(0, [("red", "red"), (), ("red", "blue"), ("blue",)])
    tags.drop(3, ["blue"])
    tags.drop(2, ["red", "blue"])
    tags.extend(2, [("blue",), ("green", "red"), ("red",)])
    found = {tag: sorted(tags.having([tag]).tolist()) for tag in ("red", "green", "blue")}
    assert found == {"red": [0, 3, 4], "green": [3], "blue": [2]}
    assert tags.having(["red", "green"]).tolist() == [3]


def ids(index: Index, passages: Vectors, count: int = 3, *tags: str, namespace: str = "default") -> list[str]:
    [found] = index.search([Asked(namespace, passages, count, tags)])
    return [one.id for one in found.rows]


def test_memories_come_change_and_go() -> None:
    keys = vectors(np.random.default_rng(6), 40)
    index = Index()
    index.put([row(f"m{n}", tags=["even"] * (n % 2 == 0)) for n in range(30)], keys[:30])
    index.put([row("other", namespace="garden")], keys[35:36])
    index.put([row("m3", tags=["even"])], keys[31:32])
    assert ids(index, keys[31:32], 1) == ["m3"]
    assert ids(index, keys[31:32], 1, "even") == ["m3"]
    index.put([row("m3")], keys[31:32])
    assert "m3" not in ids(index, keys[31:32], 30, "even")
    index.drop([MemoryName("default", "m3"), MemoryName("default", "nobody"), MemoryName("nowhere", "m3")])
    assert "m3" not in ids(index, keys[31:32], 30)
    assert (index.count("default"), index.count("default", ["even"]), index.count("nowhere")) == (29, 15, 0)
    index.put([row("m4", adapter=None)], keys[4:5])
    assert "m4" in ids(index, keys[4:5], 30), "a memory without an adapter takes part: it is read"
    assert ids(index, keys[:1], namespace="garden") == ["other"]
    index.drop([MemoryName("garden", "other")])
    assert ids(index, keys[:1], namespace="garden") == []
    assert index.get(["m5", "m3", "other"], Asked("default", keys[:1], 1)).rows[0].id == "m5"


def test_equal_keys_go_by_id_and_so_does_what_cannot_be_read() -> None:
    keys = np.repeat(vectors(np.random.default_rng(7), 1), 3000, axis=0)
    index = Index()
    index.put([row(f"m{n:04}") for n in np.random.default_rng(8).permutation(3000)], keys)
    wanted = [f"m{n:04}" for n in range(5)]
    assert ids(index, keys[:1], 5) == ids(index, keys[:0], 5) == wanted


def test_groups_hold_what_can_be_scanned_at_once() -> None:
    assert list(_groups([1, 2, 3, 4, 5], [60, 4, 65, 1, 63])) == [[1, 2], [3], [4, 5]]
    assert list(_groups([], [])) == []
