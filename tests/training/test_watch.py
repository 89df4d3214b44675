"""Training for ever: what waits and what comes is trained; a stop, or a bank out of reach, loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.banks import adapters, events, newest, problems
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.catalog import catalog as catalogs
from vllm_mega.bank.catalog.catalog import create_catalog, open_catalog
from vllm_mega.bank.catalog.changes import put, set_chat_template
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.catalog.records import BankSettings, Draft
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo, NewMemory
from vllm_mega.errors import BankError, BankMismatchError, BankNotFoundError
from vllm_mega.models import fingerprint, linear_shapes
from vllm_mega.training.recipe.job import Fit, Job
from vllm_mega.training.run import crew, watch
from vllm_mega.training.run.outcome import Failed, Trained
from vllm_mega.training.run.session import train_waiting
from vllm_mega.training.run.stopping import Stop
from vllm_mega.training.run.trainer import Trainer
from vllm_mega.training.run.watch import News, OutOfReach, Watch, prepare_watch

QUICK = msgspec.structs.replace(SETTINGS, max_steps=4, jobs=2)
POLL = 0.05


@pytest.fixture
def bank(tmp_path: Path, tiny: Path) -> Path:
    """An empty bank; no embedder is needed, and this one is nowhere."""
    base = BaseModelInfo(str(tiny), fingerprint(tiny))
    create_catalog(tmp_path / "bank", BankSettings(base, EmbedderInfo("nowhere", "e", 4))).close()
    return tmp_path / "bank"


def store(bank: Path, *memories: NewMemory) -> None:
    with open_catalog(bank) as catalog:
        for memory in memories:  # one after the other: this is the order in which they are trained
            put(catalog, [Draft(memory, text_digest(memory))], "somebody")


def begin(bank: Path, stop: Stop) -> Iterator[News]:
    return Watch(prepare_watch(bank, settings=QUICK), stop, POLL).run()


def told(news: Sequence[News]) -> list[object]:
    """Of each: what it is, and of which memories."""
    return [
        (type(one).__name__, one.id)
        if isinstance(one, Trained | Failed)
        else (type(one).__name__, *[name.id for name in getattr(one, "names", ())])
        for one in news
    ]


def until_trained(news: Iterator[News], number: int) -> list[News]:
    """What is told until so many have their adapters."""
    seen = list[News]()
    while sum(isinstance(one, Trained) for one in seen) < number:
        seen.append(next(news))
    return seen


def test_what_waits_and_what_comes_is_trained_as_by_a_run(bank: Path, tmp_path: Path, tiny: Path) -> None:
    stop = Stop()
    store(bank, KETTLE, LAMP, BELL)
    news = begin(bank, stop)
    seen = until_trained(news, 3)
    later = msgspec.structs.replace(BELL, text="Nine geese sing at night.")
    store(bank, later)
    seen += until_trained(news, 1)
    stop.ask()
    assert list(news) == []
    assert told(seen) == [
        ("Taken", "kettle", "lamp"),
        ("Trained", "kettle"),
        ("Trained", "lamp"),
        ("Taken", "bell"),
        ("Trained", "bell"),
        ("Taken", "bell"),
        ("Trained", "bell"),
    ]
    assert [one.why for one in seen if isinstance(one, Trained)] == ["new"] * 3 + ["other text"]
    assert newest(bank, "bell").text == later.text
    assert problems(bank, linear_shapes(tiny)) == []

    other = tmp_path / "other"
    create_catalog(
        other, BankSettings(BaseModelInfo(str(tiny), fingerprint(tiny)), EmbedderInfo("nowhere", "e", 4))
    )
    store(other, KETTLE, LAMP, later)
    train_waiting(other, settings=QUICK)
    assert adapters(bank) == adapters(other)


def test_a_stop_breaks_off_after_a_step_and_gives_back(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, steps = Stop(), list[int]()

    class Stopped(Trainer):
        def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
            ours = self.each_step

            def each_step(step: int) -> None:
                steps.append(step)
                if step == 2:
                    stop.ask()
                ours(step)

            self.each_step = each_step
            return super().fit(jobs)

    monkeypatch.setattr(crew, "Trainer", Stopped)
    store(bank, KETTLE, LAMP, BELL)
    assert told(list(begin(bank, stop))) == [("Taken", "kettle", "lamp"), ("Returned", "kettle", "lamp")]
    assert steps == [0, 1, 2]
    with open_catalog(bank) as catalog:
        assert [(job.state, job.attempts) for job in list_jobs(catalog)] == [("waiting", 0)] * 3
    assert adapters(bank) == {}


def test_a_stop_ends_a_wait(bank: Path) -> None:
    stop = Stop()
    watching = Watch(prepare_watch(bank, settings=QUICK), stop, 60)
    threading.Timer(0.3, stop.ask).start()
    started = time.monotonic()
    assert list(watching.run()) == []
    assert time.monotonic() - started < 10


class Breaks(Trainer):
    """Memory is short, or something like it, when the lamp is among the jobs; or always."""

    always = False

    def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
        if self.always or any(LAMP.text in example.answer for job in jobs for example in job.examples):
            raise RuntimeError("the device is gone")
        return super().fit(jobs)


def test_a_memory_that_breaks_the_trainer_is_given_up_and_stops_no_other(
    bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "Trainer", Breaks)
    store(bank, KETTLE, LAMP, BELL)
    stop, seen = Stop(), list[News]()
    for one in begin(bank, stop):
        seen.append(one)
        if sum(isinstance(one, Failed) for one in seen) == 3:
            stop.ask()
    assert set(adapters(bank)) == {"kettle", "bell"}
    assert {str(one) for one in seen if isinstance(one, Failed)} == {
        "default/lamp: RuntimeError: the device is gone"
    }
    with open_catalog(bank) as catalog:
        assert [(job.id, job.state) for job in list_jobs(catalog)] == [("lamp", "failed")]


def test_what_breaks_every_memory_is_no_memorys_fault(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "Trainer", Breaks)
    monkeypatch.setattr(Breaks, "always", True)
    store(bank, KETTLE, LAMP)
    with pytest.raises(RuntimeError, match="the device is gone"):
        list(begin(bank, Stop()))
    with open_catalog(bank) as catalog:
        assert [(job.state, job.attempts) for job in list_jobs(catalog)] == [("waiting", 0)] * 2


def test_a_bank_that_is_out_of_reach_is_tried_again(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, tries = Stop(), list[int]()
    news = begin(bank, stop)

    def refuses(*args: object) -> catalogs.Catalog:
        tries.append(1)
        if len(tries) < 4:
            raise BankError("no route to host")
        return open_catalog(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "open_catalog", refuses)
    store(bank, KETTLE)
    seen = until_trained(news, 1)
    assert seen[:3] == [OutOfReach("no route to host", POLL * 2**n) for n in range(3)]
    assert told(seen[3:]) == [("Taken", "kettle"), ("Trained", "kettle")]


def test_adapters_are_not_made_for_another_template_than_the_bank_s(bank: Path) -> None:
    news = begin(bank, Stop())
    store(bank, KETTLE)
    until_trained(news, 1)
    with open_catalog(bank) as catalog:
        set_chat_template(catalog, "{{ messages }}", "somebody")
    store(bank, LAMP)
    with pytest.raises(BankMismatchError, match=r"'\{\{ messages \}\}' by now, .* start it again"):
        next(news)
    with open_catalog(bank) as catalog:
        assert [(job.state, job.attempts) for job in list_jobs(catalog)] == [("waiting", 0)]


def test_a_bank_that_is_gone_is_an_error(bank: Path) -> None:
    news = begin(bank, Stop())
    bank.rename(bank.with_name("moved"))
    with pytest.raises(BankNotFoundError):
        next(news)


def test_two_watches_share_the_work(bank: Path) -> None:
    store(bank, KETTLE, LAMP, BELL)
    first, second = (begin(bank, Stop()) for _ in range(2))
    assert told([next(first), next(second)]) == [("Taken", "kettle", "lamp"), ("Taken", "bell")]
    until_trained(first, 2)
    until_trained(second, 1)
    kinds = [kind for _, kind in events(bank)]
    assert (kinds.count("leased"), kinds.count("ready")) == (3, 3)
