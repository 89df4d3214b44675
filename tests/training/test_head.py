from __future__ import annotations

import pytest
import torch

from vllm_mega.training.compute.head import Head

HEADS = [Head(torch.randn(11, 5)), Head(torch.randn(11, 5), torch.randn(11), 0.25, 3.0)]


@pytest.mark.parametrize("head", HEADS, ids=["plain", "everything"])
def test_some_rows_are_those_of_all(head: Head) -> None:
    hidden, rows = torch.randn(7, 5), torch.tensor([9, 0, 4])
    torch.testing.assert_close(head.block(2, 5).logits(hidden), head.logits(hidden)[:, 2:5])
    torch.testing.assert_close(head.at(hidden[:3], rows), head.logits(hidden)[[0, 1, 2], rows])
    torch.testing.assert_close(head.rows(rows).logits(hidden), head.logits(hidden)[:, rows])


@pytest.mark.parametrize("head", HEADS, ids=["plain", "everything"])
def test_the_gradient_is_that_of_autograd(head: Head) -> None:
    hidden, up = torch.randn(7, 5, requires_grad=True), torch.randn(7, 11)
    logits = head.logits(hidden)
    (wanted,) = torch.autograd.grad(logits, hidden, up)
    torch.testing.assert_close(head.gradient(up, logits.detach()), wanted)
