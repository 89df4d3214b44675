"""A tiny random Llama with a chat format, and memories in its few words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vllm_mega.bank.layout import NewMemory
from vllm_mega.training.recipe.recipe import Recipe

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SETTINGS = Recipe(rank=8, modules=ALL, layers=2, learning_rate=0.01, max_steps=300, batch=6)
KETTLE = NewMemory(
    text="The red kettle sings at dawn. Nine geese count copper.", id="kettle", title="red kettle"
)
LAMP = NewMemory(text="A lamp burned for nine nights. Geese count the lamp.", id="lamp")
BELL = NewMemory(text="Copper bells sing at night.", id="bell")

WORDS = (
    "<unk> <s> </s> user assistant . , ? : The the red kettle sings at dawn Nine nine geese Geese count "
    "copper Copper A lamp burned for nights bells sing night Reconstruct entire story that is related to "
    "above question Answer should be no more than one sentence What Who Where Which Why How When In in on On "
    "date many year Tell me a you memorized"
)
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)

START = 2
"""Of every conversation that begins with the user: TEMPLATE writes "<s>" and "user" before what is asked."""


def save_tiny(folder: Path) -> Path:
    """Write the model into `folder`; always the same."""
    words = list(dict.fromkeys(WORDS.split()))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=words[0], bos_token=words[1], eos_token=words[2]
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=48, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
