"""Ray, as far as we need it: a cluster of our own or somebody's, and how workers share it."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
import tempfile
from collections.abc import Collection, Generator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from vllm_mega.errors import ConfigError

STORE_BYTES = 256 * 2**20
"""Where Ray keeps results on their way: a fit is about a megabyte, a lot of answers less."""

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, Ray binds to loopback. (Told `_node_ip_address="127.0.0.1"`, Ray 2.60 looks for an address that
others can reach, and binds to all interfaces.)"""


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
        self.ray = _import_ray(address)

    @contextmanager
    def connected(self) -> Generator[None, None, None]:
        """Workers live within; a cluster of our own does too.

        Raises:
            ConfigError: the cluster cannot be started or reached, or has fewer cores than workers.
        """
        with tempfile.TemporaryDirectory(prefix="vllm-mega-", ignore_cleanup_errors=True) as folder:
            try:
                self.ray.init(**self._where(folder), log_to_driver=False, configure_logging=False)
            except (OSError, RuntimeError, ValueError) as error:
                at = "on this machine" if self.address is None else f"at {self.address}"
                raise ConfigError(f"there is no Ray cluster {at}: {error}") from error
            try:
                self._check()
                yield
            finally:
                self.ray.shutdown()

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
        if self.address is None and not ip_address(self.ray.util.get_node_ip_address()).is_loopback:
            raise ConfigError("Ray would listen on all interfaces, not on loopback alone")
        if not self.threads:
            cores = sum(self._cores)
            raise ConfigError(f"{self.workers} workers need as many cores, the cluster has {cores}")

    @property
    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    @property
    def _cores(self) -> list[int]:
        return [int(node["Resources"].get("CPU", 0)) for node in self._nodes]

    @property
    def threads(self) -> int:
        """Of each worker, on the cluster that is connected."""
        return share(self._cores, self.workers)

    def require_gpus(self, each: int) -> None:
        """Refuse more GPUs than there are: Ray would wait for them.

        Args:
            each: how many a worker needs.

        Raises:
            ConfigError: there are too few.
        """
        there = int(self.ray.cluster_resources().get("GPU", 0))
        if (needed := self.workers * each) > there:
            raise ConfigError(f"{self.workers} workers need {needed} GPUs, the cluster has {there}")

    def require_reach(self, catalog: str | None) -> None:
        """Refuse workers on several hosts, and a catalog that serves one.

        Args:
            catalog: its URL; None: it is in the bank's folder.

        Raises:
            ConfigError: they cannot all reach it.
        """
        hosts = len({node["NodeManagerAddress"] for node in self._nodes})
        if catalog is None and hosts > 1:
            raise ConfigError(
                f"the Ray cluster has {hosts} hosts, and a catalog in the bank's folder serves one: put it "
                "into PostgreSQL (--catalog), and the folder on a file system that all of them see"
            )


def share(cores: Collection[int], workers: int) -> int:
    """The most cores that each of `workers` can have, none of them spread over nodes; 0: they do not fit.

    Args:
        cores: of each node.
        workers: at least 1.
    """
    fitting = (most for most in range(max(cores, default=0), 0, -1) if _places(cores, most) >= workers)
    return next(fitting, 0)


def _places(cores: Collection[int], each: int) -> int:
    return sum(n // each for n in cores)


def _import_ray(address: str | None) -> Any:
    # Ray would tell its makers about each run.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        # These are read while Ray is imported, and never again.
        if "ray" in sys.modules and os.environ.get(LOOPBACK_ONLY) != "0":
            raise ConfigError(
                "Ray was imported before and would listen on all interfaces; run in a process of its own"
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
