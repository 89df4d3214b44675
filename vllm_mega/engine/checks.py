"""Adapters are checked before a request that needs them is scheduled: inside a step it is too late.

An adapter that fails there ends its request; one that would fail in a step would end the engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.lora_tensors import LARGEST
from vllm_mega.engine.holding import Signature, folder_of, readable, signature
from vllm_mega.engine.layers import with_slots
from vllm_mega.errors import AdapterError
from vllm_mega.mixture import Component
from vllm_mega.models import linear_shapes, resolve_model

_RETRY = 5.0
"""Seconds; at once would be every step of a busy engine."""


def largest_number(dtype: torch.dtype) -> float:
    """Of a floating type."""
    return torch.finfo(dtype).max


class AdapterChecks:
    """Checks adapters in a thread, each once until its files change. Any thread may ask."""

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], max_rank: int, largest_number: float = LARGEST
    ) -> None:
        """See `check_adapter`."""
        self._shapes, self._max_rank, self._largest_number = shapes, max_rank, largest_number
        self._pool = ThreadPoolExecutor(1, "mega-checks")
        self._checks: dict[tuple[str, str], tuple[Signature, Future[str]]] = {}
        self._again: dict[tuple[str, str], float] = {}
        """When to repeat a check that failed for no reason of the adapter's: `time.monotonic`."""

    @classmethod
    def of(cls, vllm_config: Any) -> AdapterChecks:
        """For the model and the slots of an engine."""
        lora = vllm_config.lora_config
        shapes = linear_shapes(resolve_model(vllm_config.model_config.model))
        # Where targets name fused layers, the worker's check is left.
        shapes = with_slots(shapes, lora.target_modules)
        return cls(shapes, lora.max_lora_rank, largest_number(lora.lora_dtype))

    def begin(self, component: Component, *, afresh: bool = False) -> Future[str]:
        """The check of the adapter, begun now if its files are new or have changed, or `afresh` in any case.

        The result is what is wrong with it; empty if nothing is.
        """
        key = component.adapter, folder_of(component.path)
        found = signature(component.path)
        known = self._checks.get(key)
        due = afresh or time.monotonic() >= self._again.get(key, math.inf)
        if known is not None and known[0] == found and not due:
            return known[1]
        self._again.pop(key, None)
        future = self._pool.submit(self._check, component)
        self._checks[key] = found, future
        return future

    def _check(self, component: Component) -> str:
        try:
            with readable(component.path) as folder:
                check_adapter(
                    folder,
                    self._shapes,
                    max_rank=self._max_rank,
                    expected_digest=component.adapter,
                    largest_number=self._largest_number,
                )
        except AdapterError as error:
            return str(error)
        except Exception as error:  # it would end whoever asks, the scheduler among them
            self._again[component.adapter, component.path] = time.monotonic() + _RETRY
            return f"{component.path}: the adapter cannot be checked: {error!r}"
        return ""
