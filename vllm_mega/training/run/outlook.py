"""`vllm-mega train --dry-run`: all that is asked before training, and what training will cost here."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from msgspec.structs import replace

from vllm_mega.bank.layout import NewMemory
from vllm_mega.models.architectures import active_experts, architecture, experts
from vllm_mega.models.chat_format import ChatFormat
from vllm_mega.models.checkpoint import model_config, tensors, weight_dtype
from vllm_mega.models.dtype import cpu_dtype
from vllm_mega.models.functional import text_config
from vllm_mega.training.compute.learner import Learner
from vllm_mega.training.compute.packing import leads
from vllm_mega.training.recipe.encoding import encode_job
from vllm_mega.training.recipe.job import memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.run.changes import Why
from vllm_mega.training.run.estimate import (
    STEPS,
    Shape,
    Tokens,
    flops,
    most_jobs,
    peak_bytes,
    shape_of,
)
from vllm_mega.training.run.plan import Plan, prepare
from vllm_mega.training.run.preflight import adapter_bytes

CPU_OTHERS = 6e11
"""Beside the products a CPU moves memory, for as long as they would take at this speed (in multiplications
and additions a second): SmolLM2-135M reaches 14 % of 3.6e12 where products are fast, 56 to 62 % of 5.4e11
where they are not."""
GPU_SHARE = 0.3
"""A GPU computes at this part of its fastest product, and beside that ..."""
GPU_LAYER = 0.01
"""... each layer with adapters takes so many seconds a step to be sent to it, for one memory or for eight:
both are from Llama-3.1-8B's shape on an H200."""
SAMPLE = 16
"""Memories whose tokens are counted; the others are taken to be like them."""
PROBE = 0.5
"""Seconds that the probe multiplies for."""
_CUBES = {"cpu": 2048, "cuda": 8192}
"""Rows of the probe's matrices: enough for full speed."""


class Outlook(NamedTuple):
    """What a run would do and cost."""

    missing: int
    why: dict[Why, int]
    """How many of the missing for which reason."""
    there: int
    bytes_each: int
    """Of an adapter."""
    jobs: int
    """Memories that are trained side by side."""
    memory: float
    """Bytes that training takes at most, with the model ..."""
    free: float
    """... beside those that are free."""
    most_jobs: int
    """How many memories side by side the free bytes are enough for; 0: not even for one."""
    seconds_each: float
    """Of a memory, of about `STEPS` steps."""
    gflops: float
    """Of the fastest product: measured now."""
    efficiency: float
    """The part of it that training is taken to reach."""
    device: str
    dtype: str


def outlook(
    bank: Path,
    memories: Sequence[NewMemory],
    model: str | None = None,
    embedder: str | None = None,
    settings: TrainSettings | None = None,
    *,
    catalog: str | None = None,
    trust_remote_code: bool = False,
) -> Outlook:
    """What `train` with these arguments would do; raises what it would raise before training.

    Loads no weights of the model (those of the embedder it does: keys can be refused), and writes nothing.
    """
    plan = prepare(
        bank, memories, model, embedder, settings, catalog=catalog, trust_remote_code=trust_remote_code
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = compute_dtype(plan.path, device)
    shape = checkpoint_shape(plan)
    recipe = replace(plan.recipe, jobs=max(1, min(plan.recipe.jobs, len(plan.missing))))
    tokens = tokens_of(plan.missing or plan.there, plan.chat, recipe)
    width, free, speed = dtype.itemsize, free_bytes(device), probe(dtype, device)
    products = flops(shape, tokens, recipe).memory(steps := min(STEPS, recipe.max_steps))
    seconds = seconds_of(products, speed, device, recipe, steps)
    return Outlook(
        len(plan.missing),
        dict(Counter(plan.why)),
        len(plan.there),
        adapter_bytes(plan.shapes, recipe),
        recipe.jobs,
        peak_bytes(shape, tokens, recipe, width),
        free,
        most_jobs(shape, tokens, recipe, width, free),
        min(seconds, recipe.seconds or math.inf),
        speed / 1e9,
        products / seconds / speed,
        device,
        str(dtype).removeprefix("torch."),
    )


def seconds_of(products: float, speed: float, device: str, settings: TrainSettings, steps: int) -> float:
    """Of one memory, as one of `settings.jobs`.

    Args:
        products: multiplications and additions of it.
        speed: of the fastest product, a second.
        device: "cpu" or "cuda".
        settings: resolved.
        steps: of its training.
    """
    if device == "cpu":
        return products / speed + products / CPU_OTHERS
    assert settings.layers is not None
    return products / (speed * GPU_SHARE) + steps * settings.layers * GPU_LAYER / settings.jobs


def checkpoint_shape(plan: Plan) -> Shape:
    """The shape of the model of `plan`, from its config and the headers of its weights."""
    config = model_config(plan.path)
    text = text_config(config)
    return shape_of(
        plan.shapes,
        plan.recipe,
        total=sum(math.prod(tensor.shape) for tensor in tensors(plan.path).values()),
        hidden=int(text.get("hidden_size") or text["n_embd"]),
        vocabulary=int(text["vocab_size"]),
        active=active_experts(config),
        mlp=() if experts(config) else architecture(config).mlp,
    )


def tokens_of(memories: Sequence[NewMemory], chat: ChatFormat, recipe: Recipe) -> Tokens:
    """Means over some of `memories`, evenly chosen; 0 if there are none."""
    chosen = memories[:: max(1, len(memories) // SAMPLE)][:SAMPLE]
    counts = [_tokens(memory, chat, recipe) for memory in chosen]
    return Tokens(*(sum(column) / len(counts) for column in zip(*counts, strict=True))) if counts else _NONE


_NONE = Tokens(0, 0, 0, 0, 0, 0)


def _tokens(memory: NewMemory, chat: ChatFormat, recipe: Recipe) -> Tokens:
    """As the trainer packs them: mean over the first steps."""
    job = memory_job(memory, recipe)
    learner = Learner(job, encode_job(chat, job, recipe.encoding), recipe)
    row = labels = 0
    steps = list(islice(learner.steps, STEPS))
    for picked in steps:
        for pool, members in zip(learner.pools, learner.members, strict=True):
            mine = [members[n] for n in picked if n in members]
            row += (len(pool.prefix) if mine else 0) + sum(len(pool.rests[n]) for n in mine)
            labels += sum(len(pool.labels[n]) for n in mine)
    text = len(learner.recital.answer)
    return Tokens(
        lead=len(leads(learner.pools).ids),
        pool=sum(len(pool.ids) for pool in learner.pools),
        step=row / len(steps),
        labels=labels / len(steps),
        recital=len(learner.recital.prompt) + text,
        text=text,
    )


def compute_dtype(path: Path, device: str) -> torch.dtype:
    """The type that the trainer computes in (see `frozen`)."""
    name = (cpu_dtype(path) if device == "cpu" else None) or weight_dtype(path) or "float32"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def free_bytes(device: str) -> float:
    """Memory that is free now, of the machine or of its GPU."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def probe(dtype: torch.dtype, device: str, seconds: float = PROBE) -> float:
    """Multiplications and additions a second of a large square product, the fastest call."""
    size = _CUBES[device]
    x = torch.randn(size, size, device=device).to(dtype)
    best, end, calls = math.inf, time.perf_counter() + seconds, 0
    while time.perf_counter() < end or calls < 3:
        started = time.perf_counter()
        x @ x
        if device == "cuda":
            torch.cuda.synchronize()
        best, calls = min(best, time.perf_counter() - started), calls + 1
    return 2.0 * size**3 / best
