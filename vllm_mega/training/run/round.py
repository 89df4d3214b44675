"""One round: the adapters that are trained side by side, from their first step to their last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from vllm_mega.errors import TrainingError
from vllm_mega.training.compute.alignment import aligning
from vllm_mega.training.compute.attention import Past
from vllm_mega.training.compute.frozen import FrozenModel
from vllm_mega.training.compute.learner import Learner, Sight
from vllm_mega.training.compute.loss import Candidates
from vllm_mega.training.compute.optimizer import adam
from vllm_mega.training.compute.packing import Pack, Pool, leads, pack
from vllm_mega.training.compute.truth import recite
from vllm_mega.training.recipe.encoding import encode_job
from vllm_mega.training.recipe.job import Ending, Fit, Job

EachStep = Callable[[int], None]
"""Called with how many steps have been made."""


def unwatched(_steps: int) -> None:
    """Nobody looks."""


class Round:
    """Trains `jobs` side by side; a job that is learnt leaves the round."""

    def __init__(self, model: FrozenModel, jobs: Sequence[Job]) -> None:
        """Encode the examples, and run once for all of them what no step changes.

        That is what stands before start, and the layers below all adapters.
        """
        self.model = model
        self.recipe = model.recipe
        self.started = time.perf_counter()
        self.learners = [
            Learner(job, encode_job(model.chat, job, self.recipe.encoding), self.recipe) for job in jobs
        ]
        self.pools: list[Pool] = [pool for learner in self.learners for pool in learner.pools]
        self.owners = [n for n, learner in enumerate(self.learners) for _ in learner.pools]
        sizes = [len(pool.ids) for pool in self.pools]
        self.offsets = [sum(sizes[:n]) for n in range(len(sizes))]
        model.stack.assign(None)
        model.split.require(max(pool.longest for pool in self.pools))
        self.past = self._past()
        self.hidden = self._below()
        self._rest, self._look = 1, 2

    def run(self, each_step: EachStep = unwatched) -> Iterator[tuple[int, Fit]]:
        """(index into the jobs, what became of it), in the order of finishing.

        Args:
            each_step: is called before every step; what it raises ends the round.

        Raises:
            TrainingError: a loss that is not finite.
        """
        stack = self.model.stack
        for n, learner in enumerate(self.learners):
            if learner.job.initial is None:
                stack.reset(n, learner.job.seed)
            else:
                stack.load(n, learner.job.initial)
        optimizer = adam(stack, self.recipe)
        live = set(range(len(self.learners)))
        step = 0
        while True:
            each_step(step)
            step += 1
            seeming = self._step(step, sorted(live))
            for n, fit in self._done(step, seeming, live):
                live.discard(n)
                yield n, fit
            if not live:
                break
            optimizer.step()
            optimizer.zero_grad()
        stack.assign(None)

    def _done(self, step: int, seeming: set[int], live: set[int]) -> list[tuple[int, Fit]]:
        """The jobs that end here. One that only seems learnt goes on, against the tokens that won."""
        endings: dict[int, Ending] = dict.fromkeys(seeming, "learnt")
        for n in live - seeming:
            if step >= self.recipe.max_steps:
                endings[n] = "out of steps"
            elif step > 1 and self._is_late():  # before, B is zero and there is nothing to keep
                endings[n] = "out of time"
            elif self.learners[n].is_stuck():
                endings[n] = "no step helps"
        asked = sorted(endings)
        if not asked:
            return []
        tensors = [self.model.stack.tensors(n) for n in asked]
        texts = [self.learners[n].recital for n in asked]
        dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        verdicts = recite(
            self.model.untouched,
            tensors,
            texts,
            self.model.chat.end_ids,
            scaling=self.recipe.scaling,
            dtype=dtype,
        )
        done = []
        for n, adapter, verdict in zip(asked, tensors, verdicts, strict=True):
            last = step >= self.recipe.max_steps or endings[n] != "learnt"
            if verdict.recalled or last:
                ending = endings[n] if verdict.recalled or endings[n] != "learnt" else "out of steps"
                seconds = (time.perf_counter() - self.started) / len(self.learners)
                loss = self.learners[n].window[-1].loss
                done.append((n, Fit(adapter, step, loss, verdict.recalled, ending, seconds)))
            else:
                self.candidates.add(verdict.winners)
        return done

    def _is_late(self) -> bool:
        limit = self.recipe.seconds
        return limit is not None and time.perf_counter() - self.started > limit * len(self.learners)

    def _step(self, step: int, live: Sequence[int]) -> set[int]:
        """Leave the gradients of one step in the adapters; the jobs that seem to be learnt."""
        chosen = {n: next(self.learners[n].steps) for n in live}
        row = self._pack(chosen)
        first = step == 1  # units of the last layer, too, follow from all of its tokens
        self.model.stack.assign(row.jobs, None if first else row.labelled)
        hidden = self.model.split.above(self.hidden[row.source], row, self.past, whole=first)
        weights = self._weights(row, chosen)
        leaf = hidden.detach().requires_grad_()
        self._look_around(step, row, hidden.detach())
        loss, logp = self.candidates.loss(leaf, row.labels, weights)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise TrainingError("the loss is not finite; choose a smaller learning rate")
        seeming = self._note(step, row, chosen, logp, weights, leaf.detach())
        fresh = [n for n in live if self.learners[n].job.initial is None]
        seeds = [learner.job.seed for learner in self.learners]
        with aligning(self.model.stack, fresh, seeds, self.recipe.alignment) if first else nullcontext():
            hidden.backward(leaf.grad)
        self._count(row)
        return seeming

    def _look_around(self, step: int, row: Pack, hidden: Tensor) -> None:
        """Which tokens the loss looks at: all are asked, often while new ones come up, else seldom."""
        if step == 1:
            labels = [token for pool in self.pools for answer in pool.labels for token in answer]
            always = torch.tensor(labels, device=row.labels.device).unique()
            self.candidates = Candidates(self.model.split.head, always, self.recipe.loss)
            self.candidates.discover(hidden)
        elif step >= self._look:
            came = self.candidates.scan(hidden, row.labels)
            self._rest = 1 if came else min(2 * self._rest, self.recipe.loss.rest)
            self._look = step + self._rest

    def _note(
        self,
        step: int,
        row: Pack,
        chosen: Mapping[int, list[int]],
        logp: Tensor,
        weights: Tensor,
        hidden: Tensor,
    ) -> set[int]:
        """Tell every learner what the step has seen; those that seem to be learnt."""
        losses = torch.zeros(len(self.learners), device=logp.device)
        losses.index_add_(0, row.jobs[row.labelled], -logp * weights)
        known = self._known(row, logp)
        lasts = iter(logp[row.examples.bincount().cumsum(0) - 1].tolist())
        lost = losses.tolist()
        seeming = set()
        for n, picked in chosen.items():
            learner = self.learners[n]
            mine = [(i, next(known), next(lasts)) for i in learner.order(picked)]
            if step == 1:  # the adapters are still zero
                ends = [-last for i, _, last in mine if learner.ends[i]]
                learner.weigh_ends(sum(ends) / len(ends))  # the recital has one
            recalls = [ok for i, ok, _ in mine if learner.recites(i)]
            answers = [(i, ok) for i, ok, _ in mine if not learner.recites(i)]
            ended = [ok for i, ok in answers if learner.ends[i]]
            learner.note(Sight(lost[n], all(recalls), [ok for _, ok in answers], ended))
            if step >= self.recipe.ends.least and learner.seems_learnt() and self._is_certain(n, row, hidden):
                seeming.add(n)
        return seeming

    def _is_certain(self, n: int, row: Pack, hidden: Tensor) -> bool:
        """Whether no token that training left out is likelier than a label of job `n`."""
        mine = row.jobs[row.labelled] == n
        narrow = self.candidates.loss(hidden[mine], row.labels[mine], torch.ones_like(row.labels[mine]))[1]
        wide = self.candidates.exact(hidden[mine], row.labels[mine])
        sure = self.recipe.ends.sure
        missed = (narrow.exp() > sure) & (wide.exp() <= sure)
        if missed.any():
            self.candidates.discover(hidden[mine][missed])
        return not bool(missed.any())

    def _known(self, row: Pack, logp: Tensor) -> Iterator[bool]:
        """For each packed example, in order: whether every token of its answer is known."""
        wrong = torch.bincount(row.examples, weights=(logp.exp() <= self.recipe.ends.sure).float())
        return iter((wrong == 0).tolist())

    def _pack(self, chosen: Mapping[int, list[int]]) -> Pack:
        wanted = [
            [members[i] for i in chosen.get(n, ()) if i in members]
            for n, learner in enumerate(self.learners)
            for members in learner.members
        ]
        return self._row(wanted)

    def _row(self, wanted: Sequence[Sequence[int]]) -> Pack:
        device = self.model.device
        row = pack(self.pools, self.owners, self.offsets, wanted, together=together(device))
        return row.to(device)

    def _weights(self, row: Pack, chosen: Mapping[int, list[int]]) -> Tensor:
        """Of every label; those of a job sum to 1: float32 [L]."""
        flat = [
            weight
            for n, picked in chosen.items()
            for i in self.learners[n].order(picked)
            for weight in self.learners[n].weights[i]
        ]
        weights = torch.tensor(flat, device=row.labels.device)
        owners = row.jobs[row.labelled]
        totals = weights.new_zeros(len(self.learners)).index_add_(0, owners, weights)
        return weights / totals[owners]

    def _past(self) -> Past:
        """Keys and values of what stands before start: the base model's, whatever the adapters become."""
        past = leads(self.pools)
        self.model.flops += self.model.split.flops_past(len(past.ids))
        return self.model.split.past(past.to(self.model.device))

    def _below(self) -> Tensor:
        """Of every token of every pool, what enters the first layer with adapters: [tokens, D]."""
        parts = []
        for n, pool in enumerate(self.pools):
            chosen = [range(len(pool.rests)) if m == n else () for m in range(len(self.pools))]
            row = self._row(chosen)
            ids = torch.tensor(pool.ids, device=self.model.device)
            parts.append(self.model.split.below(ids, row, self.past))
            self.model.flops += self.model.split.flops_below(len(pool.ids))
        return torch.cat(parts)

    def _count(self, row: Pack) -> None:
        model = self.model
        model.flops += model.split.flops_above(len(row.source), len(row.labels))
        model.flops += 4.0 * len(row.labels) * len(self.candidates) * self.hidden.shape[1]
        wide = sum(lora.A.numel() + lora.B.numel() for lora in model.stack.modules.values())
        model.flops += 6.0 * len(row.source) * wide


def together(device: torch.device) -> bool:
    """Whether attention has one group for all lengths (see `segments_of`)."""
    return device.type == "cuda"
