"""A crash at any step leaves the old bank or the new one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bank.failing_disk import FailingDisk, PowerCut, QuickDisk
from tests.bank.samples import BASE, EMBEDDER, SHAPES, files_with, staged
from vllm_mega.bank import files
from vllm_mega.bank.reader import BankReader
from vllm_mega.bank.verify import verify
from vllm_mega.bank.writer import BankWriter
from vllm_mega.errors import BankError, BankNotFoundError

SECRET = b"hazelnut"
State = dict[str, int] | None


def state(bank: Path) -> State:
    """Which memories the bank has, at which version of theirs; all of it must be readable."""
    try:
        snapshot = BankReader(bank).snapshot()
    except BankNotFoundError:
        return None
    for entry in snapshot.manifest.memories:
        snapshot.text(entry)
    return {entry.id: entry.training["seed"] for entry in snapshot.manifest.memories}


def prepare(bank: Path) -> None:
    with BankWriter.create(bank, BASE, EMBEDDER) as writer:
        writer.add(
            [
                staged(writer.stage(), "old", 1),
                staged(
                    writer.stage(), "secret", 2, namespace="other", text=f"The {SECRET.decode()} is buried."
                ),
                staged(writer.stage(), "kept", 3),
            ],
            SHAPES,
        )


def nothing(bank: Path) -> None:
    pass


def create(bank: Path) -> None:
    BankWriter.create(bank, BASE, EMBEDDER).close()


def add(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        writer.add(
            [staged(writer.stage(), "new", 4, namespace="fresh"), staged(writer.stage(), "old", 5)], SHAPES
        )


def forget(bank: Path) -> None:
    with BankWriter.open(bank) as writer:
        writer.forget([("other", "secret")])


OLD = {"old": 1, "secret": 2, "kept": 3}
SCENARIOS = {
    "create": (nothing, create, None, {}),
    "add": (prepare, add, OLD, {"old": 5, "secret": 2, "kept": 3, "new": 4}),
    "forget": (prepare, forget, OLD, {"old": 1, "kept": 3}),
}
Act = Callable[[Path], None]
scenarios = pytest.mark.parametrize(("before", "act", "old", "new"), SCENARIOS.values(), ids=SCENARIOS)


def steps_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Act, act: Act) -> FailingDisk:
    """The disk after an undisturbed run; from here on no real sync slows the tests down."""
    disk = FailingDisk(tmp_path / "spare")
    monkeypatch.setattr(files, "os", QuickDisk())
    before(tmp_path / "model-bank")
    monkeypatch.setattr(files, "os", disk)
    act(tmp_path / "model-bank")
    disk.forget()
    return disk


@scenarios
@pytest.mark.parametrize("unsynced_is_lost", [False, True])
def test_dying_at_any_step_leaves_old_or_new(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Act,
    act: Act,
    old: State,
    new: State,
    unsynced_is_lost: bool,
) -> None:
    total = steps_of(tmp_path, monkeypatch, before, act).steps
    seen = set()
    for at in range(1, total + 1):
        bank = tmp_path / f"bank-{at}"
        monkeypatch.setattr(files, "os", QuickDisk())
        before(bank)
        disk = FailingDisk(tmp_path / "spare", at)
        monkeypatch.setattr(files, "os", disk)
        with pytest.raises(PowerCut):
            act(bank)
        if unsynced_is_lost:
            disk.lose_unsynced()
        disk.forget()
        monkeypatch.setattr(files, "os", QuickDisk())
        found = state(bank)
        assert found in (old, new), at
        seen.add(found == new)
        if found is None:
            create(bank)
            continue
        assert {problem.kind for problem in verify(bank, SHAPES)} <= {"orphan", "staging"}, at
        BankWriter.open(bank).close()
        assert verify(bank, SHAPES) == [], at
        assert state(bank) == found
        if "secret" not in found:
            assert files_with(bank, SECRET) == []
        if found == old:
            act(bank)
            assert state(bank) == new
    assert seen == {True, False}


@scenarios
def test_a_full_disk_at_any_step_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Act, act: Act, old: State, new: State
) -> None:
    total = steps_of(tmp_path, monkeypatch, before, act).steps
    for at in range(1, total + 1):
        bank = tmp_path / f"bank-{at}"
        monkeypatch.setattr(files, "os", QuickDisk())
        before(bank)
        full = FailingDisk(
            tmp_path / "spare", at, dies=False, error=lambda: OSError(errno.ENOSPC, "No space left on device")
        )
        monkeypatch.setattr(files, "os", full)
        with pytest.raises(BankError, match="No space left"):
            act(bank)
        full.forget()
        found = state(bank)
        assert found in (old, new), at
        if found is None:
            create(bank)
        else:
            BankWriter.open(bank).close()
        assert verify(bank, SHAPES) == [], at


def test_a_writer_whose_change_failed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", QuickDisk())
    item, errors = staged(tmp_path / "adapter", "new", 4), []
    for at in range(1, 100):
        bank = tmp_path / f"bank-{at}"
        prepare(bank)
        full = FailingDisk(tmp_path / "spare", at, dies=False, error=lambda: OSError(errno.ENOSPC, "full"))
        with BankWriter.open(bank) as writer:
            monkeypatch.setattr(files, "os", full)
            try:
                writer.add([item], SHAPES)
                break
            except BankError as error:
                errors.append(str(error))
            finally:
                full.forget()
                monkeypatch.setattr(files, "os", QuickDisk())
            assert state(bank) in (OLD, {**OLD, "new": 4})
            writer.add([item], SHAPES)
        assert state(bank) == {**OLD, "new": 4}
        assert verify(bank, SHAPES) == []
    assert 20 < at < 99, "the steps were not all tried"
    assert len(errors) == at - 1
    assert all("full. It is as it was before, or the change is whole" in error for error in errors)


def test_what_is_forgotten_stays_forgotten_when_the_power_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = tmp_path / "bank"
    prepare(bank)
    disk = FailingDisk(tmp_path / "spare")
    monkeypatch.setattr(files, "os", disk)
    forget(bank)
    disk.lose_unsynced()
    disk.forget()
    assert files_with(bank, SECRET) == []


def test_the_commit_comes_after_everything_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = steps_of(tmp_path, monkeypatch, prepare, add).log
    bank = tmp_path / "model-bank"
    commit = log.index(("replace", str(bank / "manifest.json")))
    assert log[commit + 1] == ("fsync", str(bank))
    deleted = [step for step, (name, path) in enumerate(log) if "/memories/" in path and name == "unlink"]
    assert deleted, "an update must delete the old version"
    assert min(deleted) > commit + 1
    assert [path for name, path in log[commit:] if name == "unlink" and "keys-1" in path]


WRITER = """
import sys, itertools
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.bank.samples import SHAPES, staged
from vllm_mega.bank.writer import BankWriter
with BankWriter.open(sys.argv[1]) as writer:
    for n in itertools.count():
        ids = [f"m{n % 3}", f"m{n % 5}x"]
        writer.add([staged(writer.stage(), i, n) for i in ids], SHAPES)
        print(n, flush=True)
        if n % 2:
            writer.forget([("default", ids[0])])
"""


def test_a_killed_process(tmp_path: Path, repo: Path) -> None:
    bank = tmp_path / "bank"
    create(bank)
    for attempt in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(bank), str(repo)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline(), "the writer failed"
            time.sleep(0.003 * attempt)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        generation = BankReader(bank).snapshot().generation
        assert state(bank)
        assert {problem.kind for problem in verify(bank, SHAPES)} <= {"orphan", "staging"}
        with BankWriter.open(bank) as writer:
            assert writer.snapshot.generation == generation
        assert verify(bank, SHAPES) == []
