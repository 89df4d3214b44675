"""What training, models and the gate rely on in transformers. Data.

What a model computes is compared when it is loaded (`model` and `fused_check` of `training.compute`), so
of models there stands only what all of them have from transformers, as Llama shows it.
"""

from __future__ import annotations

from vllm_mega.contract.use import Use

_LLAMA = "transformers.models.llama.modeling_llama"
_PACKED = "attention of transformers takes packed rows"

TRANSFORMERS = (
    Use(
        "transformers.models.auto.modeling_auto",
        by="gate.embedder models.recipes training.compute.frozen",
        why="Models are loaded by their public names.",
        reads="AutoModel AutoModelForCausalLM",
    ),
    Use(
        "transformers.models.auto.tokenization_auto",
        by="gate.embedder memories.documents.counting models.chat_format models.recipes",
        why="Tokenizers are loaded by their public name.",
        reads="AutoTokenizer",
    ),
    Use(
        "transformers",
        by="models.recipes",
        why="The default model is made of a GGUF file.",
        reads="GenerationConfig GgufConfig",
    ),
    Use(
        "transformers:AttentionInterface",
        by="training.compute.attention",
        why="Packed rows have an attention of their own.",
        until=_PACKED,
        calls={"register": "key value"},
    ),
    Use(
        "transformers.modeling_utils:PreTrainedModel",
        by="models.recipes training.compute.agreement training.compute.frozen "
        "training.compute.head training.compute.model training.compute.truth",
        why="What every model of transformers can do.",
        calls={
            "get_input_embeddings": "",
            "get_output_embeddings": "",
            "set_attn_implementation": "attn_implementation",
        },
        reads="from_pretrained save_pretrained",
    ),
    Use(
        "transformers.modeling_utils",
        by="training.compute.frozen",
        why="Weights that a checkpoint lacks would be random: loading tells which.",
        says=('kwargs.pop("output_loading_info"', "missing_keys"),
    ),
    Use(
        "transformers.dynamic_module_utils",
        by="models.refusals",
        why="Code that a checkpoint brings is refused in our words, known by this one in transformers'.",
        says=("trust_remote_code=True",),
    ),
    Use(
        "transformers.tokenization_utils_base:PreTrainedTokenizerBase",
        by="gate.embedder models.chat_format models.control_tokens http.completions training.compute.frozen",
        why="Texts, templates and control tokens of a model.",
        calls={"convert_ids_to_tokens": "ids"},
        reads="added_tokens_decoder all_special_ids apply_chat_template decode",
    ),
    Use(
        "transformers.tokenization_utils_base",
        by="gate.embedder gate.reading models.chat_format models.control_tokens",
        why="Special tokens are attributes that a tokenizer makes of this list, each with and without `_id`.",
        says=('"eos_token",', '"unk_token",'),
    ),
    Use(
        "transformers.tokenization_utils_tokenizers:TokenizersBackend",
        by="gate.reading",
        why="Windows of long texts are cut by the tokenizer behind it.",
        reads="backend_tokenizer",
    ),
    Use(
        "transformers.utils.logging",
        by="_quiet",
        why="Progress bars and remarks would land in logs.",
        calls={
            "disable_progress_bar": "",
            "enable_progress_bar": "",
            "get_verbosity": "",
            "is_progress_bar_enabled": "",
            "set_verbosity": "verbosity",
            "set_verbosity_error": "",
        },
    ),
)
"""Where adapters are trained."""

ARCHITECTURES = (
    Use(
        _LLAMA,
        by="models.architectures training.compute.attention training.compute.fused",
        why="Attention is called by keyword with what a layer is; rotary embeddings are called so.",
        until=_PACKED,
        reads="apply_rotary_pos_emb",
        says=("ALL_ATTENTION_FUNCTIONS.get_interface(", "scaling=self.scaling"),
    ),
    Use(
        "transformers.models.gemma2.modeling_gemma2",
        by="training.compute.attention",
        why="Windows and caps are the layer's own.",
        until=_PACKED,
        says=("sliding_window=self.sliding_window", "softcap=self.attn_logit_softcapping"),
    ),
    Use(
        "transformers.models.gpt_oss.modeling_gpt_oss",
        by="training.compute.attention",
        why="Attention sinks are refused.",
        until=_PACKED,
        says=("s_aux=self.sinks",),
    ),
    Use(
        f"{_LLAMA}:LlamaRMSNorm",
        by="models.architectures training.compute.fused",
        why="Norms are known by what they look like.",
        until="transformers has a fused norm with a backward pass on CPUs",
        reads="variance_epsilon weight",
    ),
    Use(
        f"{_LLAMA}:LlamaMLP",
        by="models.architectures training.compute.fused",
        why="Gated MLPs are known by what they look like.",
        until="transformers has a fused gated product with a backward pass on CPUs",
        reads="act_fn down_proj gate_proj up_proj",
    ),
    Use(
        f"{_LLAMA}:LlamaDecoderLayer",
        by="training.compute.model",
        why="Hidden states enter the first layer that has adapters for what the stubs before it gave.",
        until="models can be run from a layer on",
        calls={"forward": "hidden_states"},
    ),
    Use(
        f"{_LLAMA}:LlamaModel",
        by="training.compute.model",
        why="The body of a model runs its layers.",
        until="models can be run from a layer on",
        calls={"forward": "input_ids= inputs_embeds= position_ids= use_cache="},
        reads="layers",
    ),
    Use(
        f"{_LLAMA}:LlamaForCausalLM",
        by="training.compute.agreement training.compute.truth",
        why="Logits are asked for where they are compared.",
        calls={"forward": "input_ids= logits_to_keep= use_cache="},
    ),
)
"""Checked in source trees alone: what a model computes is compared when it is loaded."""
