"""Ray Data, as far as we need it: rows go to workers, what they make of them comes back in order."""

from __future__ import annotations

import importlib
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_mega.errors import BatchError, ConfigError
from vllm_mega.ray_cluster import RayCluster

LOSSES = 3
"""How often a worker is started again, and a row given again, before the run ends."""
_PATIENCE = 60.0
"""Seconds for a thread of Ray Data's to end; it takes milliseconds where it is its turn."""


def mapped(
    cluster: RayCluster,
    kind: type,
    made_of: Sequence[Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    at_once: int,
    gpus: int = 0,
) -> Iterator[dict[str, Any]]:
    """`worker(row)` for each row, in order, from workers `kind(*made_of, threads)`.

    Args:
        cluster: connected.
        kind: of the workers; called by several threads.
        made_of: arguments, beside the number of threads that a worker may compute with.
        rows: numbers, words and bytes; one whose worker dies is given to another.
        at_once: how many rows a worker has.
        gpus: of each worker.

    Raises:
        BatchError: a worker dies again and again.
        ConfigError: Ray Data is not installed, or the cluster has too few GPUs.
    """
    cluster.require_gpus(gpus)
    data = _ray_data()
    given = data.from_items(list(rows), override_num_blocks=len(rows))
    pool = data.ActorPoolStrategy(
        size=cluster.workers,
        max_tasks_in_flight_per_actor=at_once,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=True,
    )
    workers = {"fn_constructor_args": (*made_of, cluster.threads), "compute": pool}
    needs = {"num_cpus": cluster.threads, "num_gpus": gpus}
    with warnings.catch_warnings():
        # What says how often to start an actor again has no other name yet; the extra `ray` ends before 2.64.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        made = given.map(kind, **workers, **needs, max_restarts=LOSSES, max_task_retries=LOSSES)
    try:
        yield from made.iter_rows()
    except cluster.ray.exceptions.RayActorError as error:
        raise BatchError(
            f"a worker died {LOSSES + 1} times. Too little memory for so many engines is the usual reason: "
            "try fewer --workers. What was answered before is in the output, and the next run goes on behind "
            f"it. Ray says: {str(error).splitlines()[0]}"
        ) from error
    finally:
        _await_executors()


def _await_executors() -> None:
    """Wait for the threads that hand rows around: one that asks a cluster which is gone ends the process.

    Ray itself waits for two seconds, which on a busy machine is too short.
    """
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("ray.data."):
            thread.join(_PATIENCE)


def _ray_data() -> Any:
    try:
        data = importlib.import_module("ray.data")
    except ImportError as error:
        raise ConfigError(
            f"several workers need Ray Data, which is not installed: pip install 'vllm-mega[ray]' ({error})"
        ) from error
    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    context.wait_for_min_actors_s = 600  # else the first that is there takes all the rows of a small file
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised, and told once
    return data
