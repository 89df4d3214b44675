"""Run by a test in a process without our plugin: what stock vLLM says with one adapter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    job = json.load(sys.stdin)
    llm = LLM(job["model"], enforce_eager=True, **job["args"])
    assert "vllm_mega" not in sys.modules, "this process must be stock vLLM"
    params = SamplingParams(temperature=0, max_tokens=8, logprobs=0, ignore_eos=True)
    lora = LoRARequest("adapter", 1, job["adapter"])
    # One at a time: stock vLLM 0.32 is wrong in mixed batches, which is not what this compares.
    outputs = [
        llm.generate([p], params, lora_request=lora, use_tqdm=False)[0].outputs[0] for p in job["prompts"]
    ]
    answers = [
        (list(o.token_ids), [p[t].logprob for p, t in zip(o.logprobs, o.token_ids, strict=True)])
        for o in outputs
    ]
    Path(job["output"]).write_text(json.dumps(answers))
