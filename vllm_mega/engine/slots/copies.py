"""Copies of adapters to the slots of a GPU: on a stream of their own, while earlier steps still compute.

A copy waits for the steps that read what it replaces, and for no other; a step waits for the copies before
it. The host waits for nothing: sources are pinned, and PyTorch keeps them until they are copied.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch


class Copies:
    """In which order copies and steps come. One thread: the one that launches the steps."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """`cuda`: where streams and events come from. What was launched before is done before any copy."""
        self._cuda, self._device = cuda, device
        self._stream = cuda.Stream(device)
        self._stream.wait_stream(self._step())
        self._reading: frozenset[int] = frozenset()
        """Slots that the steps read, as they are routed now."""
        self._read: dict[int, Any] = {}
        """Event behind the last step that read a slot."""
        self._sent: Any = None
        """Event behind the last copy, until a step waits for it."""

    def send(self, slot: int, *copies: tuple[torch.Tensor, torch.Tensor | None]) -> None:
        """Begin to copy from pinned memory what belongs to the slot: pairs (target, source; None: zeros)."""
        if slot in self._reading:
            self._note_read()
        with self._cuda.stream(self._stream):
            read = self._read.pop(slot, None)
            if read is not None:
                self._stream.wait_event(read)
            for target, source in copies:
                if source is None:
                    with torch.inference_mode():  # some are made in one, and steps are not the only callers
                        target.zero_()
                else:
                    target.copy_(source, non_blocking=True)
            self._sent = self._stream.record_event()

    def route(self, slots: Collection[int]) -> None:
        """From here on, steps read these slots, as they have been sent."""
        self._note_read()
        self._reading = frozenset(slots)
        if self._sent is not None:
            self._step().wait_event(self._sent)
            self._sent = None

    def settle(self) -> None:
        """Wait until all that was sent is there."""
        self._stream.synchronize()

    def _note_read(self) -> None:
        if self._reading:
            self._read |= dict.fromkeys(self._reading, self._step().record_event())

    def _step(self) -> Any:
        return self._cuda.current_stream(self._device)
