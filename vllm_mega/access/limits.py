"""Limits of a namespace: how many memories, how long, how many changes a minute. Pure but for the clock."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from vllm_mega.errors import LimitError, RequestError

MINUTE = 60.0
_MOST_BUCKETS = 10_000
Count = Annotated[int, Meta(ge=1)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a namespace may have. None: as much as one likes."""

    memories: Annotated[Count | None, Meta(description="most memories in the namespace")] = None
    text_bytes: Annotated[Count | None, Meta(description="most bytes (UTF-8) of one memory's texts")] = 65536
    changes_per_minute: Annotated[
        Count | None, Meta(description="most memories that are added, changed or forgotten in a minute")
    ] = None

    def check_size(self, size: int) -> None:
        """Refuse a memory whose texts have `size` bytes.

        Raises:
            RequestError: it is too long.
        """
        if self.text_bytes is not None and size > self.text_bytes:
            raise RequestError(
                f"a memory may have texts of {self.text_bytes} bytes, and these have {size}: divide it",
                "text",
            )


class Rates:
    """How many changes each namespace has made of late: a bucket of a minute's changes, that fills steadily.

    Belongs to one thread. Each process of a server counts for itself.

    Args:
        clock: seconds, that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, namespace: str, changes: int, most: int | None) -> None:
        """Count `changes` of `namespace`, of which a minute may have `most`; None: any number.

        Raises:
            LimitError: too many; nothing is counted, and `retry_after` says when they fit.
        """
        if most is None:
            return
        if changes > most:
            raise LimitError(f"the namespace may change {most} memories a minute, not {changes}: send fewer")
        now = self._clock()
        left, at = self._left.get(namespace, (float(most), now))
        left = min(float(most), left + (now - at) * most / MINUTE)
        if left < changes:
            wait = math.ceil((changes - left) * MINUTE / most)
            raise LimitError(
                f"the namespace may change {most} memories a minute: come back in {wait} s", retry_after=wait
            )
        self._keep(namespace, left - changes, now)

    def _keep(self, namespace: str, left: float, now: float) -> None:
        self._left[namespace] = (left, now)
        self._left.move_to_end(namespace)
        if len(self._left) > _MOST_BUCKETS:
            self._left.popitem(last=False)
