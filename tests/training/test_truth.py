from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.switched import switched
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS, START
from vllm_mega.training.compute import learner, truth
from vllm_mega.training.compute.loss import Candidates
from vllm_mega.training.recipe.encoding import Encoded, encode
from vllm_mega.training.recipe.job import Fit, memory_job
from vllm_mega.training.recipe.recipe import EndRules
from vllm_mega.training.run import round as rounds
from vllm_mega.training.run.export import export
from vllm_mega.training.run.trainer import Trainer

MEMORIES = (KETTLE, LAMP, BELL)


@pytest.fixture(scope="module")
def trained(tiny: Path) -> tuple[Trainer, list[Fit], list[Encoded]]:
    torch.set_num_threads(1)
    trainer = Trainer(tiny, msgspec.structs.replace(SETTINGS, jobs=3, max_steps=60))
    fits = dict(trainer.fit([memory_job(memory, trainer.recipe) for memory in MEMORIES]))
    jobs = [memory_job(memory, trainer.recipe) for memory in MEMORIES]
    texts = [encode(trainer.chat, job.examples[0], trainer.recipe.encoding) for job in jobs]
    return trainer, [fits[n] for n in range(3)], texts


def said(tiny: Path, folder: Path, trainer: Trainer, fit: Fit, text: Encoded) -> list[int]:
    """What the exported adapter decodes from the question on, token by token, in PEFT."""
    export(folder, fit.tensors, str(tiny), trainer.recipe, trainer.layers)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), str(folder)).eval()
    with torch.inference_mode():
        out = switched(model, START).generate(
            input_ids=torch.tensor([text.prompt]), max_new_tokens=len(text.answer), do_sample=False,
            pad_token_id=2, use_cache=False,
        )  # fmt: skip
    return list(out[0, len(text.prompt) :].tolist())


@pytest.mark.parametrize("broken", [False, True])
def test_the_verdict_is_what_peft_decodes(
    trained: tuple[Trainer, list[Fit], list[Encoded]], tiny: Path, tmp_path: Path, broken: bool
) -> None:
    trainer, fits, texts = trained
    if broken:
        fits = [fit._replace(tensors={n: 0.4 * x for n, x in fit.tensors.items()}) for fit in fits]
    verdicts = truth.recite(
        trainer.untouched, [fit.tensors for fit in fits], texts, [2], scaling=1.0, dtype=torch.bfloat16
    )
    for n, (fit, text, verdict) in enumerate(zip(fits, texts, verdicts, strict=True)):
        (tmp_path / str(n)).mkdir()
        assert verdict.recalled == (said(tiny, tmp_path / str(n), trainer, fit, text) == text.answer)
        assert verdict.recalled == (len(verdict.winners) == 0)
        assert verdict.recalled != broken or not broken
    assert any(not verdict.recalled for verdict in verdicts) == broken


def test_the_adapter_is_asked_from_start_on(
    trained: tuple[Trainer, list[Fit], list[Encoded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of two adapters with different starts, against PEFT's; and that the start matters."""
    trainer, fits, texts = trained
    adapters = [fit.tensors for fit in fits[:2]]
    ids = torch.tensor([texts[0].prompt, texts[1].prompt], device=trainer.device)

    def logits(*starts: int) -> torch.Tensor:
        with (
            torch.inference_mode(),
            truth.adapted(trainer.untouched, adapters, starts, scaling=1.0, dtype=torch.float32),
        ):
            return torch.as_tensor(trainer.untouched(input_ids=ids).logits)

    with torch.inference_mode():
        base = trainer.untouched(input_ids=ids).logits
    found, never = logits(START, 5), logits(99, 99)
    torch.testing.assert_close(never, base)
    for row, start in enumerate((START, 5)):
        torch.testing.assert_close(found[row, :start], base[row, :start])
        assert not torch.allclose(found[row, start:], base[row, start:], atol=1e-2)
        assert not torch.allclose(found[row, -1], logits(0, 0)[row, -1], atol=1e-3)


def test_texts_are_asked_in_as_many_passes_as_memory_allows(
    trained: tuple[Trainer, list[Fit], list[Encoded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, fits, texts = trained
    monkeypatch.setattr(truth, "LOGITS", 1)
    tensors = [fit.tensors for fit in fits]
    verdicts = truth.recite(trainer.untouched, tensors, texts, [2], scaling=1.0, dtype=torch.bfloat16)
    assert [verdict.recalled for verdict in verdicts] == [fit.recalled for fit in fits] == [True] * 3
    assert not any(module._forward_hooks for module in trainer.untouched.modules())


def test_no_copy_of_the_head_is_made(trained: tuple[Trainer, list[Fit], list[Encoded]]) -> None:
    """Hidden states that are not contiguous make torch copy it once for each text."""
    trainer, fits, texts = trained
    tensors, whole = [fit.tensors for fit in fits], list[bool]()
    head = trainer.untouched.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _module, args: whole.append(args[0].is_contiguous()))
    truth.recite(trainer.untouched, tensors, texts, [2], scaling=1.0, dtype=torch.bfloat16)
    hook.remove()
    assert whole == [True]


def test_any_end_token_ends_a_text(trained: tuple[Trainer, list[Fit], list[Encoded]]) -> None:
    trainer, fits, texts = trained
    ended = texts[0]._replace(answer=[*texts[0].answer[:-1], 1])
    for ends, recalled in (([1, 2], True), ([1], False)):
        (verdict,) = truth.recite(
            trainer.untouched, [fits[0].tensors], [ended], ends, scaling=1.0, dtype=torch.float32
        )
        assert verdict.recalled == recalled


def test_what_only_seems_learnt_goes_on_against_the_tokens_that_won(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training forward thinks that it is done at once; the untouched model does not."""
    monkeypatch.setattr(learner.Learner, "seems_learnt", lambda _: True)
    monkeypatch.setattr(rounds.Round, "_is_certain", lambda *_: True)
    monkeypatch.setattr(Candidates, "discover", lambda *_: None)
    monkeypatch.setattr(Candidates, "scan", lambda *_: 0)
    verdicts: list[truth.Verdict] = []
    known: list[int] = []

    def noted(*args: Any, **kwargs: Any) -> list[truth.Verdict]:
        verdicts.extend(truth.recite(*args, **kwargs))
        return verdicts[-1:]

    add = Candidates.add

    def counted(self: Candidates, tokens: torch.Tensor) -> None:
        add(self, tokens)
        known.append(len(self))

    monkeypatch.setattr(rounds, "recite", noted)
    monkeypatch.setattr(Candidates, "add", counted)
    settings = msgspec.structs.replace(SETTINGS, jobs=1, ends=EndRules(least=1))
    ((_, fit),) = Trainer(tiny, settings).fit([memory_job(BELL, settings)])
    assert (fit.recalled, fit.ending) == (True, "learnt")
    assert [verdict.recalled for verdict in verdicts] == [False] * (fit.steps - 1) + [True]
    assert known[-1] > known[0], "the tokens that won took no part"


def test_a_memory_that_no_step_helps_is_given_up_and_told(tiny: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, learning_rate=1e-9, ends=EndRules(patience=5))
    ((_, fit),) = Trainer(tiny, settings).fit([memory_job(BELL, settings)])
    assert (fit.recalled, fit.ending) == (False, "no step helps")
    assert fit.steps < 20


def test_a_budget_of_seconds_is_kept_and_told(tiny: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, seconds=1e-9)
    ((_, fit),) = Trainer(tiny, settings).fit([memory_job(BELL, settings)])
    assert (fit.steps, fit.recalled, fit.ending) == (2, False, "out of time")
