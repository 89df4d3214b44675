"""Packed rows against plain transformers, for every architecture of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.architectures import ARCHITECTURES, VOCABULARY, WINDOW, random_model
from vllm_mega.errors import ModelError
from vllm_mega.models.architectures import architecture
from vllm_mega.training.compute import agreement, attention, head, model
from vllm_mega.training.compute.model import SplitModel, untouched_copy
from vllm_mega.training.compute.packing import leads, pack, pool
from vllm_mega.training.recipe import segments
from vllm_mega.training.recipe.encoding import Encoded

TEXT = torch.randint(3, VOCABULARY, (500,), generator=torch.Generator().manual_seed(1)).tolist()
START, ENDS = TEXT[:20], (TEXT[20:60], TEXT[60:65], TEXT[65:95])
WINDOWED = [name for name, (_, more) in ARCHITECTURES.items() if "sliding_window" in more]


def split(name: str, cut: int = 2) -> tuple[SplitModel, Any]:
    """The model that runs packed rows, and the untouched one."""
    whole = random_model(name)
    untouched = untouched_copy(whole)
    return SplitModel(whole, cut, untouched, TEXT), untouched


def packed(divided: SplitModel, start: int = 0) -> Tensor:
    """Logits of all labelled tokens of a packed row, one example after the other."""
    one = pool([Encoded([*START, end[0]], [*end[1:], 0], [], start=start) for end in ENDS])
    row = pack([one], [0], [0], [range(len(ENDS))])
    past = divided.past(leads([one]))
    hidden = divided.below(torch.tensor(one.ids), row, past)
    return divided.head.logits(divided.above(hidden, row, past))


def alone(untouched: Any) -> Tensor:
    rows = [torch.tensor([[*START, *end]]) for end in ENDS]
    return torch.cat([untouched(input_ids=row).logits[0, len(START) :] for row in rows])


class _Shifting:
    """Adds `shift` to what a layer writes, but not before token `start` of a conversation."""

    def __init__(self, shift: Tensor, start: int) -> None:
        self.shift, self.start = shift, start

    def __call__(self, _module: Any, _inputs: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, : self.start], out[:, self.start :] + self.shift], dim=1)


def outcome(logits: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of `shift` from some gradient of them."""
    up = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    return logits.detach(), torch.autograd.grad(logits, shift, up)[0]


def difference(divided: SplitModel, untouched: Any, start: int = 0) -> float:
    """Of logits and of gradients through the layers above the cut, the larger, relative to the largest.

    What the layers compute is changed from `start` on, as adapters do.
    """
    shifts = [torch.full((32,), 0.1, requires_grad=True) for _ in range(2)]
    path = architecture(divided.model.config.to_dict()).layers
    layer = f"{path}.{divided.cut}"
    # The row of the leads runs first, by itself, and is left alone; then comes what stands behind them.
    rows = iter([start] * (start > 0) + [0] * 2)
    changed = divided.model.get_submodule(layer)
    hooks = [
        changed.register_forward_hook(lambda *given: _Shifting(shifts[0], next(rows))(*given)),  # noqa: PLW0108
        untouched.get_submodule(layer).register_forward_hook(_Shifting(shifts[1], start)),
    ]
    pairs = zip(outcome(packed(divided, start), shifts[0]), outcome(alone(untouched), shifts[1]), strict=True)
    largest = max(float((got - wanted).abs().max() / wanted.abs().max()) for got, wanted in pairs)
    for hook in hooks:
        hook.remove()
    return largest


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # GPT-BigCode
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("cut", "start"), [(0, 0), (1, 0), (1, 13), (0, 20)])
def test_packed_rows_are_what_transformers_computes(name: str, cut: int, start: int) -> None:
    """In conversations that are longer than any window."""
    assert len(START) + min(map(len, ENDS)) > WINDOW
    assert difference(*split(name, cut), start) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_if_adapters_acted_before_start_it_would_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    divided, untouched = split(name)
    monkeypatch.setattr(_Shifting, "__call__", lambda self, _m, _i, out: out + self.shift)
    assert difference(divided, untouched) < 1e-4
    monkeypatch.undo()
    kept = _Shifting.__call__
    monkeypatch.setattr(
        _Shifting, "__call__", lambda self, *given: kept(_Shifting(self.shift, min(self.start, 12)), *given)
    )
    assert difference(divided, untouched, 13) > 1e-3


@pytest.mark.parametrize("name", WINDOWED)
def test_without_windows_it_would_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    divided, untouched = split(name)
    monkeypatch.setattr(segments.Segments, "within", lambda segment, _window: segment.mask)
    assert difference(divided, untouched) > 1e-3
    with pytest.raises(ModelError, match="other logits for packed rows than for single ones, at 400 tokens"):
        divided.require(400)


def test_without_the_cap_on_scores_it_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    divided, untouched = split("gemma2")
    kept = attention._Rule
    monkeypatch.setattr(attention, "_Rule", lambda scaling, _softcap: kept(scaling, None))
    assert difference(divided, untouched) > 1e-3
    with pytest.raises(ModelError, match="off by"):
        divided.require(400)


@pytest.mark.parametrize("name", ["cohere", "cohere2", "gemma2", "granite"])
def test_without_the_rule_of_the_head_it_would_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "head_rule", lambda _config: (1.0, None))
    with pytest.raises(ModelError, match="off by"):
        split(name)


def test_a_bias_of_the_head_counts() -> None:
    divided, _ = split("phi")
    assert divided.head.bias is not None
    bare = dataclasses.replace(divided.head, bias=None)
    assert (bare.logits(torch.zeros(1, 32)) == 0).all()
    assert (divided.head.logits(torch.zeros(1, 32)) != 0).any()


def test_the_untouched_model_shares_weights_and_nothing_else() -> None:
    whole = random_model("llama")
    untouched = untouched_copy(whole)
    assert all(a is b for a, b in zip(whole.parameters(), untouched.parameters(), strict=True))
    assert len(list(untouched.parameters())) > 0
    SplitModel(whole, 1, untouched, TEXT)
    whole.model.layers[0].mlp = torch.nn.Identity()
    assert whole.config._attn_implementation == attention.NAME
    assert untouched.config._attn_implementation == "eager"
    assert not isinstance(untouched.model.layers[0].mlp, torch.nn.Identity)


def test_a_norm_that_lacks_its_one_is_refused() -> None:
    """What a fused kernel did to Gemma: it multiplied by w where the model multiplies by 1 + w."""
    whole = random_model("gemma3")
    untouched = untouched_copy(whole)
    norm = whole.model.layers[3].input_layernorm
    norm.forward = lambda x: norm._norm(x.float()) * norm.weight
    with pytest.raises(ModelError, match=r"Gemma3ForCausalLM .* at 384 tokens \(off by .* bank add"):
        SplitModel(whole, 2, untouched, TEXT)


def test_one_token_that_wins_wrongly_is_refused() -> None:
    wanted = torch.randn(50, 40_000, generator=torch.Generator().manual_seed(0))
    got = wanted.clone()
    got[7, 11] = 11.0
    noisy = wanted * 1.03
    assert agreement.disagreement(got, wanted, noisy) == ""  # no lead is clear among random logits
    wanted[7, 5] = got[7, 5] = 10.0
    assert agreement.disagreement(got, wanted, noisy) == "another likeliest token at 1 of 50 positions"


def test_longer_conversations_are_checked_when_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    divided, _ = split("llama")
    lengths: list[int] = []
    kept = agreement.Conversations.of

    def noted(text: Sequence[int], length: int) -> agreement.Conversations:
        lengths.append(length)
        return kept(text, length)

    monkeypatch.setattr(agreement.Conversations, "of", noted)
    for length in (200, 384, 401, 390, 401, 450):
        divided.require(length)
    assert lengths == [401, 450]


def test_a_window_that_only_long_conversations_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "LENGTH", 24)
    monkeypatch.setattr(model, "LONGEST", WINDOW - 1)
    monkeypatch.setattr(segments.Segments, "within", lambda segment, window: segment.mask)
    monkeypatch.setitem(ARCHITECTURES, "far", ("mistral", {"sliding_window": 40}))
    divided, _ = split("far")
    with pytest.raises(ModelError, match="at 60 tokens"):
        divided.require(60)


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("llama", True),
        ("gemma3", True),
        ("phi", True),
        ("gpt_neox", True),
        ("opt", False),
        ("mixtral", False),
    ],
)
def test_the_last_mlp_meets_labelled_tokens_alone(name: str, some: bool) -> None:
    """Where it is a module of its own; the numbers are compared above, for every architecture."""
    divided, _ = split(name)
    if not some:
        assert not divided.at_labels
        return
    met: list[int] = []
    assert divided._last is not None
    mlps = [divided._last.inner, getattr(divided.layers[2], "mlp")]  # noqa: B009
    for mlp in mlps:
        mlp.register_forward_hook(lambda _m, inputs, _out: met.append(inputs[0].shape[1]))
    packed(divided)
    labels = sum(map(len, ENDS))
    assert met[-2:] == [len(START) + labels, labels]
    assert mlps[0] in divided.at_labels
    assert mlps[1] not in divided.at_labels


def test_no_longer_than_the_model_was_made_for() -> None:
    assert model._length({}) == model.LENGTH
    assert model._length({"sliding_window": 512}) == 576
    assert model._length({"sliding_window": 512, "use_sliding_window": False}) == model.LENGTH
    assert model._length({"sliding_window": 4096}) == model.LENGTH
    assert model._length({"text_config": {"sliding_window": 1024, "max_position_embeddings": 1030}}) == 1030
    assert model._length({"n_positions": 100}) == 100


def test_a_model_of_another_make_is_refused() -> None:
    whole = random_model("llama")
    whole.model.layers = torch.nn.Sequential(*whole.model.layers)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM has no list of layers at model.layers"):
        SplitModel(whole, 2, untouched_copy(whole), TEXT)
