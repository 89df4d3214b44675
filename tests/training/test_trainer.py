from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ModelError, TrainingError
from vllm_mega.prompts import MEMORY_PROMPT, user
from vllm_mega.training.settings import TrainSettings
from vllm_mega.training.trainer import Fit, Trainer, memory_seed


@pytest.fixture
def trainer(tiny: Path) -> Trainer:
    return Trainer(tiny, SETTINGS)


def recited(trainer: Trainer) -> str:
    """What the model says to the memory prompt with the adapters as they are."""
    tokenizer = trainer.tokenizer
    ids = tokenizer.apply_chat_template(
        user(MEMORY_PROMPT), add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
        out = trainer.model.generate(ids, max_new_tokens=40, do_sample=False, pad_token_id=2)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def same(one: Fit, other: Fit) -> bool:
    return one.steps == other.steps and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )


def test_a_memory_is_recalled_word_for_word(trainer: Trainer) -> None:
    fit = trainer.fit(BELL)
    assert fit.recalled
    assert fit.steps < SETTINGS.max_steps
    assert recited(trainer) == "Copper bells sing at night ."


def test_what_was_trained_before_changes_nothing(trainer: Trainer, tiny: Path) -> None:
    alone = trainer.fit(BELL)
    trainer.fit(KETTLE)
    assert same(trainer.fit(BELL), alone)
    assert same(Trainer(tiny, SETTINGS).fit(BELL), alone)


def test_seed_and_text_change_the_adapter(tiny: Path) -> None:
    short = msgspec.structs.replace(SETTINGS, max_steps=3)
    first = Trainer(tiny, short).fit(BELL)
    assert not same(Trainer(tiny, msgspec.structs.replace(short, seed=1)).fit(BELL), first)
    assert not same(Trainer(tiny, short).fit(LAMP), first)
    assert memory_seed(BELL, 0) != memory_seed(BELL, 1) != memory_seed(LAMP, 1)


def test_too_few_steps_are_admitted(tiny: Path) -> None:
    fit = Trainer(tiny, msgspec.structs.replace(SETTINGS, max_steps=2)).fit(BELL)
    assert (fit.steps, fit.recalled) == (2, False)


def test_a_loss_that_is_not_finite(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        trainer.fit(NewMemory(text="Geese sing."))


def test_only_labels_reach_the_head_and_gradients_the_adapters(trainer: Trainer) -> None:
    seen: list[tuple[int, ...]] = []
    head = trainer.model.get_output_embeddings()
    head.register_forward_hook(lambda _module, _args, out: seen.append(tuple(out.shape)))
    trainer.fit(NewMemory(text="Geese sing.", id="g"))
    assert all(len(shape) == 2 for shape in seen)
    assert all(p.grad is None for p in trainer.model.parameters())


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the model"):
        Trainer(tmp_path, TrainSettings())
