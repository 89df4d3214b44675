"""Prints what the checks at start cost and import, as JSON, once what is checked has been imported."""

from __future__ import annotations

import importlib
import json
import sys
import time

from vllm_mega.contract.checking import require
from vllm_mega.contract.of_transformers import TRANSFORMERS
from vllm_mega.engine.upstream.applying import apply, apply_to_server
from vllm_mega.engine.upstream.runner_patches import RUNNER_PATCHES
from vllm_mega.engine.upstream.whole import AT_START

USERS = {
    "configuration": (),
    "scheduler": ("vllm_mega.engine.scheduler",),
    "worker": ("vllm_mega.engine.worker", "vllm.v1.worker.worker_base"),
    "serve": ("vllm.entrypoints.cli.serve",),
    "server": ("vllm_mega.http.endpoints", "vllm.v1.engine.async_llm"),
    "batch": ("vllm_mega.batch.engine",),
    "offline": ("vllm_mega.offline",),
    "training": ("vllm_mega.training.compute.frozen", "transformers.models.auto.modeling_auto"),
}


def measured(part: str) -> dict[str, object]:
    """Of one part: seconds of this process, and modules that were not there before."""
    for module in USERS[part]:
        importlib.import_module(module)
    if part == "worker":
        for patch in RUNNER_PATCHES:
            patch.apply()
    before, started = set(sys.modules), time.process_time()
    require({**AT_START, "training": TRANSFORMERS}[part])
    seconds = time.process_time() - started
    new = sorted(set(sys.modules) - before)
    return {
        "seconds": round(seconds, 4),
        "imported": [m for m in new if m.split(".")[0] in ("vllm", "transformers")],
    }


if __name__ == "__main__":
    apply()
    apply_to_server()
    json.dump({part: measured(part) for part in USERS}, sys.stdout)
