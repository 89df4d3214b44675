"""A model that is quick to start, and whose heads two ranks can share."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.small_tokenizer import WORDS, save_tokenizer

LAYERS = range(3)


def tiny_model(folder: Path) -> Path:
    """A random Llama whose heads can be divided by two, with a part of the default model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=len(LAYERS),
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
