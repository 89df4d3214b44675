"""Copies of adapters into slots: in order with the steps that read them, and waiting for nothing else."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.streams import Cuda
from vllm_mega.engine.slots import packed
from vllm_mega.engine.slots.copies import Copies
from vllm_mega.engine.slots.cuda import transposed

SLOTS = 4


class Device:
    """Slots that are copied to and read by steps, each of which says what must have happened before."""

    def __init__(self) -> None:
        self.cuda = Cuda()
        self.cuda.steps.known.add("filled with zeros")
        self.copies = Copies(torch.device("cuda"), self.cuda)
        self.sent: dict[int, object] = {}
        self.readers: dict[int, list[object]] = {}
        self.routed: set[int] = set()
        self.last: tuple[str, int] | None = None
        self.count = 0

    def copy_(self, source: int, *, non_blocking: bool) -> None:
        """What a target of a copy to the slot `source` is asked."""
        assert non_blocking, "the host would wait"
        here = self.cuda.current_stream(None)
        assert here is not self.cuda.steps, "steps would wait"
        assert here.known.issuperset(("filled with zeros", *self.readers.get(source, ()))), "read by a step"
        self.count += 1
        self.sent[source] = ("copy", self.count)
        here.known.add(self.sent[source])

    def put(self, slot: int) -> None:
        target: Any = self
        self.copies.send(slot, (target, slot))

    def route(self, slots: set[int]) -> None:
        self.copies.route(slots)
        self.routed = slots

    def step(self) -> None:
        self.count += 1
        self.last = ("step", self.count)
        for slot in self.routed:
            assert self.sent.get(slot) in {None, *self.cuda.steps.known}, "not there yet"
            self.readers.setdefault(slot, []).append(self.last)
        self.cuda.steps.known.add(self.last)


@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, SLOTS - 1)),  # put
            st.sets(st.integers(0, SLOTS - 1)),  # routed to
            st.integers(1, 3),  # steps with that routing
        ),
        max_size=12,
    )
)
def test_copies_and_steps_come_in_order(steps: list[tuple[set[int], set[int], int]]):
    device = Device()
    for put, routed, times in steps:
        for slot in put:
            device.put(slot)
        device.route(routed)
        for _ in range(times):
            device.step()


def test_a_copy_waits_for_no_step_that_leaves_its_slot_alone():
    device = Device()
    for slots in ({0, 1}, {1}):
        device.route(slots)
        device.step()
    device.put(0)
    assert device.last not in device.copies._stream.known
    device.put(1)
    assert device.last in device.copies._stream.known


def test_what_is_packed_is_pinned_once_in_one_piece(monkeypatch):
    asked: list[Any] = []
    real = torch.zeros

    def zeros(*args: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return real(*args, **more)

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda *_: asked.append("once more"))
    pair = torch.ones(2, 24), torch.ones(8, 2)
    packed.pack([pair, None, pair], torch.float32, transposed, pin_memory=True)
    packed.pack([pair], torch.float32, transposed)
    assert asked == [True, False]
