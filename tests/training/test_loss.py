from __future__ import annotations

import pytest
import torch

from vllm_mega.training import loss
from vllm_mega.training.loss import Candidates


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden [L, D], head [V, D], labels [L], weights [L]."""
    torch.manual_seed(0)
    return torch.randn(7, 5), torch.randn(11, 5), torch.randint(0, 11, (7,)), torch.rand(7)


@pytest.mark.parametrize("rows", [1024, 3])
def test_all_candidates_are_cross_entropy(
    case: tuple[torch.Tensor, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "ROWS", rows)
    hidden, head, labels, weights = case
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found, logp = Candidates(head, torch.arange(11)).loss(mine, labels, weights)
    each = torch.nn.functional.cross_entropy(theirs @ head.T, labels, reduction="none")
    torch.testing.assert_close(found, (each * weights).sum())
    torch.testing.assert_close(logp, -each)
    (2 * found).backward()
    (2 * (each * weights).sum()).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_few_candidates_are_cross_entropy_over_those(case: tuple[torch.Tensor, ...]) -> None:
    hidden, head, labels, weights = case
    few = labels.unique()
    _, logp = Candidates(head, few).loss(hidden, labels, weights)
    places = torch.searchsorted(few, labels)
    torch.testing.assert_close(logp, (hidden @ head[few].T).log_softmax(-1)[torch.arange(7), places])


def test_likely_tokens_are_discovered_and_nothing_twice(case: tuple[torch.Tensor, ...]) -> None:
    hidden, head, labels, _ = case
    candidates = Candidates(head, labels.unique())
    candidates.discover(hidden)
    likely = set((hidden @ head.T).topk(loss.LIKELY).indices.flatten().tolist())
    assert len(candidates) == len(likely | set(labels.tolist()))
    candidates.discover(hidden)
    assert len(candidates) == len(likely | set(labels.tolist()))


def test_exact_asks_all_tokens(case: tuple[torch.Tensor, ...]) -> None:
    hidden, head, labels, weights = case
    candidates = Candidates(head, labels.unique())
    exact = candidates.exact(hidden, labels)
    torch.testing.assert_close(exact, (hidden @ head.T).log_softmax(-1)[torch.arange(7), labels])
    assert (exact < candidates.loss(hidden, labels, weights)[1]).all()
