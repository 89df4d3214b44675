"""How often something may happen in a minute. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

MINUTE = 60.0


class Rate:
    """Lets something happen so many times at once, and as many times a minute from then on, steadily.

    Belongs to one thread.

    Args:
        most: times a minute.
        clock: seconds, that never go back.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(most)
        self._clock = clock
        self._left, self._at = self._most, clock()

    def take(self) -> bool:
        """Count one time; False: it is one too many, and is not counted."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._most / MINUTE)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
