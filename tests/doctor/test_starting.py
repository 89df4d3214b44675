"""What the import of vLLM in another process is told to be."""

from __future__ import annotations

import os
import sys

import pytest

from vllm_mega.doctor import starting
from vllm_mega.doctor.starting import Started, imported, judged

PRELOAD = "ERROR: ld.so: object '/x.so' from LD_PRELOAD cannot be preloaded (cannot open): ignored."


def said(program: str) -> starting.Finding:
    return imported([sys.executable, "-c", program], os.environ)


def test_the_last_line_is_what_the_process_says() -> None:
    program = 'print("a log line"); print(\'{"device": "cpu", "devices": [], "applied": true}\')'
    assert said(program) == starting.Finding("vllm starts", "ok", "on cpu")


def test_an_import_that_fails_is_named_by_its_last_line() -> None:
    finding = said("raise ImportError('libfoo.so: cannot open')")
    assert finding.status == "problem"
    assert finding.found == ("the import of vLLM ended with exit code 1: ImportError: libfoo.so: cannot open")
    assert finding.change


def test_a_crash_is_named() -> None:
    finding = said("import os; os.kill(os.getpid(), 9)")
    assert finding.status == "problem"
    assert finding.found == "the import of vLLM ended with exit code -9: it said nothing"


def test_an_import_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "SECONDS", 0.2)
    finding = said("import time; time.sleep(60)")
    assert finding.status == "problem"
    assert "took more than 0.2 s" in finding.found


@pytest.mark.parametrize(
    ("started", "stderr", "status", "found"),
    [
        (Started("cuda", ["H100", "H100"], True), "", "ok", "on H100, H100"),
        (Started("cuda", [], True), "", "problem", "vLLM is built for GPUs, and there is none"),
        (Started("cpu", [], False), "", "problem", "our plugin is not found by vLLM"),
        (Started("cpu", [], True), f"{PRELOAD}\nmore", "warning", f"on cpu; {PRELOAD}"),
    ],
)
def test_judged(started: Started, stderr: str, status: str, found: str) -> None:
    finding = judged(started, stderr)
    assert (finding.status, finding.found) == (status, found)


@pytest.mark.engine
def test_vllm_starts_here() -> None:
    assert [one.status for one in starting.starting()] == ["ok"]
