"""The frozen model, cut in two: layers below all adapters, which run once, and the layers above."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vllm_mega.errors import ModelError
from vllm_mega.models.architectures import Config, architecture, context, window
from vllm_mega.training.compute import attention
from vllm_mega.training.compute.agreement import Conversations, disagreement
from vllm_mega.training.compute.attention import Past
from vllm_mega.training.compute.head import Head
from vllm_mega.training.compute.last import last_mlp
from vllm_mega.training.compute.packing import Leads, Pack

LENGTH = 384
"""Tokens of the conversation that the start check runs, unless a window is longer ..."""
LONGEST = 1024
"""... and no longer than this; longer ones are checked when a conversation reaches them (`require`)."""
_BEYOND = 64


class _Given(nn.Module):
    """Stands for a layer: what comes in goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor | None = None

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        self.seen = hidden
        return hidden


def untouched_copy(model: nn.Module) -> Any:
    """A second model with the same weights (not copies): what is put into one, the other lacks."""
    return copy.deepcopy(model, memo={id(p): p for p in model.parameters()})


class SplitModel:
    """A causal language model, run on packed rows, below and above layer `cut`, and its head."""

    def __init__(self, model: Any, cut: int, untouched: Any, ids: Sequence[int]) -> None:
        """`model` runs packed rows only from here on.

        Args:
            model: of transformers; adapters in it are switched off.
            cut: index of the first layer that has adapters.
            untouched: the same as it was loaded (see `untouched_copy`).
            ids: tokens of a text that the model may know, some hundred.

        Raises:
            ModelError: it has no list of layers where its architecture has one, or computes other logits for
                packed rows than for single ones: it does something that packed rows do not.
        """
        self.model = model
        self.cut = cut
        self.head = Head.of(model)
        config = model.config.to_dict()
        path = architecture(config).layers
        self.body, self.layers = _body(model, path)
        self._last = last_mlp(config, self.layers)
        model.set_attn_implementation(attention.NAME)
        size = [_frozen(layer) for layer in self.layers]
        self._below, self._above = sum(size[:cut]), sum(size[cut:])
        self._at_labels = 0 if self._last is None else _frozen(self._last)
        self._untouched, self._ids = untouched, ids
        self._checked = 0
        self.require(_length(config))

    @torch.no_grad()
    def require(self, length: int) -> None:
        """Check the model at conversations of `length` tokens, if it was not yet; adapters are switched off.

        Raises:
            ModelError: as when the object is made.
        """
        if length <= self._checked:
            return
        conversations = Conversations.of(self._ids, length)
        try:
            wanted = conversations.logits(self._untouched)
            noisy = conversations.logits(self._untouched, noisy=True)
            difference = disagreement(self._packed_logits(conversations), wanted, noisy)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            difference = str(error).partition("\n")[0]
        if difference:
            raise ModelError(
                f"{type(self.model).__name__} computes other logits for packed rows than for single ones, at "
                f"{length} tokens ({difference}), so memories cannot be trained on it. Train adapters with "
                "PEFT and add them: vllm-mega bank add"
            )
        self._checked = length

    def _packed_logits(self, conversations: Conversations) -> Tensor:
        """At the positions that `conversations` compares: [N, V]."""
        device = self.head.weight.device
        row, past = conversations.row.to(device), self.past(conversations.leads.to(device))
        ids = torch.tensor(conversations.ids, device=device)
        hidden = self.below(ids[row.source], row, past)
        return self.head.logits(self.above(hidden, row, past)[conversations.compared])

    @torch.no_grad()
    def past(self, leads: Leads) -> Past:
        """Keys and values of what stands before start, in all layers; adapters are switched off."""
        if not leads.ids:
            return {}
        ids = torch.tensor([leads.ids], device=self.head.weight.device)
        with attention.recording(leads.segments) as past:
            self.body(input_ids=ids, position_ids=leads.positions[None], use_cache=False)
        return past

    @torch.no_grad()
    def below(self, ids: Tensor, row: Pack, past: Past) -> Tensor:
        """Hidden states that enter layer `cut`, of the tokens `ids` [T] of a row: [T, D]."""
        with self._stubs(range(self.cut, len(self.layers))) as stubs:
            self._run({"input_ids": ids[None]}, row, past)
            seen = stubs[0].seen
        assert seen is not None
        return seen.squeeze(0)

    @property
    def at_labels(self) -> frozenset[nn.Module]:
        """The modules that `above` runs on labelled tokens alone."""
        return frozenset() if self._last is None else frozenset(self._last.modules())

    def above(self, hidden: Tensor, row: Pack, past: Past, *, whole: bool = False) -> Tensor:
        """From hidden states that enter layer `cut`, [T, D], to those that enter the head: [L, D].

        `whole`: the last MLP meets all tokens, for whoever looks at what modules are given.
        """

        def enter(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # Not as embeddings: the model may scale those, or add positions to them.
            if args:
                return (hidden[None], *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden[None]}

        divided = self._last.only(row.labelled) if self._last and not whole else nullcontext()
        with self._stubs(range(self.cut)), divided:
            hook = self.layers[self.cut].register_forward_pre_hook(enter, with_kwargs=True)
            try:
                return self._run({"inputs_embeds": hidden[None]}, row, past).squeeze(0)[row.labelled]
            finally:
                hook.remove()

    def flops_past(self, tokens: int) -> float:
        """Multiplications and additions of `past`, linear layers alone."""
        return 2.0 * tokens * (self._below + self._above)

    def flops_below(self, tokens: int) -> float:
        """Those of `below`."""
        return 2.0 * tokens * self._below

    def flops_above(self, tokens: int, labels: int) -> float:
        """Those of `above` and its backward pass: frozen weights need no gradients."""
        return 4.0 * (tokens * self._above - (tokens - labels) * self._at_labels)

    def _run(self, inputs: dict[str, Tensor], row: Pack, past: Past) -> Tensor:
        with attention.attending(row.segments, past):
            out = self.body(**inputs, position_ids=row.positions[None], use_cache=False)
        hidden: Tensor = out.last_hidden_state
        return hidden

    @contextmanager
    def _stubs(self, indices: range) -> Iterator[list[_Given]]:
        """The layers at `indices` replaced while the context lasts."""
        kept = [self.layers[i] for i in indices]
        stubs = [_Given() for _ in indices]
        try:
            for i, stub in zip(indices, stubs, strict=True):
                self.layers[i] = stub
            yield stubs
        finally:
            for i, layer in zip(indices, kept, strict=True):
                self.layers[i] = layer


def _frozen(module: nn.Module) -> int:
    """How many numbers of `module` are no adapter's."""
    return sum(p.numel() for p in module.parameters() if not p.requires_grad)


def _length(config: Config) -> int:
    """Tokens of the conversation that the start check runs."""
    seen = window(config) or 0
    length = max(LENGTH, seen + _BEYOND) if seen <= LONGEST else LENGTH
    return min(length, context(config) or length)


def _body(model: Any, path: str) -> tuple[Any, nn.ModuleList]:
    """The module that runs the layers, and the list of them at `path`.

    Raises:
        ModelError: there is none.
    """
    body, _, name = path.rpartition(".")
    try:
        module = model.get_submodule(body)
        layers = getattr(module, name)
    except AttributeError:
        layers = None
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            f"{type(model).__name__} has no list of layers at {path}; expected a decoder such as Llama. "
            "Choose another model (--model)"
        )
    return module, layers
