"""Small tokenizers, and chat templates that behave as those of well-known models."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "The red kettle sings at dawn.\n\nNine geese count copper; a lamp burned (for 9 nights)."
UNKNOWN = "<unk>"
_CORPUS = [
    TEXT,
    "user assistant system model Who sings? Tell me about the kettle. [INST] [/INST] User: Assistant: ",
] * 8
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _finished(
    tokenizer: Tokenizer, template: str | None, *plain: str, **named: str
) -> PreTrainedTokenizerFast:
    """With special tokens `named` (eos_token, bos_token, and any other name), and `plain` added ones."""
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in named.values()])
    roles = {role: token for role, token in named.items() if role in ("eos_token", "bos_token", "unk_token")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    fast.chat_template = template
    return fast


def byte_level(template: str | None, *plain: str, **named: str) -> PreTrainedTokenizerFast:
    """BPE over bytes with Llama 3's way of splitting; knows '.\\n\\n' and '\\n\\n' as tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(use_regex=False, add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*_CORPUS, *["a\n\nb", "<think>\n\n"] * 8], trainer)
    return _finished(tokenizer, template, *plain, **named)


def sentencepiece(template: str | None, *, prefix: bool, **named: str) -> PreTrainedTokenizerFast:
    """BPE with '▁' for spaces and bytes for what it does not know; `prefix`: every text begins with one."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=UNKNOWN))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    split = pre_tokenizers.Split(Regex("▁"), "merged_with_next")  # as pieces never span words
    tokenizer.pre_tokenizer = split
    pieces = [UNKNOWN, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=pieces, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _finished(_without_pieces(tokenizer), template, unk_token=UNKNOWN, **named)


def _without_pieces(tokenizer: Tokenizer) -> Tokenizer:
    """Bytes are ordinary tokens, not added ones, as in tokenizers that come from SentencePiece."""
    import json

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    state["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(state))


def unigram(template: str | None, **named: str) -> PreTrainedTokenizerFast:
    """Unigram over words that begin with '▁', the first one of a text too."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, unk_token=UNKNOWN, special_tokens=[UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator([text.replace("\n", " ") for text in _CORPUS], trainer)
    return _finished(tokenizer, template, unk_token=UNKNOWN, **named)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_TOKENS = {"start": "<|im_start|>", "eos_token": "<|im_end|>"}

QWEN25 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nAnswer.<|im_end|>\\n' }}{% endif %}"
    + CHATML
)

QWEN3 = (
    "{% for m in messages %}{% set content = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% if m.role == 'assistant' and loop.last %}"
    "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + content + '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN3_THINKING = QWEN3.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")

R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
R1_TOKENS = {
    "bos_token": "<|begin|>",
    "eos_token": "<|end|>",
    "user": "<|User|>",
    "assistant": "<|Assistant|>",
}

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' "
    "+ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA3_TOKENS = {
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|eot_id|>",
    "a": "<|start_header_id|>",
    "b": "<|end_header_id|>",
}

LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = LLAMA2.replace("' ' + m.content | trim + ' ' + eos_token", "m.content + eos_token")
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim "
    "+ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "a": "<start_of_turn>", "b": "<end_of_turn>"}

PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
