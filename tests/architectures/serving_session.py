"""Banks served by the real engine, in turn: python -m tests.architectures.serving_session OUT BANK...

A process of its own, in which every bank has its short-lived engine (`MegaLLM`, offline): vLLM is imported
once.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.architectures.exactness import MEMORY

QUESTION = "Who counts the copper rivets of the kettle of Ommen, and until when?"
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_loras": 2,
    "max_cpu_loras": 2,
    "max_model_len": 256,
    "max_num_seqs": 2,
    "max_num_batched_tokens": 256,
    "kv_cache_memory_bytes": 32 * 2**20,
    "disable_log_stats": True,
}


class Served(msgspec.Struct, frozen=True):
    """What an engine said to QUESTION with the memory attached, or why it did not."""

    seconds: float
    prompt: list[int] = []
    start: int = 0
    """The token of the prompt from which the adapter acted."""
    tokens: list[int] = []
    logprobs: list[float] = []
    refusal: str = ""
    """In our words, by a MegaError."""
    failure: str = ""
    """Any other exception."""


def serve(banks: Sequence[Path], output: Path, timeout: float) -> list[Served]:
    """Ask all banks, in a process of its own; what it prints goes to a file beside `output`.

    Args:
        banks: with MEMORY in them.
        output: a file for the answers.
        timeout: in seconds, for all of them.

    Raises:
        RuntimeError: the process has ended otherwise than it should.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_") or k == "VLLM_MEGA_HOME"}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_PLUGINS": "vllm_mega",
    }
    command = [sys.executable, "-m", "tests.architectures.serving_session", str(output), *map(str, banks)]
    log = output.with_suffix(".log")
    with log.open("wb") as said:
        run = subprocess.run(command, env=environment, stdout=said, stderr=said, check=False, timeout=timeout)
    if run.returncode != 0:
        raise RuntimeError(f"the engines ended with {run.returncode}:\n{log.read_text()[-3000:]}")
    return msgspec.json.decode(output.read_bytes(), type=list[Served])


def ask(bank: Path) -> Served:
    """Start an engine, ask it, end it."""
    from vllm import SamplingParams

    from vllm_mega import MegaLLM
    from vllm_mega.errors import MegaError

    started = time.perf_counter()
    greedy = SamplingParams(temperature=0, max_tokens=8, logprobs=0, ignore_eos=True)
    try:
        with MegaLLM(bank, **ENGINE) as llm:
            (answer,) = llm.chat([QUESTION], greedy, mega={"memories": [{"id": MEMORY.id}]})
    except MegaError as error:
        return Served(time.perf_counter() - started, refusal=str(error))
    except Exception as error:  # vLLM's are of many kinds; the other families still have their turn
        return Served(time.perf_counter() - started, failure=f"{type(error).__name__}: {error}")
    said = answer.output.outputs[0]
    logprobs = [place[token].logprob for place, token in zip(said.logprobs, said.token_ids, strict=True)]
    return Served(
        time.perf_counter() - started,
        list(answer.output.prompt_token_ids),
        answer.mega["start"],
        list(said.token_ids),
        logprobs,
    )


def main(output: Path, banks: Sequence[Path]) -> None:
    """Ask all banks and write what they said."""
    import sentence_transformers  # noqa: F401  # now: what is imported later is not frozen
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    import vllm_mega.offline  # noqa: F401

    gc.collect()
    gc.freeze()  # or every engine's many collections would go through all that vLLM imports: half of the time
    served = []
    for bank in banks:
        served.append(ask(bank))
        gc.collect()
        cleanup_dist_env_and_memory()
    output.write_bytes(msgspec.json.encode(served))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(bank) for bank in sys.argv[2:]])
