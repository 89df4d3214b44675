"""A cluster and how workers share it, as far as that needs no Ray; tests of workers start one."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vllm_mega.errors import ConfigError
from vllm_mega.ray_cluster import LOOPBACK_ONLY, RayCluster, share

PGSQL = "postgresql+psycopg://host/bank"


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'vllm-mega\[ray\]'"):
        RayCluster(2)


def test_a_ray_that_would_listen_to_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.delenv(LOOPBACK_ONLY, raising=False)
    with pytest.raises(ConfigError, match=r"imported before .* process of its own"):
        RayCluster(2)


def test_no_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 worker, got 0"):
        RayCluster(0)


@pytest.mark.parametrize(
    ("cores", "workers", "each"),
    [
        ([8], 1, 8),
        ([8], 3, 2),
        ([2], 3, 0),
        ([3, 3], 3, 1),
        ([3, 3], 2, 3),
        ([16, 2], 3, 5),
        ([0, 4], 2, 2),
        ([], 1, 0),
    ],
)
def test_cores_are_shared_and_no_worker_is_spread_over_nodes(
    cores: list[int], workers: int, each: int
) -> None:
    assert share(cores, workers) == each


def cluster(monkeypatch: pytest.MonkeyPatch, workers: int, *hosts: str, gpus: float = 0) -> RayCluster:
    """Of nodes with four cores; one host is gone."""
    ray: Any = ModuleType("ray")
    nodes = [
        {"Alive": host != "gone", "NodeManagerAddress": host, "Resources": {"CPU": 4.0}} for host in hosts
    ]
    ray.init, ray.shutdown, ray.nodes = lambda **_: None, lambda: None, lambda: nodes
    ray.cluster_resources = lambda: {"GPU": gpus}
    ray.util = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1")
    monkeypatch.setitem(sys.modules, "ray", ray)
    return RayCluster(workers, "10.0.0.1:6379")


def test_several_hosts_need_a_catalog_that_all_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, 2, "one", "one", "gone").require_reach(None)
    two = cluster(monkeypatch, 2, "one", "two")
    two.require_reach(PGSQL)
    with pytest.raises(ConfigError, match=r"has 2 hosts.*--catalog"):
        two.require_reach(None)


def test_more_workers_than_cores_or_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(monkeypatch, 4, "one", "gone", gpus=8).connected() as _:
        pass
    with (
        pytest.raises(ConfigError, match="5 workers need as many cores, the cluster has 4"),
        cluster(monkeypatch, 5, "one", "gone").connected(),
    ):
        pass
    cluster(monkeypatch, 4, "one", gpus=8).require_gpus(2)
    with pytest.raises(ConfigError, match="4 workers need 12 GPUs, the cluster has 8"):
        cluster(monkeypatch, 4, "one", gpus=8).require_gpus(3)
