"""Makes a bank, and says when it begins and ends: python -m tests.bank.catalog.maker ROOT URL"""

from __future__ import annotations

import sys

from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.catalog.catalog import create_catalog
from vllm_mega.bank.catalog.records import BankSettings


def main(root: str, url: str) -> None:
    print("begins", flush=True)  # noqa: T201
    create_catalog(root, BankSettings(BASE, EMBEDDER), url or None).close()
    print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
