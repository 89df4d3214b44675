"""What use costs where it counts: decisions with it and without, in turn, and an exchange with the bank.

python -m loadtests.salience --output out/salience.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import sqlalchemy as sa

from loadtests.catalog_bulk import centres, make
from loadtests.catalog_gate import BATCH, Given
from loadtests.machine import default_dtype, this_machine
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.tables import uses
from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.gate.gate import Gate, Query
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.salience import Salience
from vllm_mega.gate.uses import UseTracker

MARGIN, HALF_LIFE = 0.02, 30 * 86_400.0
ROUNDS = 300


def measure(root: Path, memories: int) -> dict[str, float]:
    """Medians of `ROUNDS` batches, embedding left out, each asked with use and without, in turn.

    Args:
        root: of a bank to be made.
        memories: in it; all of them were used.
    """
    make(root, memories)
    with open_catalog(root) as catalog:
        rows = [{"memory": n + 1, "strength": 1.0 + n % 50, "last": time.time()} for n in range(memories)]
        catalog.database.write(lambda connection: connection.execute(sa.insert(uses), rows))
    index, embedder = Index(), Given()
    with Library(root, keys=index) as library:
        embedder.vectors = centres()[:BATCH]  # about equally near to all of a cluster: near ties everywhere
        tracker = UseTracker(library.catalog, Salience(MARGIN, HALF_LIFE))
        gates = {"off": Gate(library, index, embedder), "on": Gate(library, index, embedder, tracker)}
        queries = [Query(str(n), settings=GateSettings(threshold=-1.0)) for n in range(BATCH)]
        asked = {name: lambda gate=gate: gate.decide(queries) for name, gate in gates.items()}
        taken = {name: [seconds(act) for _ in range(3)] for name, act in asked.items()}
        for _ in range(ROUNDS):
            for name, act in asked.items():
                taken[name].append(seconds(act))
        median = {name: 1000 * float(np.median(some)) / BATCH for name, some in taken.items()}
        ratios = np.array(taken["on"][3:]) / np.array(taken["off"][3:])
        return {
            "memories": memories,
            "off_ms_per_query": median["off"],
            "on_ms_per_query": median["on"],
            "ratio": float(np.median(ratios)),
            "read_ms": 1000 * min(seconds(tracker.exchange) for _ in range(5)),
        }


def seconds(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def main() -> None:
    """Measure banks of some sizes, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--memories", type=int, nargs="+", default=[10_000, 100_000])
    args = parser.parse_args()
    found = []
    for memories in args.memories:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder, "bank"), memories))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_bytes(msgspec.json.encode({"machine": this_machine(default_dtype()), "banks": found}))


if __name__ == "__main__":
    main()
