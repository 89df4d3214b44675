"""What `vllm-mega bank` does to forget memories, and with receipts for that."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_mega.commands._bank import named, opened
from vllm_mega.commands._who import who

if TYPE_CHECKING:
    from vllm_mega.bank.catalog.catalog import Catalog
    from vllm_mega.bank.catalog.check import Problem
    from vllm_mega.bank.catalog.forgetting import Receipt

_MODE = 0o600
"""Of receipts: who guesses a text finds its digest there."""


def forget(args: argparse.Namespace) -> int:
    """Forget memories, by their ids or by where they came from."""
    with opened(args) as catalog:
        if args.receipt is None:
            receipt = _forget(args, catalog)
        else:
            receipt = _with_receipt(catalog, args.receipt, lambda: _forget(args, catalog))
        for event in receipt.events:
            print(f"forgot {event.namespace}/{event.id} (event {event.number})")
        if not receipt.erased:
            print(not_erased(catalog))
    return 0


def not_erased(catalog: Catalog) -> str:
    """Why the texts may still be in the database's own files, and what helps."""
    if catalog.database.sqlite:
        return "a long read is in the way: the log has the texts until bank sweep --rewrite"
    return "PostgreSQL has the texts in its files until VACUUM FULL has run"


def contradictions(catalog: Catalog, path: Path) -> list[Problem]:
    """What contradicts the receipt at `path`."""
    from vllm_mega.errors import BankError
    from vllm_mega.memories.receipts.signing import MOST, read_receipt
    from vllm_mega.memories.receipts.verifying import left
    from vllm_mega.regular_file import read_regular

    try:
        data = read_regular(path, MOST)
    except OSError as error:
        raise BankError(f"{path} cannot be read: {error.strerror}") from error
    return left(catalog, read_receipt(data))


def _forget(args: argparse.Namespace, catalog: Catalog) -> Receipt:
    from vllm_mega.memories import forget as act
    from vllm_mega.memories.documents.remembering import forget_path

    if args.source is None:
        return act(catalog, named(args), who())
    return forget_path(catalog, args.source, who(), args.namespace)


def _with_receipt(catalog: Catalog, path: Path, act: Callable[[], Receipt]) -> Receipt:
    """Do it, and write the receipt into a file that is there before: forgetting is not done twice."""
    from vllm_mega.memories.receipts.issuing import issue
    from vllm_mega.memories.receipts.key import bank_key
    from vllm_mega.memories.receipts.signing import write_receipt

    key = bank_key(catalog)
    descriptor = _new_file(path)
    try:
        signed = issue(catalog, act(), key)
    except BaseException:
        os.close(descriptor)
        path.unlink()
        raise
    with os.fdopen(descriptor, "wb") as file:
        file.write(write_receipt(signed))
        file.flush()
        os.fsync(descriptor)
    print(f"receipt: {path}")
    return signed.statement.forgotten


def _new_file(path: Path) -> int:
    from vllm_mega.errors import BankError

    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise BankError(
            f"the receipt {path} cannot be made ({error.strerror}), and nothing is forgotten: name a new file"
        ) from error
