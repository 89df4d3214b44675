"""What PEFT writes, and what is expected of `bank add`: for the tests and for docs/adapters.md.

`python -m tests.bank.peft_variants docs/adapters.md` writes the table there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.bank import peft_edits as edit

Status = Literal["exact", "works", "refused"]
BEGIN, END = "<!-- variants: begin -->", "<!-- variants: end -->"


@dataclass(frozen=True)
class Variant:
    """One way to make an adapter."""

    name: str
    """As the table calls it."""
    expected: Status
    remark: str
    """Of one that is refused, a part of the message."""
    config: dict[str, Any] = field(default_factory=dict)
    """Of PEFT's LoraConfig, beside rank 2, alpha 4 and q_proj, down_proj."""
    train: Callable[[Any], None] = edit.noise
    """What training does to the model."""
    save: Callable[[Any, Path], None] = edit.save
    """How the model is written."""
    change: Callable[[Path], None] = edit.nothing
    """What is done to the folder afterwards."""
    rounds: bool = False
    """Whether that changes values, so that PEFT must read them again."""


_OWN = ("train", "save", "change", "rounds")


def _exact(name: str, remark: str, **options: Any) -> Variant:
    config = {key: value for key, value in options.items() if key not in _OWN}
    return Variant(name, "exact", remark, config, **{k: v for k, v in options.items() if k not in config})


def _refused(name: str, remark: str, **options: Any) -> Variant:
    made = _exact(name, remark, **options)
    return Variant(name, "refused", remark, made.config, made.train, made.save, made.change)


PATTERNS = {"rank_pattern": {"down_proj": 5, r"layers\.1\..*q_proj": 3}, "alpha_pattern": {"q_proj": 3}}
VARIANTS = [
    _exact("plain LoRA", "as it is"),
    _exact("`lora_dropout`", "not while serving", lora_dropout=0.5),
    _exact("`use_rslora`", "its scale becomes `lora_alpha`", use_rslora=True),
    _exact(
        "`rank_pattern`", "scales go into B, ranks are filled up with zeros", rank_pattern={"down_proj": 5}
    ),
    _exact("`alpha_pattern`", "scales go into B", alpha_pattern={"model.layers.0.mlp.down_proj": 9}),
    _exact("both, with regular expressions", "as PEFT matches them, within ten seconds", **PATTERNS),
    _exact("both, with `use_rslora`", "likewise", use_rslora=True, **PATTERNS),
    _refused(
        "patterns that take too long",
        "Name the modules in it instead",
        change=lambda folder: edit.config(folder, alpha_pattern={r"([a-z._0-9]+)*!": 3}),
    ),
    _exact("`target_modules`, a regular expression", "the tensors tell", target_modules=r".*\.(q|up)_proj"),
    _exact('`target_modules="all-linear"`', "the tensors tell", target_modules="all-linear"),
    _exact(
        "`target_modules` that also names what the model lacks",
        "the tensors tell",
        target_modules=["q_proj", "query_key_value"],
    ),
    _exact(
        "`exclude_modules`, `layers_to_transform`, `layers_pattern`",
        "the tensors tell",
        exclude_modules=["up_proj"],
        layers_to_transform=[1],
        layers_pattern="layers",
    ),
    _exact("float16 tensors", "kept", change=lambda folder: edit.retype(folder, "float16"), rounds=True),
    _exact("bfloat16 tensors", "kept", change=lambda folder: edit.retype(folder, "bfloat16"), rounds=True),
    _exact(
        "bfloat16 tensors, with patterns",
        "what is scaled becomes float32",
        change=lambda folder: edit.retype(folder, "bfloat16"),
        rounds=True,
        **PATTERNS,
    ),
    _refused("float64 tensors", "BF16, F16, F32", change=lambda folder: edit.retype(folder, "float64")),
    _refused("pickled tensors (`adapter_model.bin`)", "save_pretrained with safe", change=edit.pickled),
    _exact("a named adapter, in a subfolder", "found, if it is the only one", save=edit.save_named("lamp")),
    _refused("several named adapters", "Say which: --adapter", save=edit.save_named("lamp", "tide")),
    _exact(
        "names with `.default.` (a state that was saved by hand)",
        "taken off",
        change=lambda folder: edit.rename(folder, lambda n: n.replace(".weight", ".default.weight")),
    ),
    _refused(
        "tensors of several adapters in one file",
        "selected_adapters",
        change=edit.two_in_one,
    ),
    _exact(
        "names with `module.` (DDP)",
        "taken off",
        change=lambda folder: edit.rename(folder, lambda n: "module." + n),
    ),
    _exact(
        "names with `_orig_mod.` (torch.compile)",
        "taken off",
        change=lambda folder: edit.rename(
            folder, lambda n: n.replace("model.model", "model._orig_mod.model")
        ),
    ),
    _exact(
        "names with `_fsdp_wrapped_module.` (FSDP)",
        "taken off",
        change=lambda folder: edit.rename(
            folder, lambda n: n.replace("layers.0.", "layers.0._fsdp_wrapped_module.")
        ),
    ),
    _exact(
        "names with `language_model.` (trained in a model of several kinds)",
        "taken off, if only one module can be meant",
        change=lambda folder: edit.rename(
            folder, lambda n: n.replace("model.model.layers", "model.model.language_model.layers")
        ),
    ),
    _exact(
        "names without `base_model.model.`",
        "put before",
        change=lambda folder: edit.rename(folder, lambda n: n.removeprefix("base_model.model.")),
    ),
    _refused(
        "modules that the base model lacks",
        "belongs to another base model",
        change=lambda folder: edit.rename(folder, lambda n: n.replace("layers.1", "layers.7")),
    ),
    _exact("an embedding saved beside, untouched", "left out: the base has it", save=edit.save_embeddings),
    _exact("`modules_to_save`, untouched", "left out: the base has it", modules_to_save=["embed_tokens"]),
    Variant(
        "`modules_to_save`, untouched, of a model that was loaded as bfloat16",
        "works",
        "left out: the base has it, unrounded",
        {"modules_to_save": ["embed_tokens"]},
        change=edit.round_beside,
        rounds=True,
    ),
    _refused(
        "`modules_to_save`, trained",
        "train without modules_to_save",
        modules_to_save=["embed_tokens"],
        train=edit.noise_everywhere,
    ),
    _refused(
        "an embedding of another vocabulary",
        "without another vocabulary",
        train=edit.resize,
        save=edit.save_embeddings,
    ),
    _exact('`bias="lora_only"`, untouched', "left out: the base has it", bias="lora_only"),
    _refused('`bias="all"`, trained', "without a bias", bias="all", train=edit.noise_everywhere),
    _exact('`init_lora_weights="gaussian"`', "as it is", init_lora_weights="gaussian"),
    _exact('`init_lora_weights="orthogonal"`', "as it is", init_lora_weights="orthogonal"),
    _exact('`init_lora_weights="eva"`', "as it is", init_lora_weights="eva"),
    _exact('`init_lora_weights="mica"`', "as it is", init_lora_weights="mica"),
    _exact("PiSSA, converted by PEFT", "as it is", init_lora_weights="pissa", save=edit.save_converted),
    _exact("OLoRA, converted by PEFT", "as it is", init_lora_weights="olora", save=edit.save_converted),
    _refused("PiSSA, as trained", "path_initial_model_for_weight_conversion", init_lora_weights="pissa"),
    _refused("OLoRA, as trained", "path_initial_model_for_weight_conversion", init_lora_weights="olora"),
    *(
        _refused(
            f"{name}, as trained",
            why,
            change=lambda folder, kind=kind: edit.config(folder, init_lora_weights=kind),
        )
        for name, kind, why in (
            ("CorDA", "corda", "path_initial_model_for_weight_conversion"),
            ("LoRA-GA", "lora_ga", "path_initial_model_for_weight_conversion"),
            ("LoftQ", "loftq", "train again with init_lora_weights=True"),
        )
    ),
    _refused("DoRA (`use_dora`)", "DoRA is not served", use_dora=True),
    _refused("`lora_bias`", "train with lora_bias=False", lora_bias=True),
    _refused("`trainable_token_indices`", "Trained tokens are not served", trainable_token_indices=[1]),
    _refused(
        "LoRA on `lm_head`", "Heads and embeddings are not served", target_modules=["q_proj", "lm_head"],
        save=edit.save_without_embeddings,
    ),
    _refused(
        "LoRA on `embed_tokens`",
        "LoRA on embeddings is not served",
        target_modules=["q_proj", "embed_tokens"],
    ),
    *(
        _refused(name, why, change=lambda folder, fields=fields: edit.config(folder, **fields))
        for name, why, fields in (
            ("`target_parameters` (experts)", "LoRA on bare parameters", {"target_parameters": ["a.b"]}),
            ("`layer_replication`", "Repeated layers are not served", {"layer_replication": [[0, 1]]}),
            ("aLoRA", "Activated LoRA is not served", {"alora_invocation_tokens": [7]}),
            ("QALoRA", "use_qalora unset", {"use_qalora": True}),
            ("BD-LoRA", "use_bdlora unset", {"use_bdlora": {"nblocks": 2}}),
            ("KaSA", "kasa_config unset", {"kasa_config": {"beta": 0.1}}),
            ("VeLoRA", "velora_config unset", {"velora_config": {"scale": 0.1}}),
            ("MonteCLoRA", "monteclora_config unset", {"monteclora_config": {"num_samples": 2}}),
            ("Arrow", "arrow_config unset", {"arrow_config": {"top_k": 2}}),
            ("Megatron", "megatron_config unset", {"megatron_config": {"hidden_size": 8}}),
            ("any other field that is set", "invented unset", {"invented": 0.5}),
        )
    ),
    _refused(
        "IA3, AdaLoRA, LoHa, LoKr, VeRA, OFT, prompts and all other `peft_type`",
        "Only LoRA adapters are served",
        change=lambda folder: edit.config(folder, peft_type="IA3"),
    ),
    _refused(
        "kohya's and ComfyUI's names", "convert it to PEFT's format",
        change=lambda folder: edit.rename(
            folder, lambda n: n.replace("lora_A", "lora_down").replace("lora_B", "lora_up")
        ),
    ),
]  # fmt: skip


def render() -> str:
    """The table, in Markdown."""
    rows = [f"| {variant.name} | {variant.expected} | {_remark(variant)} |" for variant in VARIANTS]
    return "\n".join(["| adapter | | what becomes of it |", "| --- | --- | --- |", *rows])


def _remark(variant: Variant) -> str:
    return variant.remark if variant.expected != "refused" else f'"... {variant.remark} ..."'


def with_table(text: str) -> str:
    """`text` with the table between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
