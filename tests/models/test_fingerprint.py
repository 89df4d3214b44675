"""Fingerprints: one for all copies of a model, others for all others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.models.checkpoints import weights, write_checkpoint, write_sharded
from vllm_mega.errors import ModelError
from vllm_mega.models import fingerprint

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tied one, as the installed transformers saves it."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=40, num_key_value_heads=1, tie_word_embeddings=True, rope_theta=500000.0, **SMALL
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A sentence encoder as sentence-transformers 2 wrote them."""
    folder = tmp_path / "encoder"
    BertModel(BertConfig(vocab_size=8, max_position_embeddings=64, **SMALL)).save_pretrained(folder)
    other, padding = "[UNK]", "[PAD]"
    tokenizer = Tokenizer(models.WordLevel({other: 0, "kettle": 1, padding: 2}, unk_token=other))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=other, pad_token=padding, model_max_length=64
    ).save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    }  # fmt: skip
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_moved_or_divided_into_other_files(tmp_path: Path, llama: Path) -> None:
    mark = fingerprint(llama)
    assert len(mark) == 32
    LlamaForCausalLM.from_pretrained(llama).save_pretrained(tmp_path / "shards", max_shard_size="2KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert fingerprint(tmp_path / "shards") == mark
    assert fingerprint(Path(shutil.move(llama, tmp_path / "moved"))) == mark
    assert fingerprint(write_sharded(tmp_path / "a")) == fingerprint(write_checkpoint(tmp_path / "b"))


def test_saved_by_an_older_transformers(llama: Path) -> None:
    mark = fingerprint(llama)

    def older(config: dict[str, Any]) -> None:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["rope_scaling"] = None
        config["torch_dtype"] = config.pop("dtype")
        config.update(transformers_version="4.40.0", _name_or_path="somewhere", rope_interleaved=False)
        for default in ("hidden_act", "rms_norm_eps", "head_dim", "attention_bias", "mlp_bias"):
            del config[default]

    edit(llama / "config.json", older)
    assert fingerprint(llama) == mark


def test_saved_with_a_tied_head_and_buffers(llama: Path) -> None:
    mark = fingerprint(llama)
    tensors = load_file(llama / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    for layer in range(2):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    tensors["model.layers.0.attn.masked_bias"] = np.full((1,), -1e4, np.float32)
    tensors["model.layers.0.attn.bias"] = np.ones((1, 1, 4, 4), np.uint8)
    tensors["embeddings.position_ids"] = np.arange(4)
    save_file(tensors, llama / "model.safetensors")
    assert fingerprint(llama) == mark


def test_a_model_with_windows_saved_by_an_older_transformers(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        vocab_size=40, num_key_value_heads=1, head_dim=8, sliding_window=16, query_pre_attn_scalar=8, **SMALL
    )
    Gemma3ForCausalLM(config).save_pretrained(tmp_path)
    mark = fingerprint(tmp_path)

    def older(config: dict[str, Any]) -> None:
        ropes = config.pop("rope_parameters")
        config["rope_theta"] = ropes["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 6
        del config["layer_types"], config["tie_word_embeddings"]

    edit(tmp_path / "config.json", older)
    assert fingerprint(tmp_path) == mark
    edit(tmp_path / "config.json", lambda config: config.update(sliding_window_pattern=2))
    assert fingerprint(tmp_path) != mark


def test_an_encoder_saved_by_another_sentence_transformers(tmp_path: Path, encoder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(encoder), device="cpu").save(str(tmp_path / "again"))
    assert (tmp_path / "again" / "1_Pooling" / "config.json").read_text() != (
        encoder / "1_Pooling" / "config.json"
    ).read_text()
    assert fingerprint(tmp_path / "again") == fingerprint(encoder)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("sentence_bert_config.json", {"max_seq_length": 16}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("config.json", {"layer_norm_eps": 1e-5}),
    ],
)
def test_what_changes_an_encoder_shows(encoder: Path, file: str, change: dict[str, Any]) -> None:
    mark = fingerprint(encoder)
    edit(encoder / file, lambda content: content.update(change))
    assert fingerprint(encoder) != mark


def test_an_encoder_without_its_last_module_is_another(encoder: Path) -> None:
    mark = fingerprint(encoder)
    modules = json.loads((encoder / "modules.json").read_text())
    (encoder / "modules.json").write_text(json.dumps(modules[:-1]))
    assert fingerprint(encoder) != mark
    (encoder / "modules.json").write_text('[{"path": ""}]')
    with pytest.raises(ModelError, match="each with 'path' and 'type'"):
        fingerprint(encoder)


def test_weights_tell_models_apart(tmp_path: Path) -> None:
    marks = {
        fingerprint(write_checkpoint(tmp_path / "first")),
        fingerprint(write_checkpoint(tmp_path / "config", rms_norm_eps=0.1)),
    }
    for number, name in enumerate(weights()):
        other = weights()
        other[name] = other[name] * np.float32(1.5)
        marks.add(fingerprint(write_checkpoint(tmp_path / str(number), other)))
    renamed = {name.replace("up_proj", "gate_proj"): value for name, value in weights().items()}
    marks.add(fingerprint(write_checkpoint(tmp_path / "renamed", renamed)))
    last = weights()
    last["lm_head.weight"][-1, -1] = 2
    marks.add(fingerprint(write_checkpoint(tmp_path / "last", last)))
    assert len(marks) == 4 + len(weights())


def test_without_torch(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    script = (
        "import sys; from pathlib import Path; from vllm_mega.models import fingerprint;"
        "print(fingerprint(Path(sys.argv[1]))); assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == fingerprint(folder)
