"""Memories that come, go and break while the server runs."""

from __future__ import annotations

import concurrent.futures
import os
import time
from typing import Any

import httpx
import openai
import pytest

from loadtests.processes import keeper_of, open_files, processes
from tests.http.asking import BASE, ask, refused, text, used
from tests.http.live_bank import ASKED, CLOCK, UNRELATED, LiveBank
from vllm_mega.bank.layout import NewMemory

pytestmark = pytest.mark.engine


def test_a_memory_lives_and_dies_while_the_server_runs(client: openai.OpenAI, bank: LiveBank) -> None:
    before = ask(client, ASKED["clock"])
    assert "clock" not in used(before)
    bank.add([CLOCK])
    known = ask(client, ASKED["clock"])
    assert used(known)[0] == "clock"
    bank.add([CLOCK])
    updated = ask(client, ASKED["clock"])
    assert used(updated)[0] == "clock"
    assert text(updated) != text(known), "the old version answered"
    bank.forget(CLOCK)
    forgotten = ask(client, ASKED["clock"])
    assert (text(forgotten), forgotten.mega) == (text(before), before.mega)
    refused(lambda: ask(client, UNRELATED, mega={"memories": [{"id": "clock"}]}), 404)


def test_a_broken_memory_is_refused_and_the_others_go_on(client: openai.OpenAI, bank: LiveBank) -> None:
    (folder,) = bank.add([CLOCK])
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    error = refused(lambda: ask(client, ASKED["clock"]), 500)
    assert "clock" in error["message"]
    assert "SHA-256" in error["message"]
    assert used(ask(client, ASKED["comet"]))[0] == "comet"
    bank.forget(CLOCK)
    assert "clock" not in used(ask(client, ASKED["clock"]))


@pytest.mark.parametrize("change", ["forgotten", "updated"])
def test_a_memory_that_goes_while_the_worker_stands_still(
    url: str, client: openai.OpenAI, bank: LiveBank, change: str
) -> None:
    """The request that was decided is answered, whatever happens to the files meanwhile."""
    found = processes(keeper_of(httpx.URL(url).port or 0))
    worker = found["worker"]
    bank.add([CLOCK])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        worker.suspend()
        try:
            waiting = [pool.submit(ask, client, ASKED["clock"]), pool.submit(ask, client, UNRELATED, BASE)]
            time.sleep(1.5)  # all of it is in the engine by now
            bank.forget(CLOCK) if change == "forgotten" else bank.add([CLOCK])
        finally:
            worker.resume()
        assert used(waiting[0].result())[0] == "clock"
        assert text(waiting[1].result())
    end = time.monotonic() + 20
    while held := [link for one in found.values() for link in open_files(one.pid) if "(deleted)" in link]:
        assert time.monotonic() < end, held
        ask(client, UNRELATED, BASE, max_tokens=1)
    assert ("clock" in used(ask(client, ASKED["clock"]))) == (change == "updated")
    if change == "updated":
        bank.forget(CLOCK)


@pytest.mark.parametrize("streamed", [False, True])
def test_whose_memory_is_found_damaged_late_hears_why(
    client: openai.OpenAI, bank: LiveBank, streamed: bool
) -> None:
    """The server has found the adapter good, the engine finds it damaged: the files look the same."""
    other = NewMemory("The weathervane of Ostrel points at lies.", id="weathervane")
    good, bad = bank.add([CLOCK, other])
    (bad / "adapter_config.json").write_text("{}")
    both = [{"id": "clock"}, {"id": "weathervane"}]
    assert "weathervane" in refused(lambda: ask(client, UNRELATED, mega={"memories": both}), 500)["message"]
    file = good / "adapter_model.safetensors"
    before, data = file.stat(), bytearray(file.read_bytes())
    data[-2] ^= 1
    with file.open("r+b") as damaged:
        damaged.write(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    def late() -> Any:
        return ask(client, UNRELATED, mega={"memories": both[:1]}, stream=streamed)

    if streamed:
        with pytest.raises(openai.APIError) as error:
            list(late())
        message = error.value.message
    else:
        message = refused(late, 500)["message"]
    assert "memories (clock) cannot be used" in message
    assert used(ask(client, ASKED["comet"]))[0] == "comet"
    bank.forget(CLOCK)
    bank.forget(other)


def test_many_at_once(client: openai.OpenAI) -> None:
    """More mixtures than slots, base requests between them, and clients that hang up."""
    names = ["lighthouse", "bakery", "comet", "tortoise"]

    def one(n: int) -> tuple[int, list[str]]:
        if n % 6 == 5:
            with ask(client, ASKED[names[n % 4]], stream=True, max_tokens=200) as answer:
                next(iter(answer))
            return n, []
        if n % 6 == 4:
            ask(client, UNRELATED, BASE)
            return n, []
        weight = 0.25 + n / 64
        answer = ask(client, UNRELATED, mega={"memories": [{"id": names[n % 4], "weight": weight}]})
        return n, used(answer)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for n, ids in pool.map(one, range(18)):
            assert ids == ([] if n % 6 in (4, 5) else [names[n % 4]])
    assert text(ask(client, UNRELATED, max_tokens=2))
