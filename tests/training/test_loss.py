from __future__ import annotations

import pytest
import torch

from vllm_mega.training.compute import loss
from vllm_mega.training.compute.head import Head
from vllm_mega.training.compute.loss import Candidates
from vllm_mega.training.recipe.recipe import LossRules

Case = tuple[torch.Tensor, Head, torch.Tensor, torch.Tensor]


HEADS = {"plain": (False, 1.0, None), "scaled": (True, 0.25, None), "capped": (True, 2.0, 3.0)}


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def case(request: pytest.FixtureRequest) -> Case:
    """Hidden [L, D], a head of V tokens, labels [L], weights [L]."""
    torch.manual_seed(0)
    biased, scale, softcap = request.param
    head = Head(torch.randn(11, 5), torch.randn(11) if biased else None, scale, softcap)
    return torch.randn(7, 5), head, torch.randint(0, 11, (7,)), torch.rand(7)


def logits(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """As the models of transformers write it."""
    product = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    if head.softcap is None:
        return product * head.scale
    return torch.tanh(product * head.scale / head.softcap) * head.softcap


@pytest.mark.parametrize("rows", [1024, 3])
def test_all_candidates_are_cross_entropy(case: Case, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "ROWS", rows)
    hidden, head, labels, weights = case
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found, logp = Candidates(head, torch.arange(11), LossRules()).loss(mine, labels, weights)
    each = torch.nn.functional.cross_entropy(logits(head, theirs), labels, reduction="none")
    torch.testing.assert_close(found, (each * weights).sum())
    torch.testing.assert_close(logp, -each)
    (2 * found).backward()
    (2 * (each * weights).sum()).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_few_candidates_are_cross_entropy_over_those(case: Case) -> None:
    hidden, head, labels, weights = case
    few = labels.unique()
    _, logp = Candidates(head, few, LossRules()).loss(hidden, labels, weights)
    places = torch.searchsorted(few, labels)
    torch.testing.assert_close(logp, logits(head, hidden)[:, few].log_softmax(-1)[torch.arange(7), places])


def test_likely_tokens_are_discovered_and_nothing_twice(case: Case) -> None:
    hidden, head, labels, _ = case
    candidates = Candidates(head, labels.unique(), LossRules())
    candidates.discover(hidden)
    likely = set(logits(head, hidden).topk(LossRules().likely).indices.flatten().tolist())
    assert len(candidates) == len(likely | set(labels.tolist()))
    candidates.discover(hidden)
    assert len(candidates) == len(likely | set(labels.tolist()))


def test_exact_asks_all_tokens(case: Case) -> None:
    hidden, head, labels, weights = case
    candidates = Candidates(head, labels.unique(), LossRules())
    exact = candidates.exact(hidden, labels)
    torch.testing.assert_close(exact, logits(head, hidden).log_softmax(-1)[torch.arange(7), labels])
    assert (exact < candidates.loss(hidden, labels, weights)[1]).all()


def test_a_token_that_comes_near_a_label_takes_part(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out and wins later: the loss must see it, whichever block of the head it is in."""
    monkeypatch.setattr(loss, "COLUMNS", 4)
    hidden, head, labels, _ = case
    candidates = Candidates(head, labels.unique(), LossRules(near=0.0))
    found = logits(head, hidden)
    left_out = found.clone()
    left_out[:, labels.unique()] = -torch.inf
    won = left_out.max(-1)
    winners = won.indices[won.values > found[torch.arange(7), labels]].unique()
    assert len(winners)
    assert candidates.scan(hidden, labels) == len(winners)
    assert len(candidates) == len(labels.unique()) + len(winners)
    for _ in range(11):
        candidates.scan(hidden, labels)
    assert candidates.scan(hidden, labels) == 0


def test_what_is_far_below_every_label_stays_out(case: Case) -> None:
    hidden, head, labels, _ = case
    assert Candidates(head, labels.unique(), LossRules(near=-1e9)).scan(hidden, labels) == 0
