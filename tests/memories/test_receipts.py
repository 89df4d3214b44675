"""Receipts for forgotten memories: what they say, who signed them, and what is left of what they name."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.bank.samples import BASE, SHAPES, files_with, write_adapter
from tests.banks import Item, make_bank, problems
from vllm_mega.bank.catalog import database
from vllm_mega.bank.catalog.catalog import CATALOG_FILE, Catalog, open_catalog
from vllm_mega.bank.catalog.forgetting import Receipt, forget
from vllm_mega.bank.catalog.jobs import request_training
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.store import adapter_folder
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.errors import BankError, BankFormatError
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Decision, Gate, Query
from vllm_mega.gate.index.index import Index
from vllm_mega.memories.receipts.issuing import issue
from vllm_mega.memories.receipts.key import bank_key, read_key
from vllm_mega.memories.receipts.signing import (
    SignedReceipt,
    public_key,
    read_receipt,
    sign,
    signature_problem,
    write_receipt,
)
from vllm_mega.memories.receipts.verifying import left

EMBEDDER = FakeEmbedder(8)
SECRET = NewMemory("The vault of Marrowgate opens at the third bell.", id="vault", title="Marrowgate vault")
OTHERS = [NewMemory(f"Lamp {n} of the harbour burns {n} nights.", id=f"lamp-{n}") for n in range(40)]
VAULT = MemoryName("default", "vault")


def item(tmp_path: Path, memory: NewMemory, seed: int) -> Item:
    folder = write_adapter(tmp_path / f"made-{seed}", seed)
    return Item(memory, folder, EMBEDDER.embed([memory.text])[0])


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank with many memories, of which one is secret."""
    items = [item(tmp_path, memory, seed) for seed, memory in enumerate([*OTHERS[:20], SECRET, *OTHERS[20:]])]
    make_bank(tmp_path / "bank", items, embedder=EMBEDDER.info)
    return tmp_path / "bank"


@pytest.fixture
def catalog(bank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    with open_catalog(bank) as opened:
        yield opened


def forgotten(catalog: Catalog, *names: MemoryName) -> SignedReceipt:
    key = bank_key(catalog)
    return issue(catalog, forget(catalog, names or (VAULT,), "mira"), key)


def test_a_receipt_names_what_was_removed_and_says_nothing_of_it(catalog: Catalog) -> None:
    with Library(catalog.root) as library:
        adapter = library.get("default", "vault").adapter
    assert adapter is not None
    receipt = forgotten(catalog).statement.forgotten
    [memory] = receipt.memories
    assert (memory.event.who, memory.event.id, memory.event.number) == ("mira", "vault", 42)
    [version] = memory.versions
    key = EMBEDDER.embed([SECRET.text])[0].tobytes()
    assert version.text == text_digest(SECRET)
    assert version.key == hashlib.sha256(key).hexdigest()
    assert (version.adapter, receipt.removed, receipt.kept, receipt.erased) == (adapter, (adapter,), (), True)
    assert memory.job == ""
    written = msgspec.json.encode(receipt)
    assert not [word for word in (b"Marrowgate", b"third bell", key.hex().encode()) if word in written]


def test_nothing_of_a_forgotten_memory_is_in_the_folder(catalog: Catalog) -> None:
    key = EMBEDDER.embed([SECRET.text])[0].tobytes()
    with Library(catalog.root) as library:
        folder = library.folder(library.get("default", "vault"))
    weights = (folder / "adapter_model.safetensors").read_bytes()[-64:]
    needles = (b"third bell", b"Marrowgate", key, weights, folder.name.encode())
    if not all(files_with(catalog.root, needle) for needle in needles):
        catalog.database.erase()  # rows may be in the log, page by page
    assert all(files_with(catalog.root, needle) for needle in needles), "this test looks at nothing"
    forgotten(catalog)
    assert [needle for needle in needles if files_with(catalog.root, needle)] == []
    assert problems(catalog.root, SHAPES) == [], "the key for receipts is part of a bank"


def test_the_file_of_the_catalog_is_written_anew(catalog: Catalog) -> None:
    """What SQLite moved between pages stays in gaps that it does not overwrite."""
    key = bank_key(catalog)
    plain = forget(catalog, [MemoryName("default", memory.id) for memory in OTHERS], "mira")
    assert free_pages(catalog) > 0, "this test looks at nothing"
    assert issue(catalog, plain, key).statement.forgotten.erased
    assert free_pages(catalog) == 0


def free_pages(catalog: Catalog) -> int:
    with catalog.database.read() as connection:
        return int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())


def test_the_gate_decides_as_in_a_bank_that_never_had_it(catalog: Catalog, tmp_path: Path) -> None:
    items = [item(tmp_path, memory, seed) for seed, memory in enumerate(OTHERS, 100)]
    make_bank(tmp_path / "never", items, embedder=EMBEDDER.info)
    asked = Query("The vault of Marrowgate", settings=GateSettings(top_k=41, threshold=0.0))
    assert "vault" in hits(catalog.root, asked), "this test looks at nothing"
    forgotten(catalog)
    assert hits(catalog.root, asked) == hits(tmp_path / "never", asked) != {}


def hits(bank: Path, query: Query) -> dict[str, tuple[float, float]]:
    """Score and weight of what the gate chooses."""
    index = Index()
    with Library(bank, embedder=EMBEDDER.info, keys=index) as library:
        [decision] = Gate(library, index, EMBEDDER).decide([query])
    assert isinstance(decision, Decision)
    return {hit.id: (hit.score, hit.weight) for hit in decision.hits}


def test_a_verified_receipt(catalog: Catalog) -> None:
    receipt = read_receipt(write_receipt(forgotten(catalog)))
    assert left(catalog, receipt) == []


def test_a_job_is_named_and_ended(catalog: Catalog) -> None:
    request_training(catalog, [VAULT], "ann")
    assert forgotten(catalog).statement.forgotten.memories[0].job == "waiting"


def test_an_adapter_that_others_have_stays_theirs(catalog: Catalog, tmp_path: Path) -> None:
    twin = item(tmp_path, msgspec.structs.replace(SECRET, id="twin"), 20)
    [memory] = make_bank(catalog.root, [twin], embedder=EMBEDDER.info)
    receipt = forgotten(catalog)
    assert (receipt.statement.forgotten.removed, receipt.statement.forgotten.kept) == ((), (memory.adapter,))
    assert left(catalog, receipt) == [], "the twin was there before"


def test_what_comes_back_is_told(catalog: Catalog, tmp_path: Path) -> None:
    receipt = forgotten(catalog)
    [memory] = make_bank(catalog.root, [item(tmp_path, SECRET, 20)], embedder=EMBEDDER.info)
    assert [(p.kind, p.where) for p in left(catalog, receipt)] == [
        ("text", "default/vault"),
        ("adapter", memory.adapter),
        ("adapter", f"adapters/{str(memory.adapter)[:2]}/{memory.adapter}"),
    ]


def test_files_that_come_back_are_told(catalog: Catalog) -> None:
    receipt = forgotten(catalog)
    [adapter] = receipt.statement.forgotten.removed
    adapter_folder(catalog, adapter).mkdir(parents=True)
    assert [p.kind for p in left(catalog, receipt)] == ["adapter"]


def test_a_long_read_is_told_until_the_file_is_written_anew(catalog: Catalog, bank: Path) -> None:
    with open_catalog(bank) as reader, reader.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM memories").all()
        receipt = forgotten(catalog)
        assert not receipt.statement.forgotten.erased
    assert {p.kind for p in left(catalog, receipt)} == {"bytes"}
    assert catalog.database.erase(rewrite=True)
    assert left(catalog, receipt) == []


def test_a_row_that_somebody_brings_back_is_told(catalog: Catalog) -> None:
    receipt = forgotten(catalog)
    row = receipt.statement.forgotten.memories[0].row

    def act(connection: object) -> None:
        connection.exec_driver_sql(  # type: ignore[attr-defined]
            "INSERT INTO memories (row, namespace, id, state, newest, current, pinned, added, changed) "
            "VALUES (?, 'default', 'ghost', 'pending', 1, 1, 0, 0.0, 0.0)",
            (row,),
        )

    catalog.database.write(act)
    assert [(p.kind, p.where) for p in left(catalog, receipt)] == [("memory", "default/vault")]


def test_uses_that_are_still_there_are_told(catalog: Catalog) -> None:
    receipt = forgotten(catalog)
    row = receipt.statement.forgotten.memories[0].row
    with closing(sqlite3.connect(catalog.root / CATALOG_FILE)) as careless, careless:
        careless.execute("INSERT INTO uses VALUES (?, 1.0, 0.0)", (row,))
    (told,) = left(catalog, receipt)
    assert (told.kind, told.where, told.problem) == (
        "memory",
        "default/vault",
        f"there are uses of row {row}",
    )


def test_only_the_bank_can_have_signed_it(catalog: Catalog, tmp_path: Path) -> None:
    receipt = forgotten(catalog)
    statement, gone = receipt.statement, receipt.statement.forgotten
    name, key = catalog.name, public_key(read_key(catalog))
    assert signature_problem(receipt, name, key) is None
    changed = msgspec.structs.replace(statement, forgotten=Receipt((), gone.removed, (), erased=True))
    stranger = sign(gone, name, Ed25519PrivateKey.generate())
    for wrong in (
        msgspec.structs.replace(receipt, statement=changed),
        msgspec.structs.replace(receipt, signature="00" * 64),
        msgspec.structs.replace(receipt, signature="no digits"),
        stranger,
    ):
        assert [p.kind for p in left(catalog, wrong)] == ["receipt"]
        assert "its signature is not that of the key" in left(catalog, wrong)[0].problem
    make_bank(tmp_path / "other", base=BASE)
    with open_catalog(tmp_path / "other") as other:
        bank_key(other)
        assert "it is of the bank" in left(other, receipt)[0].problem


def test_a_file_that_is_no_receipt_is_refused() -> None:
    with pytest.raises(BankError, match="expected a receipt, as `bank forget --receipt` writes it"):
        read_receipt(b'{"statement": {}}')


def test_the_key_is_its_owners_alone_and_stays(catalog: Catalog) -> None:
    made = public_key(bank_key(catalog))
    path = catalog.root / "receipt.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key(bank_key(catalog)) == made
    path.chmod(0o640)
    with pytest.raises(BankError, match=r"others can use .* chmod 600"):
        bank_key(catalog)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(BankFormatError, match="holds no key"):
        bank_key(catalog)


def test_a_bank_without_a_key_has_signed_nothing(catalog: Catalog) -> None:
    with pytest.raises(BankError, match=r"receipt\.key, cannot be read"):
        read_key(catalog)
