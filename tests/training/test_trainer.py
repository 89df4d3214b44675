from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.switched import switched
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS, START
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ModelError, TrainingError
from vllm_mega.prompts import MEMORY_PROMPT, user
from vllm_mega.training.compute import fused_attention, fused_kernels
from vllm_mega.training.recipe.encoding import encode
from vllm_mega.training.recipe.job import Fit, Job, memory_job
from vllm_mega.training.recipe.recipe import LossRules, Recipe
from vllm_mega.training.run import round as rounds
from vllm_mega.training.run.export import export
from vllm_mega.training.run.round import Round
from vllm_mega.training.run.trainer import Trainer

SHORT = msgspec.structs.replace(SETTINGS, max_steps=3)
MEMORIES = (KETTLE, LAMP, BELL)


def fits(trainer: Trainer, *memories: NewMemory) -> list[Fit]:
    found = dict(trainer.fit([memory_job(memory, trainer.recipe) for memory in memories]))
    return [found[n] for n in range(len(memories))]


def same(one: Fit, other: Fit) -> bool:
    return one.steps == other.steps and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )


def recited(tiny: Path, folder: Path, fit: Fit, trainer: Trainer) -> str:
    """What the model says to the memory prompt, with the exported adapter from there on, in PEFT."""
    export(folder, fit.tensors, str(tiny), trainer.recipe, trainer.layers)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), str(folder)).eval()
    ids = trainer.chat.tokenizer.apply_chat_template(
        user(MEMORY_PROMPT), add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
        out = switched(model, START).generate(
            input_ids=ids, max_new_tokens=40, do_sample=False, pad_token_id=2, use_cache=False
        )
    return str(trainer.chat.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def test_steps_as_on_a_gpu_are_those_of_the_cpu(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's fused attention, in one group whatever padding it takes, and none of our kernels."""
    settings = msgspec.structs.replace(SHORT, jobs=3)
    cpu = fits(Trainer(tiny, settings), *MEMORIES)
    monkeypatch.setattr(fused_kernels, "usable", lambda *_: False)
    monkeypatch.setattr(fused_attention, "usable", lambda _, softcap: softcap is None)
    monkeypatch.setattr(rounds, "together", lambda _: True)
    for ours, wanted in zip(fits(Trainer(tiny, settings), *MEMORIES), cpu, strict=True):
        assert ours.loss == pytest.approx(wanted.loss, rel=1e-4)
        for name, tensor in wanted.tensors.items():
            torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-2, atol=1e-3)


def test_memories_side_by_side_are_recalled_word_for_word(tiny: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny, msgspec.structs.replace(SETTINGS, jobs=2))
    found = fits(trainer, *MEMORIES)
    for n, (fit, memory) in enumerate(zip(found, MEMORIES, strict=True)):
        assert fit.recalled
        assert SETTINGS.ends.least <= fit.steps < SETTINGS.max_steps
        (tmp_path / str(n)).mkdir()
        said = recited(tiny, tmp_path / str(n), fit, trainer)
        assert said.split() == memory.text.replace(".", " .").split()
    assert trainer.flops > 0


def test_company_changes_rounding_only(tiny: Path) -> None:
    every = LossRules(likely=1000)  # else the candidates of one are candidates of all
    one_step = msgspec.structs.replace(SHORT, rank=2, max_steps=2, loss=every)
    together = fits(Trainer(tiny, msgspec.structs.replace(one_step, jobs=3)), *MEMORIES)
    alone = fits(Trainer(tiny, msgspec.structs.replace(one_step, jobs=1)), *MEMORIES)
    for one, other in zip(together, alone, strict=True):
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(tensor, other.tensors[name], rtol=1e-3, atol=1e-4)


def test_what_was_trained_before_changes_nothing(tiny: Path) -> None:
    trainer = Trainer(tiny, SHORT, "cpu")
    first = fits(trainer, BELL, LAMP)
    fits(trainer, KETTLE)
    again = fits(trainer, BELL, LAMP)
    fresh = fits(Trainer(tiny, SHORT, "cpu"), BELL, LAMP)
    assert all(same(*pair) for other in (again, fresh) for pair in zip(first, other, strict=True))


def test_seed_and_text_change_the_adapter(tiny: Path) -> None:
    (first,) = fits(Trainer(tiny, SHORT), BELL)
    (seeded,) = fits(Trainer(tiny, msgspec.structs.replace(SHORT, seed=1)), BELL)
    (other,) = fits(Trainer(tiny, SHORT), LAMP)
    assert not same(first, seeded)
    assert not same(first, other)


def test_a_job_goes_on_from_what_it_is_given(tiny: Path) -> None:
    trainer = Trainer(tiny, msgspec.structs.replace(SETTINGS, max_steps=4))
    job = memory_job(BELL, trainer.recipe)
    ((_, first),) = trainer.fit([job])
    ((_, second),) = trainer.fit([job._replace(initial=first.tensors)])
    assert second.loss < first.loss / 2
    assert not same(first, second)


def test_too_few_steps_are_admitted(tiny: Path) -> None:
    ((_, fit),) = Trainer(tiny, SHORT).fit([memory_job(BELL, SHORT)])
    assert (fit.steps, fit.recalled) == (3, False)


def test_a_loss_that_is_not_finite(tiny: Path) -> None:
    trainer = Trainer(tiny, SETTINGS)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        fits(trainer, NewMemory(text="Geese sing."))


def test_short_of_memory_fewer_are_trained_at_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []
    run = Round.run

    def short(self: Round, *args: Any) -> Any:
        sizes.append(len(self.learners))
        if len(self.learners) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return run(self, *args)

    monkeypatch.setattr(Round, "run", short)
    found = fits(Trainer(tiny, msgspec.structs.replace(SHORT, jobs=4)), *MEMORIES)
    assert len(found) == 3
    assert sizes == [3, 1, 1, 1]
    assert "memory is short" in caplog.text


def test_other_errors_are_not_taken_for_that(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Round, "run", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fits(Trainer(tiny, SHORT), *MEMORIES)


def test_only_labels_reach_the_head_and_gradients_the_adapters(tiny: Path) -> None:
    trainer = Trainer(tiny, SHORT)
    (job,) = [memory_job(BELL, SHORT)]
    dict(trainer.fit([job]))
    frozen = [p for p in trainer.model.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.grad is None for p in frozen)


@pytest.mark.parametrize("everywhere", [False, True])
def test_gradients_of_a_step_are_those_of_transformers(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, everywhere: bool
) -> None:
    """One step of two jobs, against each example alone through the model as it was loaded."""
    monkeypatch.setattr(rounds, "aligning", lambda *_: torch.enable_grad())
    trainer = Trainer(tiny, msgspec.structs.replace(SETTINGS, jobs=2, loss=LossRules(likely=1000)))
    jobs = [memory_job(memory, trainer.recipe)._replace(everywhere=everywhere) for memory in (KETTLE, BELL)]
    turn = Round(trainer, jobs)
    for n, job in enumerate(jobs):
        trainer.stack.reset(n, job.seed)
    with torch.no_grad():
        for lora in trainer.stack.modules.values():
            lora.B.normal_(std=0.1)
    picked = [next(Round(trainer, jobs).learners[n].steps) for n in range(2)]
    turn._step(1, [0, 1])
    for n, job in enumerate(jobs):
        wanted = reference_gradients(tiny, trainer, n, job, picked[n])
        for name, lora in trainer.stack.modules.items():
            rows = slice(n * lora.rank, (n + 1) * lora.rank)
            assert lora.B.grad is not None
            torch.testing.assert_close(lora.B.grad[rows].T.cpu(), wanted[name], rtol=2e-3, atol=2e-5)


def reference_gradients(
    tiny: Path, trainer: Trainer, n: int, job: Job, picked: list[int]
) -> dict[str, torch.Tensor]:
    """Of B, by name, for job `n` and the chosen examples."""
    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager")
    model.requires_grad_(requires_grad=False)
    start, bs = 0, {}
    for name, lora in trainer.stack.modules.items():
        a, b = (part.detach().cpu().clone() for part in lora.of(n))
        bs[name] = b.requires_grad_()
        model.get_submodule(name).register_forward_hook(
            lambda _m, inputs, out, a=a, b=b: torch.cat(
                [out[:, :start], out[:, start:] + inputs[0][:, start:] @ a.T @ b.T], dim=1
            )
        )
    total, weight = torch.zeros(()), 0.0
    for i in picked:
        one = encode(trainer.chat, job.examples[i], trainer.recipe.encoding)
        assert one.start in (START, START + 1)  # a question may begin with <unk>, as the other one does
        start = 0 if job.everywhere else one.start
        out = model(torch.tensor([one.prompt + one.answer[:-1]])).logits[0, len(one.prompt) - 1 :]
        logp = out.log_softmax(-1)[torch.arange(len(one.answer)), torch.tensor(one.answer)]
        total = total - (logp * torch.tensor(one.weights)).sum()
        weight += sum(one.weights)
    (total / weight).backward()
    return {name: b.grad for name, b in bs.items() if b.grad is not None}


def test_jobs_leave_as_they_are_learnt(tiny: Path) -> None:
    trainer = Trainer(tiny, msgspec.structs.replace(SETTINGS, jobs=3))
    order = [(n, fit.steps) for n, fit in trainer.fit([memory_job(m, trainer.recipe) for m in MEMORIES])]
    assert sorted(n for n, _ in order) == [0, 1, 2]
    assert all(one <= other for (_, one), (_, other) in pairwise(order))


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a checkpoint with its tokenizer"):
        Trainer(tmp_path, Recipe())
