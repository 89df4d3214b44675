"""Ray, as far as we need it: a cluster of our own or somebody's, and workers on it."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from vllm_mega.errors import ConfigError, MegaError, TrainingError

STORE_BYTES = 256 * 2**20
"""Where Ray keeps results on their way: a fit is about a megabyte, and there is one chunk a worker."""


LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, Ray binds to loopback. (Told `_node_ip_address="127.0.0.1"`, Ray 2.60 looks for an address that
others can reach, and binds to all interfaces.)"""


class WorkerLostError(Exception):
    """The process of a worker, its node or its answer is gone. Never leaves this package."""


class RayCluster:
    """Where workers run."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        """Nothing is started yet.

        Args:
            workers: how many; the cores are divided among them.
            address: of a running Ray cluster, "auto" for this machine's; None: one of our own, on loopback.

        Raises:
            ConfigError: no worker at all, or Ray is not installed, or was imported before us.
        """
        if workers < 1:
            raise ConfigError(f"there must be at least 1 worker, got {workers}")
        self.workers = workers
        self.address = address
        self._ray = _import_ray(address)

    @contextmanager
    def connected(self) -> Generator[None, None, None]:
        """Workers live within; a cluster of our own does too.

        Raises:
            ConfigError: the cluster cannot be started or reached, or has fewer cores than workers.
        """
        with tempfile.TemporaryDirectory(prefix="vllm-mega-", ignore_cleanup_errors=True) as folder:
            try:
                self._ray.init(**self._where(folder), log_to_driver=False, configure_logging=False)
            except (OSError, RuntimeError, ValueError) as error:
                at = "on this machine" if self.address is None else f"at {self.address}"
                raise ConfigError(f"there is no Ray cluster {at}: {error}") from error
            try:
                self._check()
                yield
            finally:
                self._ray.shutdown()

    def _where(self, folder: str) -> dict[str, Any]:
        if self.address is not None:
            return {"address": self.address}
        return {
            "num_cpus": max(self.workers, len(os.sched_getaffinity(0))),
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": folder,
        }

    def _check(self) -> None:
        if self.address is None and not ip_address(self._ray.util.get_node_ip_address()).is_loopback:
            raise ConfigError("Ray would listen on all interfaces, not on loopback alone")
        if self.workers > self._cores:
            raise ConfigError(f"{self.workers} workers need as many cores, the cluster has {self._cores}")

    @property
    def _cores(self) -> int:
        return int(self._ray.cluster_resources()["CPU"])

    @property
    def hosts(self) -> int:
        """Of the cluster that is connected."""
        return len({node["NodeManagerAddress"] for node in self._ray.nodes() if node["Alive"]})

    def start(self, kind: type, *args: Any) -> Any:
        """A new worker `kind(*args, threads)`; dead ones are not started again."""
        threads = self._cores // self.workers
        return self._ray.remote(num_cpus=threads)(kind).remote(*args, threads)

    def first(self, references: list[Any]) -> Any:
        """The first of `references` that is done or lost."""
        (reference,), _ = self._ray.wait(references, num_returns=1)
        return reference

    def answer(self, reference: Any) -> Any:
        """What the worker returned.

        Raises:
            MegaError: whatever it raised.
            WorkerLostError: it is gone.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MegaError):
                raise cause from error
            raise TrainingError(f"a worker failed: {cause!r}") from error
        except self._ray.exceptions.RayError as error:
            raise WorkerLostError(str(error).strip()) from error


def _import_ray(address: str | None) -> Any:
    # Ray would tell its makers about each run.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        # These are read while Ray is imported, and never again.
        if "ray" in sys.modules and os.environ.get(LOOPBACK_ONLY) != "0":
            raise ConfigError(
                "Ray was imported before and would listen on all interfaces; train in a process of its own"
            )
        os.environ[LOOPBACK_ONLY] = "0"
        # Else it would write a token into the home directory.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "several workers need Ray, which is not installed: pip install 'vllm-mega[ray]'"
        ) from error
