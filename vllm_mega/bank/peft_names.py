"""What the tensors of an adapter are called, by PEFT and by what wrapped the model when it was saved. Pure.

torch.compile, DDP and FSDP put parts into names (`_orig_mod`, `module`); a state that was saved by hand has
the adapter's name in them (`default`); models of several kinds have their language model one step deeper. A
module of the base model is known without these parts, as long as only one comes into question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from vllm_mega.bank.lora_tensors import Pair, Shapes, unknown_module
from vllm_mega.errors import AdapterError

_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_PREFIX = "base_model.model."
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_OUTER = frozenset({"base_model", "model", "module", "language_model"})
"""Parts that one name has and another does not, for the same module."""

_NOT_SERVED = (
    ("lora_magnitude_vector", "DoRA is not served: train with use_dora=False"),
    ("lora_embedding_", "LoRA on embeddings is not served: train without them in target_modules"),
    ("lora_B.bias", "Biases are not served: train with lora_bias=False"),
    ("trainable_tokens", "Trained tokens are not served: train without trainable_token_indices"),
    ("lora_down", "These are names of kohya's or ComfyUI's: convert it to PEFT's format"),
    ("lora.down", "These are names of old diffusers: convert it to PEFT's format"),
)


class Names(NamedTuple):
    """The tensors of an adapter, told apart."""

    pairs: dict[str, Pair]
    """By module of the base model."""
    own: dict[str, str]
    """By module of the base model, what PEFT called it: patterns of its configuration are about that."""
    beside: list[str]
    """Whole weights and biases that are saved beside A and B."""


def sort_names(path: Path, names: Collection[str], shapes: Shapes) -> Names:
    """Tell the tensors called `names` apart.

    Args:
        path: of their file, for messages.
        names: as they are in it; every A needs its B.
        shapes: of the base model.

    Raises:
        AdapterError: a tensor that would be ignored, of a module that the base model does not have, or that
            may belong to several; or tensors of several adapters.
    """
    matches = {name: match for name in sorted(names) if (match := _LORA.fullmatch(name))}
    beside = sorted(set(names) - matches.keys())
    for name in beside:
        _refuse_unless_whole(path, name)
    adapters = {match["adapter"] or "" for match in matches.values()}
    if len(adapters) > 1:
        raise AdapterError(
            path,
            expected="the tensors of one adapter",
            found=f"those of {', '.join(name or '(without a name)' for name in sorted(adapters))}",
            change="Save one of them: PEFT's save_pretrained with selected_adapters=[...]",
        )
    halves: dict[str, dict[str, str]] = defaultdict(dict)
    for name, match in matches.items():
        _put(path, halves[unwrapped(match["module"])], match["half"], name)
    own = _by_module(path, halves, shapes)
    pairs = {module: _pair(path, halves[name]) for module, name in own.items()}
    return Names(pairs, own, beside)


def _put(path: Path, halves: dict[str, str], half: str, name: str) -> None:
    earlier = halves.setdefault(half, name)
    if earlier != name:
        raise AdapterError(
            path,
            expected="one tensor for every A and B",
            found=f"{earlier} and {name}",
            change="Export the adapter again, from the model without its wrappers",
        )


def _pair(path: Path, halves: Mapping[str, str]) -> Pair:
    if len(halves) == 1:
        ((half, name),) = halves.items()
        missing = "B" if half == "A" else "A"
        raise AdapterError(
            path,
            expected=f"the tensor {f'lora_{missing}'.join(name.rsplit(f'lora_{half}', 1))}",
            found=f"only {name}",
            change="Export the adapter again",
        )
    return Pair(halves["A"], halves["B"])


def _by_module(path: Path, names: Iterable[str], shapes: Shapes) -> dict[str, str]:
    """By module of the base model, which of `names` means it."""
    alike = same_modules(shapes)
    by_module: dict[str, str] = {}
    for name in names:
        candidates = [name] if name in shapes else alike.get(_core(name), [])
        if not candidates:
            raise unknown_module(path, name, shapes)
        if len(candidates) > 1:
            raise AdapterError(
                path,
                expected="modules of the base model",
                found=f"{name}, which may be {' or '.join(candidates)}",
                change="Give its tensors the prefix that this base model has",
            )
        earlier = by_module.setdefault(candidates[0], name)
        if earlier != name:
            raise AdapterError(
                path,
                expected=f"one adapter for {candidates[0]}",
                found=f"tensors for {earlier} and {name}",
                change="Keep those with the prefix that this base model has",
            )
    return by_module


def unwrapped(name: str) -> str:
    """`name` as PEFT had it: without its prefix, and without what wrapped the model."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[0] == "module" and len(parts) > 1:
        parts = parts[1:]
    return ".".join(parts).removeprefix(_PREFIX)


def same_modules(names: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """`names` by what is the same in all names of a module."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        alike[_core(name)].append(name)
    return alike


def same_module(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that may mean the same as `name`; only itself if it is among them."""
    alike = same_modules(names).get(_core(name), [])
    return [name] if name in alike else alike


def _core(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part not in _OUTER)


def _refuse_unless_whole(path: Path, name: str) -> None:
    """What is no half of a pair must be a weight or bias of the model's own."""
    why = next((why for part, why in _NOT_SERVED if part in name), None)
    if why is None and name.endswith((".weight", ".bias")) and ".lora_" not in name:
        return
    raise AdapterError(
        path,
        expected=f"tensors named {_PREFIX}<module>.lora_A.weight or .lora_B.weight",
        found=f"{name!r}",
        change=why or "It would be ignored when serving; train LoRA on linear layers only",
    )
