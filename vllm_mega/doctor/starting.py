"""Whether vLLM can be imported as `serve` would start it, on which device, with our plugin in it.

In a process of its own: libraries are preloaded when a process starts, and an import that crashes takes no
more with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import msgspec

from vllm_mega.doctor.finding import Finding
from vllm_mega.jsonl import JsonError, decode

SECONDS = 600
"""The import takes about ten; a machine that is busy, or whose disk is slow, takes longer."""
PROGRAM = """
import json, sys
from vllm.plugins import load_general_plugins
from vllm.platforms import current_platform as platform
load_general_plugins()
devices = []
if not platform.is_cpu():
    import torch
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
applied = "vllm_mega.engine.upstream.applying" in sys.modules
print("\\n" + json.dumps({"device": platform.device_type, "devices": devices, "applied": applied}))
"""


class Started(msgspec.Struct, frozen=True):
    """What the process says."""

    device: str
    devices: list[str]
    applied: bool
    """Whether our plugin was loaded."""


def starting() -> Iterator[Finding]:
    """What comes of an import of vLLM.

    Raises:
        ConfigError: vLLM is not installed.
    """
    from vllm_mega.http.launch import this_environment

    environment = {**os.environ, **this_environment(), "VLLM_LOGGING_LEVEL": "ERROR"}
    yield imported([sys.executable, "-c", PROGRAM], environment)


def imported(command: list[str], environment: Mapping[str, str]) -> Finding:
    """What the process of `command` says of itself, as a finding."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return Finding("vllm starts", "problem", f"the import of vLLM took more than {SECONDS} s", _BUSY)
    last = done.stdout.rstrip().rpartition("\n")[2]
    try:
        started = decode(last.encode(), Started)
    except JsonError:
        return Finding("vllm starts", "problem", _why(done.returncode, done.stderr), _BROKEN)
    return judged(started, done.stderr)


def judged(started: Started, said: str) -> Finding:
    """Whether that is a server with memory; `said`: what the process wrote on standard error."""
    if not started.applied:
        found = "our plugin is not found by vLLM"
        return Finding(
            "vllm starts", "problem", found, "install vllm-mega: on the path alone it is no plugin"
        )
    if started.device == "cuda" and not started.devices:
        found = "vLLM is built for GPUs, and there is none"
        return Finding("vllm starts", "problem", found, "look at nvidia-smi; for CPUs: 'vllm-mega[cpu]'")
    where = ", ".join(started.devices) or started.device
    if "cannot be preloaded" in said:
        line = next(line for line in said.splitlines() if "cannot be preloaded" in line)
        return Finding("vllm starts", "warning", f"on {where}; {line}", "take it out of LD_PRELOAD")
    return Finding("vllm starts", "ok", f"on {where}")


def _why(code: int, said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it said nothing"
    return f"the import of vLLM ended with exit code {code}: {last}"


_BUSY = "try again when the machine is less busy"
_BROKEN = "python -c 'import vllm' says more; if the packages are as above, install them anew"
