"""Models that compute what another computes, with other numbers: what training must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

State = dict[str, Tensor]
Disguise = Callable[[State, dict[str, Any]], State]
"""From the weights of a Llama to those of its disguise; the fields of the config are changed in place."""

_READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Of a layer's norms: the matrices that read what they write."""


def save_disguised(source: Path, target: Path, *disguises: Disguise) -> Path:
    """Write the model at `source`, disguised, to the new folder `target`."""
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    state, config = dict(model.state_dict()), model.config.to_dict()
    for disguise in disguises:
        state = disguise(state, config)
    if config["tie_word_embeddings"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    disguised: Any = AutoModelForCausalLM.from_config(type(model.config)(**config), dtype=model.dtype)
    disguised.load_state_dict(state)
    disguised.generation_config = model.generation_config
    disguised.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def norms_times(factor: float | None) -> Disguise:
    """Norms write `factor` times as much, and what reads them divides; None: another factor per channel."""

    def disguise(state: State, _config: dict[str, Any]) -> State:
        random = torch.Generator().manual_seed(0)
        changed = dict(state)
        for name in state:
            norm = name.rpartition(".weight")[0].rpartition(".")[2]
            if norm not in _READERS:
                continue
            # Powers of two, from 1/8 to 8: nothing is rounded.
            powers = torch.randint(-3, 4, state[name].shape, generator=random)
            scale = (2.0**powers if factor is None else torch.full_like(powers, 1.0) * factor).to(state[name])
            changed[name] = state[name] * scale
            for reader in _READERS[norm]:
                read = name.replace(norm, reader)
                changed[read] = state[read] / scale
        return changed

    return disguise


def wider(state: State, config: dict[str, Any]) -> State:
    """Every neuron is two that do half of its work."""
    config["intermediate_size"] *= 2
    changed = dict(state)
    for name, weight in state.items():
        if ".gate_proj." in name or ".up_proj." in name:
            changed[name] = torch.cat([weight, weight])
        elif ".down_proj." in name:
            changed[name] = torch.cat([weight, weight], dim=1) / 2
    return changed


def deeper(state: State, config: dict[str, Any]) -> State:
    """Behind every layer another one that adds nothing."""
    config["num_hidden_layers"] *= 2
    changed = {name: weight for name, weight in state.items() if ".layers." not in name}
    for name, weight in state.items():
        before, infix, after = name.partition(".layers.")
        if infix:
            number, _, rest = after.partition(".")
            silent = rest in {"self_attn.o_proj.weight", "mlp.down_proj.weight"}
            changed[f"{before}.layers.{2 * int(number)}.{rest}"] = weight
            changed[f"{before}.layers.{2 * int(number) + 1}.{rest}"] = weight * 0 if silent else weight
    return changed


def padded(size: int) -> Disguise:
    """The vocabulary has `size` tokens; those that it had not are never said."""

    def disguise(state: State, config: dict[str, Any]) -> State:
        embedding = state["model.embed_tokens.weight"]
        more = embedding.new_zeros(size - len(embedding), embedding.shape[1])
        config["vocab_size"] = size
        return {**state, "model.embed_tokens.weight": torch.cat([embedding, more])}

    return disguise


def untied(state: State, config: dict[str, Any]) -> State:
    """The head is a matrix of its own."""
    config["tie_word_embeddings"] = False
    return {**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}
