"""A bank as a reader sees it: all its memories as they are now, their adapters, and their texts on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.follower import Follower, Keys
from vllm_mega.bank.catalog.reading import Adapters, get_version, measure_adapters
from vllm_mega.bank.catalog.records import BankSettings, MemoryName, Row, Version
from vllm_mega.bank.catalog.rows import unknown
from vllm_mega.bank.catalog.store import adapter_folder
from vllm_mega.bank.layout import EmbedderInfo
from vllm_mega.errors import BankMismatchError, MemoryNotFoundError, MemoryNotReadyError


class Library:
    """All memories of a bank as they are now. Thread-safe.

    Nothing changes but in `refresh`; who walks over `rows` while others refresh does it inside `still`.
    """

    def __init__(
        self,
        root: Path | str,
        url: str | None = None,
        *,
        base_fingerprint: str | None = None,
        embedder: EmbedderInfo | None = None,
        keys: Keys | None = None,
    ) -> None:
        """Open the catalog and read all of it, once.

        Args:
            root: the bank's folder.
            url: where its catalog is, if not in the folder: postgresql+psycopg://user@host/database.
            base_fingerprint: of the base model that its adapters shall fit; None: any.
            embedder: that its keys shall be of; None: any.
            keys: is told all keys, now and whenever `refresh` finds others; None: nobody wants them.

        Raises:
            BankNotFoundError: no bank there.
            BankFormatError: a bank of a format or a schema that this vllm_mega does not know.
            BankMismatchError: made for another base model or embedder, or the catalog of another folder.
        """
        self.catalog: Catalog = open_catalog(root, url)
        try:
            check_match(self.catalog.root, self.catalog.settings(), base_fingerprint, embedder)
            self._follower = Follower(self.catalog, keys)
        except BaseException:
            self.catalog.close()
            raise

    @property
    def root(self) -> Path:
        """The bank's folder, absolute."""
        return self.catalog.root

    @property
    def settings(self) -> BankSettings:
        """Base model and embedder."""
        return self._follower.settings

    @property
    def event(self) -> int:
        """Number of the last event that is applied: grows with every change of the bank."""
        return self._follower.number

    @property
    def rows(self) -> Mapping[MemoryName, Row]:
        """Every memory that may answer by its name; a view, that `refresh` changes."""
        return self._follower.rows

    def refresh(self) -> int:
        """Apply what is new, all of it; how many events. Cheap when there are none.

        Raises:
            BankError: the catalog cannot be read; what was known stays.
        """
        return self._follower.refresh()

    @contextmanager
    def still(self) -> Iterator[int]:
        """Refresh; until the end of the block nothing changes, in this process: number of the last event.

        Keep the block short, and do not refresh within: others wait.

        Raises:
            BankError: as `refresh`.
        """
        with self._follower.still():
            yield self.event

    def get(self, namespace: str, memory_id: str) -> Row:
        """The memory `memory_id` of `namespace`.

        Raises:
            MemoryNotFoundError: there is none that may answer.
        """
        name = MemoryName(namespace, memory_id)
        row = self.rows.get(name)
        if row is None:
            raise MemoryNotFoundError(f"{unknown(name)} that answers (a retired one does not)")
        return row

    def folder(self, row: Row) -> Path:
        """Absolute path of the PEFT folder of `row`'s adapter.

        Raises:
            MemoryNotReadyError: it has none (yet); says in which state it is.
            BankFormatError: links lead out of the bank.
        """
        if row.adapter is None:
            raise MemoryNotReadyError(
                f"the memory {row.namespace}/{row.id} has no adapter: it is {row.state}"
            )
        return adapter_folder(self.catalog, row.adapter)

    def component(self, row: Row, weight: float) -> tuple[str, str, float]:
        """The part of a `Mixture` that `row`'s adapter is: its digest, its folder, the weight.

        Raises:
            MemoryNotReadyError, BankFormatError: as `folder`.
        """
        folder = self.folder(row)
        assert row.adapter is not None, "or it would have no folder"
        return row.adapter, str(folder), weight

    def adapters(self) -> Adapters:
        """How many memories have an adapter now, and how large these adapters are.

        Raises:
            BankError: the catalog cannot be read.
        """
        return measure_adapters(self.catalog)

    def version(self, row: Row) -> Version:
        """The version of `row`, with its text.

        Raises:
            MemoryNotFoundError: the memory was forgotten since.
        """
        return get_version(self.catalog, row.namespace, row.id, row.version)

    def close(self) -> None:
        """Close all connections to the catalog; the library is of no more use."""
        self._follower.close()
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_match(
    root: Path, settings: BankSettings, base_fingerprint: str | None, embedder: EmbedderInfo | None
) -> None:
    """Refuse a bank that was made for another base model or embedder; None matches any.

    Raises:
        BankMismatchError: names both.
    """
    base, made = settings.base, settings.embedder
    if base_fingerprint is not None and base.fingerprint != base_fingerprint:
        raise BankMismatchError(
            f"{root} was made for the base model {base.name} (fingerprint {base.fingerprint}), "
            f"but this base model has the fingerprint {base_fingerprint}. "
            "Use that base model, or train a bank for this one"
        )
    if embedder is not None and (made.fingerprint, made.dim) != (embedder.fingerprint, embedder.dim):
        raise BankMismatchError(
            f"{root} was made with the embedder {made.name} (fingerprint {made.fingerprint}, D={made.dim}), "
            f"not with {embedder.name} (fingerprint {embedder.fingerprint}, D={embedder.dim}). "
            "Use that embedder, or make a bank with this one"
        )
