"""How a worker starts its engine: with its share of the cores, and with what all hosts must have."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError
from vllm_mega.http.launch import processes, this_environment

if TYPE_CHECKING:
    from vllm_mega.batch.engine import BatchEngine

BIND = "VLLM_CPU_OMP_THREADS_BIND"
THREADS = "OMP_NUM_THREADS"


class EngineStart:
    """`scale_out.Start` of vLLM's engine: made where the command runs, called where a worker is."""

    def __init__(
        self, model: str, argv: Sequence[str], settings: MegaSettings, given: Mapping[str, Any]
    ) -> None:
        """Nothing is started yet.

        Args:
            model: path or id of the checkpoint.
            argv: options of `vllm serve`, as words.
            settings: for the handlers.
            given: what the user has given for vLLM.

        Raises:
            ConfigError: the environment binds the threads of all engines to the same cores.
        """
        if (cores := os.environ.get(BIND, "nobind")) != "nobind":
            raise ConfigError(f"{BIND}={cores} would put the engines of all workers on these cores: unset it")
        self._made_of = (model, tuple(argv), settings)
        self._given = dict(given)
        self._threads = os.environ.get(THREADS)
        self._is_path = Path(model).exists()

    def environment(self, share: int) -> dict[str, str]:
        """Variables to set in a worker, before vLLM is imported there.

        Args:
            share: how many cores the worker has.
        """
        each = self._threads or str(max(1, share // processes(self._given)))
        # Engines know nothing of each other: each would bind its threads to the first cores.
        unbound = {THREADS: each, BIND: "nobind"}
        usual = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
        usual = {name: value for name, value in usual.items() if name not in os.environ}
        return {**usual, **this_environment(self._given), **unbound}

    @asynccontextmanager
    async def __call__(self, share: int) -> AsyncIterator[BatchEngine]:
        """The engine, which computes with as many threads as its worker has cores.

        Raises:
            ConfigError: this host does not have the model at the same place.
        """
        model = self._made_of[0]
        if self._is_path and not Path(model).exists():
            raise ConfigError(
                f"there is no {model}, which all hosts need: install the same everywhere, or give --model a "
                "folder that all of them see"
            )
        os.environ.update(self.environment(share))
        from vllm_mega.batch.engine import batch_engine  # and vLLM, which reads the environment

        async with batch_engine(*self._made_of) as engine:
            yield engine
