"""The trainer that a server has beside it: how it is started. Decides, starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

from vllm_mega.errors import ConfigError
from vllm_mega.http.companion import Beside

NAME = "trainer"


def trainer_threads(asked: int | None, cores: Collection[int]) -> int:
    """How many threads it computes with: half as many as there are cores, unless somebody says otherwise.

    Raises:
        ConfigError: more than there are cores, or none.
    """
    threads = max(1, len(cores) // 2) if asked is None else asked
    if not 1 <= threads <= len(cores):
        raise ConfigError(
            f"--train-threads must be 1..{len(cores)} with the cores of this machine, got {threads}"
        )
    return threads


def trainer_beside(
    words: list[str],
    threads: int,
    *,
    environ: Mapping[str, str],
    serving: Mapping[str, str],
    on_cpu: bool,
) -> Beside:
    """What the server's keeper is to run.

    Args:
        words: of `vllm-mega train --watch`, behind these.
        threads: how many it computes with.
        environ: the user's variables.
        serving: variables that were set for vLLM alone; to the trainer they are as the user has them.
        on_cpu: whether vLLM computes on the CPU. Else the trainer does so alone: vLLM has taken the memory
            of its device.
    """
    environment: dict[str, str | None] = {name: environ.get(name) for name in serving}
    # Threads that wait must sleep: spinning, they would hold cores that the server wants.
    environment |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    if not on_cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "vllm_mega", "train", "--watch", *words]
    return Beside(NAME, command, environment)


def refuse_without_server(given: Mapping[str, Any]) -> None:
    """Refuse a trainer where no server says that it is ready.

    Raises:
        ConfigError: vLLM is to compute here for a server on another host.
    """
    if given.get("headless"):
        raise ConfigError("--headless serves nothing here: give --train where the server is, or run "
                          "vllm-mega train --watch")  # fmt: skip
