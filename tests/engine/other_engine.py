"""Run by tests in a process of its own: an engine with other settings, or without our plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Answers = list[tuple[tuple[int, ...], tuple[float, ...]]]


def ask_other_engine(
    folder: Path,
    model: Path,
    args: dict[str, Any],
    requests: Sequence[tuple[str, Any]],
    *,
    plugins: str,
    batched: bool,
    starts: Sequence[int] = (),
    max_tokens: int = 8,
    like_a_gpu: Sequence[str] = (),
) -> Answers:
    """Greedy tokens and their logprobs for (prompt, LoRARequest | None) pairs, from a fresh engine.

    `starts`: from which token each one's mixture acts; empty: all from the first.
    `like_a_gpu`: the `STAND_INS` of `tests.engine.like_a_gpu` that are put in.
    """
    job = {
        "model": str(model),
        "args": args,
        "requests": [
            (prompt, lora and (lora.lora_name, lora.lora_int_id, lora.lora_path)) for prompt, lora in requests
        ],
        "batched": batched,
        "starts": list(starts) or [0] * len(requests),
        "max_tokens": max_tokens,
        "like_a_gpu": list(like_a_gpu),
        "output": str(folder / "answers.json"),
    }
    env = os.environ | {"VLLM_PLUGINS": plugins, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if like_a_gpu:
        root = str(Path(__file__).parents[2])  # its stand-ins are a module of the tests
        env |= {"PYTHONPATH": root, "TRITON_INTERPRET": "1"}
        env |= {"VLLM_USE_V2_MODEL_RUNNER": str(int("runner" in like_a_gpu))}
    subprocess.run(
        [sys.executable, __file__], input=json.dumps(job), text=True, env=env, check=True, timeout=500
    )
    return [(tuple(t), tuple(p)) for t, p in json.loads(Path(job["output"]).read_text())]


def main() -> None:
    job = json.load(sys.stdin)
    if job["like_a_gpu"]:
        from tests.engine.like_a_gpu import STAND_INS

        for name in job["like_a_gpu"]:
            STAND_INS[name]()

    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    llm = LLM(job["model"], **job["args"])
    assert ("vllm_mega" in sys.modules) == (os.environ["VLLM_PLUGINS"] == "vllm_mega")
    common = {"temperature": 0, "max_tokens": job["max_tokens"], "logprobs": 0, "ignore_eos": True}
    params = [SamplingParams(extra_args={"mega_start": start}, **common) for start in job["starts"]]
    requests = [
        (prompt, LoRARequest(*lora) if lora else None, param)
        for (prompt, lora), param in zip(job["requests"], params, strict=True)
    ]
    groups = [requests] if job["batched"] else [[request] for request in requests]
    outputs = [
        output.outputs[0]
        for group in groups
        for output in llm.generate(
            [p for p, _, _ in group],
            [param for _, _, param in group],
            lora_request=[lora for _, lora, _ in group],
            use_tqdm=False,
        )
    ]
    answers = [
        (list(o.token_ids), [p[t].logprob for p, t in zip(o.logprobs, o.token_ids, strict=True)])
        for o in outputs
    ]
    Path(job["output"]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
