"""Processes that vLLM starts end with the one that started them, however that one ended.

vLLM 0.32 ends them in order when it is asked to. When a process is killed, what it started lives on, for
minutes or for ever, with all of its memory.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from multiprocessing.process import parent_process

from vllm_mega.home import RUN_FOLDER

logger = logging.getLogger(__name__)

STARTED_BY_VLLM = ("EngineCore", "VllmWorker", "ApiServer", "VLLM_DP_Coordinator")
"""How vLLM's processes are called; a process of the user's own may well outlive the one that started it."""
INTERVAL = 0.5
"""Seconds between two looks."""
_THREAD = "mega-lifeline"


def end_with_parent() -> None:
    """From now on, end this process when the one that started it has; nothing if vLLM did not start it.

    Any process may call it, any number of times, the sooner the better.
    """
    if not multiprocessing.current_process().name.startswith(STARTED_BY_VLLM):
        return
    if all(thread.name != _THREAD for thread in threading.enumerate()):  # a fork has none of its parent's
        threading.Thread(target=_watch, name=_THREAD, daemon=True).start()


def _watch() -> None:
    first = os.getppid()
    while not _orphaned(first):
        time.sleep(INTERVAL)
    logger.error("the process that started this one has ended, so this one ends")
    if folder := os.environ.get(RUN_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)  # a thread can do no less: the others may be anywhere


def _orphaned(first: int) -> bool:
    """Whether the parent has ended.

    Its id alone says nothing where a fork server stands between. As long as a spawned process imports what
    it needs, it does not know its parent; then that is the `first` that this thread has seen.
    """
    parent = parent_process()
    if parent is None:
        return os.getppid() != first
    return os.getppid() != parent.pid and not parent.is_alive()
