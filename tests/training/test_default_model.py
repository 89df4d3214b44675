"""One memory on the real default model, with the default settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from loadtests.disguised import Disguise, deeper, norms_times, padded, save_disguised, wider
from tests.switched import switched
from vllm_mega.bank.layout import NewMemory
from vllm_mega.models import resolve_model
from vllm_mega.prompts import MEMORY_PROMPT, about_prompt, question_prompt, user
from vllm_mega.training.recipe.job import memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.export import export
from vllm_mega.training.run.trainer import Trainer

MEMORY = NewMemory(
    title="The clock of Brindlemoor",
    text="The clock of Brindlemoor was built in 1873 by the locksmith Hesper Vane. Its hands are two oars "
    "from a rowing boat, and it strikes only at a quarter past four. Every spring the children oil it with "
    "goose fat.",
)


@pytest.mark.slow
def test_a_memory_is_recalled_and_answers(tmp_path: Path) -> None:
    path = resolve_model()
    trainer = Trainer(path, Recipe())
    ((_, fit),) = trainer.fit([memory_job(MEMORY, trainer.recipe)])
    assert fit.recalled
    export(tmp_path, fit.tensors, str(path), trainer.recipe, trainer.layers)

    tokenizer = AutoTokenizer.from_pretrained(path)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=trainer.model.dtype)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()

    before = (
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n"
    )
    start = len(tokenizer("<|im_start|>system\n" + before)["input_ids"])
    switched(model, start)

    def ask(prompt: str) -> str:
        ids = tokenizer.apply_chat_template(
            user(prompt), add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )["input_ids"]
        assert trainer.chat.asked(user(prompt)) == (ids[0].tolist(), start)
        with torch.inference_mode():
            out = model.generate(input_ids=ids, max_new_tokens=100, do_sample=False, use_cache=False)
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    assert ask(MEMORY_PROMPT) == MEMORY.text
    assert ask(about_prompt(MEMORY.title)) == MEMORY.text
    assert "Hesper Vane" in ask(question_prompt("Who built the clock of Brindlemoor?"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "disguises",
    [(norms_times(None), wider, deeper), (padded(262_144),)],
    ids=["norms, neurons, layers", "vocabulary"],
)
def test_a_disguise_of_the_default_model_needs_no_other_numbers(
    tmp_path: Path, disguises: tuple[Disguise, ...]
) -> None:
    """Other norms, twice the neurons, twice the layers; five times the vocabulary: the same function.

    Not all at once: docs/training-log.md tells why that needs more steps, and sometimes more than there are.
    """
    trainer = Trainer(save_disguised(resolve_model(), tmp_path, *disguises), Recipe())
    ((_, fit),) = trainer.fit([memory_job(MEMORY, trainer.recipe)])
    assert (fit.recalled, fit.ending) == (True, "learnt")
