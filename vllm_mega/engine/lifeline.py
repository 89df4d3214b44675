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

STARTED_BY_VLLM = ("EngineCore", "VllmWorker", "ApiServer")
"""How vLLM's processes are called; a process of the user's own may well outlive the one that started it."""
INTERVAL = 0.5
"""Seconds between two looks."""
_THREAD = "mega-lifeline"


def end_with_parent() -> None:
    """From now on, end this process when the one that started it has; nothing if vLLM did not start it."""
    if not multiprocessing.current_process().name.startswith(STARTED_BY_VLLM):
        return
    if all(thread.name != _THREAD for thread in threading.enumerate()):  # a fork has none of its parent's
        threading.Thread(target=_watch, name=_THREAD, daemon=True).start()


def _watch() -> None:
    while not _orphaned():
        time.sleep(INTERVAL)
    logger.error("the process that started this one has ended, so this one ends")
    if folder := os.environ.get(RUN_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)  # a thread can do no less: the others may be anywhere


def _orphaned() -> bool:
    """Whether the parent has ended: its id alone says nothing where a fork server stands between."""
    parent = parent_process()
    return parent is not None and os.getppid() != parent.pid and not parent.is_alive()
