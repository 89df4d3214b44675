"""What every trainer does: lease jobs, train them side by side, publish, until nothing is left.

Nothing is locked while it trains: memories can be added, changed and forgotten meanwhile, and what was made
of a text that is no longer there is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.jobs import lease, take_back
from vllm_mega.bank.catalog.known import known
from vllm_mega.bank.catalog.reading import get_version
from vllm_mega.bank.catalog.records import Job, MemoryName
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import MemoryNotFoundError, TrainingError
from vllm_mega.training.recipe.job import Fit
from vllm_mega.training.run.leases import LEASE_S, held, is_dead
from vllm_mega.training.run.outcome import Failed, Trained
from vllm_mega.training.run.publishing import Publisher

Fitted = list[Fit | TrainingError]
FitTogether = Callable[[Sequence[NewMemory]], Fitted]
"""Trains memories side by side: an adapter of each, in order, or the reason why there is none."""
POLL_S = 1.0
"""How often a trainer looks whether what another one has goes back."""


@dataclass(frozen=True)
class Worker:
    """A trainer of a bank."""

    publisher: Publisher
    fit: FitTogether
    size: int
    """Memories that are trained side by side."""
    steps: Callable[[], int]
    """How many steps `fit` has made for those that it trains now."""

    def run(self, names: Sequence[MemoryName]) -> Iterator[list[Trained | Failed]]:
        """Train those of `names` that wait, `size` at a time in this order; yields what became of each lot.

        Each is tried once. What other trainers have is waited for: it is theirs, or it comes back. A lot is
        published whole, so a run that was killed and goes on trains the same memories side by side.

        Raises:
            BankError: disk or database refuse; leases are given back.
            MegaError: whatever training raises that is no single memory's fault.
        """
        left = list(names)
        take_back(self._catalog, is_dead, self._owner)
        while left:
            tried: set[MemoryName] = set()
            for start in range(0, len(left), self.size):
                outcomes = self.train(self._take(left[start : start + self.size]))
                tried |= {MemoryName(outcome.namespace, outcome.id) for outcome in outcomes}
                if outcomes:
                    yield outcomes
            left = [name for name in self._waiting(left) if name not in tried]
            if left and not tried:
                time.sleep(POLL_S)

    def take(self) -> list[Job]:
        """Lease what has waited longest, at most `size` jobs; what the dead of this host had waits again.

        Raises:
            BankError: disk or database refuse.
        """
        take_back(self._catalog, is_dead, self._owner)
        return lease(self._catalog, self._owner, LEASE_S, limit=self.size)

    def train(self, jobs: Sequence[Job]) -> list[Trained | Failed]:
        """Train what was leased side by side, and publish it; what became of each, in order.

        Raises:
            BankError, MegaError: as `run`.
        """
        if not jobs:
            return []
        with held(self._catalog, jobs, steps=self.steps):
            there = {job: memory for job in jobs if (memory := self._memory(job)) is not None}
            fits = self.fit(list(there.values())) if there else []
            return self.publisher.publish(list(zip(there, fits, strict=True)))

    @property
    def _catalog(self) -> Catalog:
        return self.publisher.catalog

    @property
    def _owner(self) -> str:
        return self.publisher.owner

    def _take(self, names: Sequence[MemoryName]) -> list[Job]:
        """Lease those of `names` that nobody else has, in this order."""
        place = {name: n for n, name in enumerate(names)}
        leased = lease(self._catalog, self._owner, LEASE_S, limit=len(names), names=names)
        return sorted(leased, key=lambda job: place[job.name])

    def _memory(self, job: Job) -> NewMemory | None:
        """What is to be trained; None: it was forgotten since."""
        try:
            version = get_version(self._catalog, *job.name, job.version)
        except MemoryNotFoundError:
            return None
        return draft_of(version, train=True).memory

    def _waiting(self, names: Sequence[MemoryName]) -> list[MemoryName]:
        """Those that still want an adapter."""
        stored = known(self._catalog, names)
        wanting = {
            name for name, one in stored.items() if one.job in ("waiting", "leased") and not one.retired
        }
        return [name for name in names if name in wanting]
