"""Holding leases while training goes on, and knowing whose holder is dead."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.jobs import give_back, progress, renew
from vllm_mega.bank.catalog.records import Job
from vllm_mega.errors import BankError, LeaseLostError

LEASE_S = 120.0
"""A trainer that is gone without a word gives its jobs back after so long; a living one renews them."""
PROGRESS_S = 2.0
"""How often a trainer says how far it is."""

_LOG = logging.getLogger(__name__)


def owner() -> str:
    """The name of this process, as others read it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def is_dead(name: str) -> bool:
    """Whether `owner` gave `name` to a process of this host that is gone; of other hosts nothing is known."""
    words = name.split()
    if len(words) != 4 or name != f"process {words[1]} on {socket.gethostname()}" or not words[1].isdigit():
        return False
    return not Path("/proc", words[1]).exists()


@contextmanager
def held(
    catalog: Catalog, jobs: Sequence[Job], seconds: float = LEASE_S, steps: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """Renew the leases from time to time; given back if what is done with them is broken off.

    Args:
        catalog: of which bank.
        jobs: the leases.
        seconds: for how long they are renewed.
        steps: how many steps of training have been made; the catalog is told when they are others.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(catalog, jobs, seconds, steps, ended), daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        _give_back(catalog, jobs)
        raise
    finally:
        ended.set()
        thread.join()


def _renew(
    catalog: Catalog, jobs: Sequence[Job], seconds: float, steps: Callable[[], int], ended: threading.Event
) -> None:
    """Until it is over, tell of progress and renew."""
    told, due = 0, time.monotonic() + seconds / 3
    while not ended.wait(min(seconds / 3, PROGRESS_S)):
        if (made := steps()) != told:
            told = made
            with suppress(BankError):  # the next try tells more
                progress(catalog, jobs, made)
        if time.monotonic() >= due:
            due = time.monotonic() + seconds / 3
            _renew_each(catalog, jobs, seconds)


def _renew_each(catalog: Catalog, jobs: Sequence[Job], seconds: float) -> None:
    """A lease that is lost is not renewed: what comes of it will be refused."""
    for job in jobs:
        with suppress(LeaseLostError):
            try:
                renew(catalog, job, seconds)
            except LeaseLostError:
                raise
            except BankError as error:
                _LOG.warning("the lease of %s/%s could not be renewed: %s", job.namespace, job.id, error)


def _give_back(catalog: Catalog, jobs: Sequence[Job]) -> None:
    """Through no fault of the memories'; if the catalog cannot be reached, the leases end by themselves."""
    for job in jobs:
        with suppress(BankError):
            give_back(catalog, job)
