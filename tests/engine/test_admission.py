"""Admission: the slots are never exceeded, and nothing starves."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mega.engine.admission import Admission


def need(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_a_request_that_does_not_fit_waits_and_a_base_request_never_does():
    admission = Admission(slots=2)
    admission.begin([need("a", "b")])
    assert not admission.admits("wide", need("c"))
    assert admission.admits("base", need())
    assert admission.admits("shares", need("a"))


def test_joined_requests_take_their_slots():
    admission = Admission(slots=2)
    admission.begin([])
    assert admission.admits("one", need("a"))
    admission.joined("one", need("a"))
    assert not admission.admits("two", need("b", "c"))
    assert admission.admits("three", need("b"))


def test_a_passed_request_blocks_the_others_in_the_end():
    admission = Admission(slots=2, max_passes=3)
    for step in range(3):
        admission.begin([need("a")])
        assert not admission.admits("held", need("b", "c"))
        assert admission.admits(f"passer-{step}", need("a"))
        admission.joined(f"passer-{step}", need("a"))
    admission.begin([need("a")])
    assert not admission.admits("held", need("b", "c"))
    assert not admission.admits("passer-3", need("a"))
    assert admission.admits("base", need())
    admission.begin([])
    assert admission.admits("held", need("b", "c"))


def test_a_request_that_is_gone_is_forgotten():
    admission = Admission(slots=1, max_passes=1)
    admission.begin([need("a")])
    admission.admits("held", need("b"))
    admission.joined("passer", need("a"))
    admission.forget("held")
    assert admission._passes == {}


requests = st.lists(
    st.tuples(st.frozensets(st.sampled_from("abcdefgh"), max_size=3), st.integers(1, 4)),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(requests, st.integers(3, 5), st.integers(1, 6))
def test_everything_finishes_and_no_step_exceeds_the_slots(stream, slots, seats):
    admission = Admission(slots, max_passes=2)
    waiting = deque((f"r{i}", adapters, length) for i, (adapters, length) in enumerate(stream))
    running: list[list] = []
    for _ in range(1000):
        admission.begin([adapters for _, adapters, _ in running])
        for _ in range(len(waiting)):
            name, adapters, length = waiting.popleft()
            if len(running) < seats and admission.admits(name, adapters):
                running.append([name, adapters, length])
                admission.joined(name, adapters)
            else:
                waiting.append((name, adapters, length))
        assert len(set().union(*(adapters for _, adapters, _ in running))) <= slots
        for request in running:
            request[2] -= 1
        running = [request for request in running if request[2]]
        if not waiting and not running:
            return
    raise AssertionError(f"starved: {waiting}")
