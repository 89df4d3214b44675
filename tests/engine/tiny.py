"""A model that is quick to start, and whose heads two ranks can share."""

from __future__ import annotations

from pathlib import Path

import torch


def tiny_model(folder: Path, model: Path) -> tuple[Path, dict[str, tuple[int, int]]]:
    """A random Llama whose heads can be divided by two, with the default model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        max_position_embeddings=512,
    )
    tiny = LlamaForCausalLM(config)
    tiny.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    names = tiny.named_modules()
    return folder, {n: tuple(m.weight.shape) for n, m in names if "layers" in n and n.endswith("_proj")}
