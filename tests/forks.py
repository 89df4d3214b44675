"""Processes for tests that kill many: forks of one that has imported what they need."""

from __future__ import annotations

from multiprocessing import get_context

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "pytest",  # what every fork runs again is the program, and that imports it
        "peft",
        "vllm_mega.gate.embedder",
        "vllm_mega.training.run.trainer",
        "tests.bank.catalog.writer",
        "tests.bank.catalog.maker",
    ]
)
