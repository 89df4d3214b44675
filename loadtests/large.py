"""Slices of large models: python -m loadtests.large --output out/large.json

Two layers with random weights of the shape of Llama-3.1-8B and Qwen2.5-7B, the upper one with adapters,
trained some steps by our own trainer. What all layers would take is arithmetic (`training.estimate`).
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook

from loadtests.invented import invent
from loadtests.machine import Machine, this_machine
from loadtests.program import Program
from vllm_mega.bank.layout import NewMemory
from vllm_mega.models import model_config, resolve_model
from vllm_mega.models.architectures import architecture
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.training.recipe.job import memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.targets import resolved
from vllm_mega.training.run.estimate import STEPS, Shape, Tokens, flops, peak_bytes, shape_of
from vllm_mega.training.run.outlook import compute_dtype, probe, tokens_of
from vllm_mega.training.run.trainer import Trainer

LAYERS = 2
RUN = 4
"""Steps of a training; the second and the third are timed, one of each kind (see `schedule`)."""
JOBS = (1, 4)
T = TypeVar("T")


class Dimensions(msgspec.Struct, frozen=True):
    """A decoder of Llama's plan, with an untied head."""

    name: str
    config: dict[str, Any]
    """As in its config.json."""

    @property
    def full(self) -> dict[str, tuple[int, int]]:
        """(O, I) by linear module of all layers."""
        c = self.config
        hidden, inner = c["hidden_size"], c["intermediate_size"]
        keys = hidden // c["num_attention_heads"] * c["num_key_value_heads"]
        layer = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        depth = c["num_hidden_layers"]
        return {f"model.layers.{n}.{name}": shape for n in range(depth) for name, shape in layer.items()}

    def shape(self, linear: Mapping[str, tuple[int, int]], settings: Recipe, words: int) -> Shape:
        """With these linear modules and a vocabulary of `words`."""
        hidden = self.config["hidden_size"]
        total = sum(o * i for o, i in linear.values()) + 2 * hidden * words
        mlp = architecture(self.config).mlp
        return shape_of(linear, settings, total=total, hidden=hidden, vocabulary=words, mlp=mlp)


LLAMA = Dimensions("Llama-3.1-8B", {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 5e5,
})  # fmt: skip
QWEN = Dimensions("Qwen2.5-7B", {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "rope_theta": 1e6,
})  # fmt: skip


class Trained(msgspec.Struct, frozen=True):
    """A training of some memories side by side, on the slice."""

    jobs: int
    step: float
    """Seconds of a step."""
    rest: float
    """Seconds of all but steps: layers below, turning A, asking at the end."""
    peak: float
    """Bytes of the process at most, so far."""


class Slice(msgspec.Struct, frozen=True):
    """What was measured on the slice of one model."""

    flops: float
    """A second, of the fastest product, before training."""
    load: float
    """Seconds until the trainer was ready."""
    loaded: float
    """Bytes of the process at most, by then."""
    runs: list[Trained]


class Row(msgspec.Struct, frozen=True):
    """One model, some memories side by side."""

    model: str
    jobs: int
    step: float
    """Seconds of a step of the slice, measured ..."""
    peak: float
    """... and bytes of the process at most."""
    efficiency: float
    """Part of the fastest product that a step reaches."""
    estimated_peak: float
    """Bytes that the estimate says of the slice."""
    full_seconds: float
    """Of one memory on all layers: measured on the slice, times the products of all layers by its own."""
    full_peak: float
    """The same of memory."""
    full_estimate: float
    """Bytes that the estimate says of all layers."""
    adapter: int
    """Bytes of an adapter."""
    flops: float
    """Multiplications and additions of one memory on all layers."""


class Result(msgspec.Struct):
    """What the output file says."""

    machine: Machine
    slices: dict[str, Slice]
    rows: list[Row]


def row(model: Dimensions, part: Slice, ran: Trained, short: Tokens, long: Tokens, words: int) -> Row:
    """From what was measured on a slice to what all layers take. Pure.

    Args:
        model: the model.
        part: its slice.
        ran: the training.
        short: tokens of the memories that the slice was trained on.
        long: tokens of those that all layers are estimated for.
        words: vocabulary of the slice.
    """
    settings = _settings(model, ran.jobs)
    full = model.shape(model.full, settings, model.config["vocab_size"])
    upper = _settings(model, ran.jobs, layers=1)
    linear = {name: shape for name, shape in model.full.items() if int(name.split(".")[2]) < LAYERS}
    small = model.shape(linear, upper, words)
    did, would = flops(small, short, upper), flops(full, long, settings)
    estimated = peak_bytes(small, short, upper, 2)
    estimate = peak_bytes(full, long, settings, 2)
    step = ran.step / ran.jobs * would.step / did.step
    rest = ran.rest / ran.jobs * would.memory(0) / did.memory(0)
    return Row(
        model.name, ran.jobs, ran.step, ran.peak,
        efficiency=ran.jobs * did.step / ran.step / part.flops,
        estimated_peak=estimated,
        full_seconds=STEPS * step + rest,
        full_peak=ran.peak * estimate / estimated,
        full_estimate=estimate,
        adapter=2 * full.adapter,
        flops=would.memory(STEPS),
    )  # fmt: skip


def _settings(model: Dimensions, jobs: int, layers: int | None = None) -> Recipe:
    return resolved(Recipe(jobs=jobs, layers=layers, max_steps=RUN), model.config)


def write_slice(
    model: Dimensions, base: Path, folder: Path, layers: int = LAYERS, words: int = 0, device: str = "cpu"
) -> None:
    """A checkpoint of `layers` layers with random weights and the tokenizer of `base`, into `folder`.

    `words`: of its vocabulary; 0: as many as `base` has. `device`: draws the numbers.
    """
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    words = words or model_config(base)["vocab_size"]
    said = {**model.config, "num_hidden_layers": layers, "vocab_size": words}
    config = AutoConfig.for_model(**said, tie_word_embeddings=False, dtype="bfloat16")
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(config).state_dict().items()}
    torch.manual_seed(0)
    weights = {
        name: torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=0.02).cpu()
        for name, shape in shapes.items()
    }
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def measure_slice(folder: Path, memories: Sequence[NewMemory]) -> Slice:
    """Train on the checkpoint in `folder`; in a process of its own, whose memory is measured."""
    speed = probe(compute_dtype(folder, "cpu"), "cpu", 2.0)
    started = time.perf_counter()
    trainer = Trainer(folder, Recipe(layers=1, max_steps=RUN, jobs=max(JOBS)), device="cpu")
    load, loaded = time.perf_counter() - started, _peak()
    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    runs = []
    for jobs in JOBS:
        ends.clear()
        started = time.perf_counter()
        list(trainer.fit([memory_job(memory, trainer.recipe) for memory in memories[:jobs]]))
        seconds = time.perf_counter() - started
        step = (ends[2] - ends[0]) / 2
        runs.append(Trained(jobs, step, seconds - RUN * step, _peak()))
    return Slice(speed, load, loaded, runs)


def _peak() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _apart(work: Callable[..., T], *args: Any) -> T:
    """What `work` gives in a process of its own: its memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def short_memories(count: int) -> list[NewMemory]:
    """Invented ones, their first sentences alone: the layers below take most of the time of few steps."""
    return [
        msgspec.structs.replace(memory, text=memory.text.split(". ")[0].rstrip(".") + ".")
        for memory in invent(count, seed=0)
    ]


def measure(_args: argparse.Namespace, console: Console) -> Result:
    """Both models, each in its own processes."""
    base = resolve_model()
    chat, words = load_chat_format(base), int(model_config(base)["vocab_size"])
    memories = short_memories(max(JOBS))
    machine = this_machine("bfloat16")
    slices, rows = dict[str, Slice](), list[Row]()
    short, long = (tokens_of(texts, chat, Recipe()) for texts in (memories, invent(16, seed=0)))
    for model in (LLAMA, QWEN):
        with tempfile.TemporaryDirectory(prefix="vllm-mega-large-") as root:
            folder = Path(root) / "slice"
            _apart(write_slice, model, base, folder)
            part = slices[model.name] = _apart(measure_slice, folder, memories)
        rows += [row(model, part, ran, short, long, words) for ran in part.runs]
        console.print(f"{model.name}: {part.flops / 1e9:.0f} GFLOP/s, ready after {part.load:.0f} s")
    return Result(machine, slices, rows)


def table(result: Result) -> Table:
    """A line per model and number of memories side by side."""
    shown = Table(
        "model", "jobs", "s a step", "share of the best product", "GiB, estimate",
        "all layers: s a memory", "GiB, estimate", "MB a memory", "TFLOP",
        title=f"slices of {LAYERS} layers, 1 with adapters; all layers by arithmetic",
    )  # fmt: skip
    for r in result.rows:
        shown.add_row(
            r.model, str(r.jobs), f"{r.step:.2f}", f"{r.efficiency:.0%}",
            f"{r.peak / 2**30:.1f}, {r.estimated_peak / 2**30:.1f}", f"{r.full_seconds:,.0f}",
            f"{r.full_peak / 2**30:.1f}, {r.full_estimate / 2**30:.1f}", f"{r.adapter / 1e6:.1f}",
            f"{r.flops / 1e12:.0f}",
        )  # fmt: skip
    return shown


PROGRAM = Program(
    "large", measure, table,
    "Train on slices of large models with random weights; all layers by arithmetic.",
    "About 4 minutes on 2 cores; 3 GB of memory and 2 GB in the folder for temporary files.",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
