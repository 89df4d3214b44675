"""One round: the adapters that are trained side by side, from their first step to their last."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mega.errors import TrainingError
from vllm_mega.training import schedule
from vllm_mega.training.alignment import aligning
from vllm_mega.training.encoding import Encoded, encode
from vllm_mega.training.frozen import FrozenModel
from vllm_mega.training.job import Fit, Job
from vllm_mega.training.loss import Candidates
from vllm_mega.training.packing import Pack, Pool, pack, pool

SURE = 0.5
"""A token counts as known above this probability: then no other is as likely, by some margin."""
WINDOW = 3
"""The latest steps, which decide whether a memory is learnt."""
LEAST = 16
"""Steps that every memory gets: what is known early is not yet known under other words."""
SLIPS = 0.2
"""The part of the questions in the window that may be answered otherwise: some are ambiguous."""
BETAS = (0.8, 0.9)
"""Of Adam: with so few steps, averages over more of them would still know the beginning."""


class _Step(NamedTuple):
    """What a step has seen of one adapter, before it changed."""

    loss: float
    recalled: bool
    answered: list[bool]
    """For each question, whether every token of its answer was known."""


class _Learner:
    """One job in a round."""

    def __init__(self, job: Job, encoded: Sequence[Encoded], batch: int) -> None:
        self.job = job
        self.weights = [one.weights for one in encoded]
        self.steps = schedule.steps(job.examples, batch, job.seed)
        self.window: deque[_Step] = deque(maxlen=WINDOW)
        # Examples that share a context share a pool: its text is computed once.
        contexts = list(dict.fromkeys(example.context for example in job.examples))
        groups = [
            [n for n, example in enumerate(job.examples) if example.context == context]
            for context in contexts
        ]
        self.pools = [pool([encoded[n] for n in group]) for group in groups]
        self.members = [{n: place for place, n in enumerate(group)} for group in groups]

    def learnt(self) -> bool:
        """Whether all of the last steps knew the text, and (nearly) all answers."""
        answers = [one for step in self.window for one in step.answered]
        return self.recalled() and answers.count(False) <= SLIPS * len(answers)

    def recalled(self) -> bool:
        """Whether all of the last steps knew the text."""
        return len(self.window) == WINDOW and all(step.recalled for step in self.window)


class Round:
    """Trains `jobs` side by side; a job that is learnt leaves the round."""

    def __init__(self, model: FrozenModel, jobs: Sequence[Job]) -> None:
        """Encode the examples, and run the layers below all adapters once for all of them."""
        self.model = model
        self.settings = model.settings
        self.started = time.perf_counter()
        self.learners = [
            _Learner(
                job,
                [encode(model.chat, example) for example in job.examples],
                self.settings.batch,
            )
            for job in jobs
        ]
        self.pools: list[Pool] = [one for learner in self.learners for one in learner.pools]
        self.owners = [n for n, learner in enumerate(self.learners) for _ in learner.pools]
        sizes = [len(one.ids) for one in self.pools]
        self.offsets = [sum(sizes[:n]) for n in range(len(sizes))]
        self.hidden = self._below()

    def run(self) -> Iterator[tuple[int, Fit]]:
        """(index into the jobs, what became of it), in the order of finishing.

        Raises:
            TrainingError: a loss that is not finite.
        """
        stack, settings = self.model.stack, self.settings
        for n, learner in enumerate(self.learners):
            if learner.job.start is None:
                stack.reset(n, learner.job.seed)
            else:
                stack.load(n, learner.job.start)
        optimizer = torch.optim.Adam(stack.parameters(), lr=settings.learning_rate, betas=BETAS, fused=True)
        optimizer.zero_grad()  # the round before has left its last gradients
        live = set(range(len(self.learners)))
        for step in range(1, settings.max_steps + 1):
            learnt = self._step(step, sorted(live))
            last = step == settings.max_steps
            for n in sorted(live if last else learnt):
                yield n, self._fit(n, step)
            live -= learnt
            if last or not live:
                break
            optimizer.step()
            optimizer.zero_grad()
        stack.assign(None)

    def _fit(self, n: int, step: int) -> Fit:
        learner = self.learners[n]
        seconds = (time.perf_counter() - self.started) / len(self.learners)
        loss = learner.window[-1].loss
        return Fit(self.model.stack.tensors(n), step, loss, learner.recalled(), seconds)

    def _step(self, step: int, live: Sequence[int]) -> set[int]:
        """Leave the gradients of one step in the adapters; the jobs that turn out to be learnt."""
        chosen = {n: next(self.learners[n].steps) for n in live}
        row = self._pack(chosen)
        self.model.stack.assign(row.jobs)
        hidden = self._above(row)
        weights = self._weights(row, chosen)
        if step == 1:
            self.candidates = self._candidates(hidden.detach(), row)
        leaf = hidden.detach().requires_grad_()
        loss, logp = self.candidates.loss(leaf, row.labels, weights)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise TrainingError("the loss is not finite; choose a smaller learning rate")
        learnt = self._note(step, row, chosen, logp, weights, leaf.detach())
        fresh = [n for n in live if self.learners[n].job.start is None]
        seeds = [learner.job.seed for learner in self.learners]
        with aligning(self.model.stack, row.jobs, fresh, seeds) if step == 1 else nullcontext():
            hidden.backward(leaf.grad)
        self._count(row)
        return learnt

    def _note(
        self,
        step: int,
        row: Pack,
        chosen: Mapping[int, list[int]],
        logp: Tensor,
        weights: Tensor,
        hidden: Tensor,
    ) -> set[int]:
        """Tell every learner what the step has seen; those that are learnt, among all tokens."""
        losses = torch.zeros(len(self.learners), device=logp.device)
        losses.index_add_(0, row.jobs[row.labelled], -logp * weights)
        known = self._known(row, logp)
        learnt = set()
        for n, picked in chosen.items():
            learner = self.learners[n]
            kinds = [learner.job.examples[i].kind for i in self._order(n, picked)]
            mine = [next(known) for _ in picked]
            recalls = [ok for kind, ok in zip(kinds, mine, strict=True) if kind == "recall"]
            answers = [ok for kind, ok in zip(kinds, mine, strict=True) if kind != "recall"]
            learner.window.append(_Step(float(losses[n]), all(recalls), answers))
            if step >= LEAST and learner.learnt() and self._is_certain(n, row, hidden):
                learnt.add(n)
        return learnt

    def _is_certain(self, n: int, row: Pack, hidden: Tensor) -> bool:
        """Whether no token that training left out is likelier than a label of job `n`."""
        mine = row.jobs[row.labelled] == n
        narrow = self.candidates.loss(hidden[mine], row.labels[mine], torch.ones_like(row.labels[mine]))[1]
        wide = self.candidates.exact(hidden[mine], row.labels[mine])
        missed = (narrow.exp() > SURE) & (wide.exp() <= SURE)
        if missed.any():
            self.candidates.discover(hidden[mine][missed])
        return not bool(missed.any())

    @staticmethod
    def _known(row: Pack, logp: Tensor) -> Iterator[bool]:
        """For each packed example, in order: whether every token of its answer is known."""
        wrong = torch.bincount(row.examples, weights=(logp.exp() <= SURE).float())
        return iter((wrong == 0).tolist())

    def _order(self, n: int, picked: Sequence[int]) -> list[int]:
        """`picked` examples of job `n` as they are packed: pool by pool."""
        return [i for members in self.learners[n].members for i in picked if i in members]

    def _pack(self, chosen: Mapping[int, list[int]]) -> Pack:
        wanted = [
            [members[i] for i in chosen.get(n, ()) if i in members]
            for n, learner in enumerate(self.learners)
            for members in learner.members
        ]
        return pack(self.pools, self.owners, self.offsets, wanted).to(self.model.device)

    def _weights(self, row: Pack, chosen: Mapping[int, list[int]]) -> Tensor:
        """Of every label; those of a job sum to 1: float32 [L]."""
        flat = [
            weight
            for n, picked in chosen.items()
            for i in self._order(n, picked)
            for weight in self.learners[n].weights[i]
        ]
        weights = torch.tensor(flat, device=row.labels.device)
        owners = row.jobs[row.labelled]
        totals = weights.new_zeros(len(self.learners)).index_add_(0, owners, weights)
        return weights / totals[owners]

    def _candidates(self, hidden: Tensor, row: Pack) -> Candidates:
        labels = [token for one in self.pools for answer in one.labels for token in answer]
        found = Candidates(
            self.model.split.head.weight.detach(), torch.tensor(labels, device=row.labels.device).unique()
        )
        found.discover(hidden)
        return found

    @torch.no_grad()
    def _below(self) -> Tensor:
        """Of every token of every pool, what enters the first layer with adapters: [tokens, D]."""
        self.model.stack.assign(None)
        parts = []
        for one in self.pools:
            row = pack([one], [0], [0], [range(len(one.rests))]).to(self.model.device)
            ids = torch.tensor(one.ids, device=self.model.device)
            parts.append(self.model.split.below(ids, row.positions, row.segments))
            self.model.flops += self.model.split.flops_below(len(one.ids))
        return torch.cat(parts)

    def _above(self, row: Pack) -> Tensor:
        """Of every labelled token, what enters the head: [L, D]."""
        return self.model.split.above(self.hidden[row.source], row.positions, row.segments)[row.labelled]

    def _count(self, row: Pack) -> None:
        model = self.model
        model.flops += model.split.flops_above(len(row.source))
        model.flops += 4.0 * len(row.labels) * len(self.candidates) * self.hidden.shape[1]
        wide = sum(lora.A.numel() + lora.B.numel() for lora in model.stack.modules.values())
        model.flops += 6.0 * len(row.source) * wide
