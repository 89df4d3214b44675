"""Uses of memories on their way between gates and the catalog; see `salience` for what comes of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.records import MemoryName, Row
from vllm_mega.bank.catalog.uses import Use, add_uses, read_uses
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.errors import BankError
from vllm_mega.gate.salience import (
    PINNED,
    Salience,
    Tip,
    added_for,
    decayed,
    near_ties,
    salience_of,
    strengthened,
)
from vllm_mega.gate.selection import Scores

logger = logging.getLogger(__name__)

PACE = 30.0
"""Seconds between two exchanges with the catalog: so old may be what a gate knows of other processes, and so
much use is lost when this one is killed."""
_REST = 20.0
"""So many times as long as an exchange takes there is none, at least: that may be seconds."""
MOST = 100_000
"""Memories whose uses wait while the catalog cannot be written."""
_DAY = 86_400.0

Outcome = Literal["flushed", "dropped"]
"""Written into the catalog; lost, for too many waited."""
Count = Callable[[Outcome, int], None]


class Standing(NamedTuple):
    """What use has made of one memory."""

    salience: float
    """0 to 1; 1: it is pinned."""
    strength: float
    """Uses that counted, the older the less, as of now."""
    last: float | None
    """When the last use that counted was, seconds since 1970; None: never."""


class UseTracker:
    """What one process knows of uses, and has seen of them. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        rules: Salience,
        *,
        count: Count = lambda *_: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read all uses.

        Args:
            catalog: of the bank.
            rules: how much use counts.
            count: is told what became of uses, and of how many.
            clock: seconds since 1970.

        Raises:
            BankError: the catalog cannot be read.
        """
        self.rules = rules
        self._catalog, self._count, self._clock = catalog, count, clock
        self._known = read_uses(catalog)
        self._lock = threading.Lock()
        self._waiting: dict[MemoryName, float] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, names: Iterable[MemoryName]) -> None:
        """These memories are used now."""
        now, dropped = self._clock(), 0
        with self._lock:
            for name in names:
                if name not in self._waiting and len(self._waiting) >= MOST:
                    dropped += 1
                else:
                    self._waiting.setdefault(name, now)
        if dropped:
            self._count("dropped", dropped)

    def standing(self, name: MemoryName) -> Standing:
        """What use has made of a memory, as far as it is known."""
        known = self._known
        use = known.used.get(name)
        strength = 0.0 if use is None else decayed(use, self._clock(), self.rules.half_life)
        salience = PINNED if name in known.pinned else salience_of(strength)
        return Standing(salience, strength, None if use is None else use.last)

    def tips(self, scores: Scores, rows: Sequence[Row], settings: GateSettings) -> tuple[Tip, ...]:
        """What near ties get, of `scores` [N] of `rows`; see `salience.near_ties`."""
        margin = self.rules.margin
        near = near_ties(scores, settings, margin)
        saliences = [self.standing(rows[n].name).salience for n in near]
        return tuple(
            Tip(n, rows[n].id, salience, added_for(salience, margin))
            for n, salience in zip(near, saliences, strict=True)
        )

    def exchange(self) -> None:
        """Write what was seen, and read what others have; what cannot be written waits for the next time."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        try:
            if waiting:
                add_uses(self._catalog, waiting, self._strengthen)
                self._count("flushed", len(waiting))
                waiting = {}
            self._known = read_uses(self._catalog)
        except BankError as error:
            logger.warning("the uses of memories are not exchanged with the bank: %s", error)
            with self._lock:
                self._waiting = {**self._waiting, **waiting}

    def start(self) -> None:
        """Exchange now and then from here on, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="mega-uses", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Exchange once more, and no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.exchange()

    def _run(self) -> None:
        pause = PACE
        while not self._ended.wait(pause):
            begin = time.monotonic()
            self.exchange()
            pause = max(PACE, _REST * (time.monotonic() - begin))

    def _strengthen(self, use: Use | None, at: float) -> Use:
        return strengthened(use, at, self.rules.half_life)


def track_uses(catalog: Catalog, settings: MegaSettings, count: Count = lambda *_: None) -> UseTracker | None:
    """The uses of a bank's memories, as `settings` have it; None: use counts for nothing.

    Raises:
        BankError: the catalog cannot be read.
    """
    if not settings.salience_margin:
        return None
    rules = Salience(settings.salience_margin, _DAY * settings.salience_half_life_days)
    return UseTracker(catalog, rules, count=count)
