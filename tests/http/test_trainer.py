"""How the trainer beside a server is started."""

from __future__ import annotations

import sys

import pytest

from vllm_mega.errors import ConfigError
from vllm_mega.http.trainer import refuse_without_server, trainer_beside, trainer_threads


@pytest.mark.parametrize(("asked", "cores", "threads"), [(None, 1, 1), (None, 2, 1), (None, 9, 4), (2, 2, 2)])
def test_it_computes_with_half_of_the_cores_unless_asked(asked: int | None, cores: int, threads: int) -> None:
    assert trainer_threads(asked, range(cores)) == threads


@pytest.mark.parametrize("asked", [0, -1, 3])
def test_threads_that_no_core_is_for_are_refused(asked: int) -> None:
    with pytest.raises(ConfigError, match=rf"--train-threads must be 1\.\.2 .* got {asked}"):
        trainer_threads(asked, range(2))


def test_it_has_the_users_variables_and_threads_that_sleep() -> None:
    environ = {"LD_PRELOAD": "/x.so", "OMP_NUM_THREADS": "2", "HOME": "/h"}
    serving = {"LD_PRELOAD": "/x.so:/libiomp5.so", "VLLM_CPU_KVCACHE_SPACE": "2"}
    words = ["--bank", "/b"]
    beside = trainer_beside(words, 1, environ=environ, serving=serving, on_cpu=True)
    assert beside.command == [sys.executable, "-m", "vllm_mega", "train", "--watch", "--bank", "/b"]
    assert beside.surroundings({**environ, **serving}) == {
        "LD_PRELOAD": "/x.so",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
        "HOME": "/h",
    }


def test_where_vllm_has_the_device_it_computes_on_the_cpu() -> None:
    beside = trainer_beside([], 1, environ={"CUDA_VISIBLE_DEVICES": "0"}, serving={}, on_cpu=False)
    assert beside.environment["CUDA_VISIBLE_DEVICES"] == ""


def test_it_needs_a_server_that_says_when_it_is_ready() -> None:
    refuse_without_server({"port": 8000})
    with pytest.raises(ConfigError, match="--headless serves nothing here"):
        refuse_without_server({"headless": True})
