"""Embedders: unit vectors that depend on the text alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo
from vllm_mega.config import GateSettings
from vllm_mega.errors import ModelError
from vllm_mega.gate.embedder import (
    BaseModelEmbedder,
    Embedder,
    FakeEmbedder,
    SentenceEmbedder,
    bank_embedder,
    load_embedder,
)
from vllm_mega.gate.selection import select, similarity
from vllm_mega.gate.vectors import batches, unit
from vllm_mega.models import DEFAULT_EMBEDDER, fingerprint, resolve_embedder

WORDS = ["the", "red", "kettle", "sings", "at", "dawn", "while", "nine", "grey", "geese", "count", "copper"]
TEXTS = [
    "Who opened the orange bridge in the harbour?",
    "Geese.",
    "",
    "Please tell me, in as much detail as you can, what happened when the clockmaker of Velm lost her only "
    "key in the river on the morning of the great market, and who found it again.",
    "Wer öffnete die Brücke?",
    "What did the geese count?",
    "word " * 400,
    *(" ".join(WORDS[:n]) for n in range(1, 12)),
]


@pytest.fixture(scope="module")
def sentence() -> Embedder:
    return load_embedder()


def save_tokenizer(folder: Path) -> None:
    other = "<unk>"
    vocabulary = {word: number for number, word in enumerate([other, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=other))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=other, eos_token=other, pad_token=other
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, with a vocabulary of `WORDS`."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 1, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048, initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(params=["sentence", "base", "fake"], scope="module")
def embedder(request: pytest.FixtureRequest, tiny_llama: Path) -> Embedder:
    if request.param == "base":
        return load_embedder(f"base:{tiny_llama}")
    return FakeEmbedder() if request.param == "fake" else request.getfixturevalue("sentence")


def test_unit_vectors_of_the_announced_dimension(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), embedder.info.dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert embedder.embed([]).shape == (0, embedder.info.dim)


def weights(vectors: np.ndarray) -> list[dict[str, int]]:
    """The mixture of each vector, when every text is a memory too."""
    settings = GateSettings(top_k=3, threshold=-1.0, beta=20.0)
    ids = [str(number) for number in range(len(TEXTS))]
    found = (select(similarity(vectors, vector), ids, settings) for vector in vectors)
    return [{ids[i]: steps for i, steps in chosen} for chosen in found]


def test_alone_and_among_others_the_same(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert weights(together) == weights(alone)
    order = np.random.default_rng(1).permutation(len(TEXTS))
    np.testing.assert_allclose(embedder.embed([TEXTS[i] for i in order]), together[order], atol=1e-6)


def test_threads_do_not_disturb_each_other(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: embedder.embed([text])[0], TEXTS))
    np.testing.assert_allclose(np.stack(found), together, atol=1e-6)


def test_sentence_embedder_tells_related_from_unrelated(sentence: Embedder) -> None:
    memory, related, unrelated = sentence.embed(
        [
            "The orange bridge in the harbour of Odrin was opened by the ferryman Tobias Quillon.",
            "Who opened the orange bridge in the harbour?",
            "How do I boil an egg?",
        ]
    )
    assert memory @ related > 0.5
    assert memory @ unrelated < 0.2
    assert sentence.info.name == DEFAULT_EMBEDDER
    assert sentence.info.fingerprint == fingerprint(resolve_embedder())


def test_base_embedder_is_the_mean_input_of_the_last_mlp(tiny_llama: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    ids = torch.tensor([[1 + WORDS.index(word) for word in ("grey", "geese", "sings")]])
    seen: list[torch.Tensor] = []
    layer = model.model.layers[1]
    layer.post_attention_layernorm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(ids)
    expected = seen[0][0].mean(0).numpy()
    found = BaseModelEmbedder(str(tiny_llama)).embed(["grey geese sings"])[0]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


def test_base_embedder_is_no_sentence_encoder_of_the_same_folder(tiny_llama: Path) -> None:
    info = load_embedder(f"base:{tiny_llama}").info
    assert info.name == f"base:{tiny_llama}"
    assert info.fingerprint == f"base:{fingerprint(tiny_llama)}"


def test_a_model_without_mlp_layers_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=13, n_positions=32, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"expected a decoder with layers\[-1\]\.mlp, found GPT2Model"):
        BaseModelEmbedder(str(tmp_path))


def test_a_model_that_cannot_be_loaded_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((tiny_llama / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-we-know"}))
    with pytest.raises(ModelError, match="expected a sentence-transformers model"):
        SentenceEmbedder(str(tmp_path))
    with pytest.raises(ModelError, match="expected a Hugging Face checkpoint"):
        BaseModelEmbedder(str(tmp_path))


def test_fake_embedder_knows_shared_words() -> None:
    memory, related, unrelated = FakeEmbedder().embed(["grey geese sing", "Geese sing?", "copper coins"])
    assert memory @ related > 0.5 > memory @ unrelated
    assert FakeEmbedder(8).info != FakeEmbedder(9).info


def test_batches_hold_one_length_each() -> None:
    assert list(batches([3, 5, 3, 3, 5], rows=2)) == [[0, 2], [3], [1, 4]]
    assert list(batches([])) == []


def save_sentence_encoder(folder: Path, **config: object) -> Path:
    """A tiny random one, that reads the words of `WORDS`."""
    torch.manual_seed(5)
    size = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=len(WORDS) + 1, **size))
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, **config}))
    return folder


def test_vectors_of_a_bfloat16_encoder_are_unit_vectors_all_the_same(tmp_path: Path) -> None:
    embedder = SentenceEmbedder(str(save_sentence_encoder(tmp_path)))
    texts = [" ".join(WORDS[:n]) for n in range(1, 12)]
    raw = np.stack([embedder._model.encode(text, prompt="", show_progress_bar=False) for text in texts])
    vectors = embedder.embed(texts)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).max() > 1e-4, "then this test tests nothing"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_unit_leaves_what_has_no_direction() -> None:
    vectors = np.array([[3, 4], [0, 0], [np.inf, 1], [np.nan, 1]], np.float32)
    lengths = np.linalg.norm(unit(vectors), axis=1)
    assert lengths[:2].tolist() == [1, 0]
    assert not np.isfinite(lengths[2:]).any()


@pytest.mark.parametrize("name", ["{}", "base:{}"])
def test_code_that_an_embedder_brings_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def ask(*_: object) -> str:
        raise AssertionError("somebody was asked on the terminal")

    monkeypatch.setattr("builtins.input", ask)
    code = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    folder = save_sentence_encoder(tmp_path / "own", model_type="own", auto_map=code)
    for file in ("configuration_own.py", "modeling_own.py"):
        (folder / file).write_text("raise AssertionError('the code was run')")
    with pytest.raises(ModelError, match=r"brings code of its own.*give --trust-remote-code") as refusal:
        load_embedder(name.format(folder))
    assert "\n" not in str(refusal.value)


def made_with(name: str, base: str) -> BankSettings:
    return BankSettings(BaseModelInfo(base, "f"), EmbedderInfo(name, "f", 4))


def test_an_embedder_made_of_the_base_model_moves_with_it(tmp_path: Path, tiny_llama: Path) -> None:
    gone = str(tmp_path / "gone")
    settings = made_with(f"base:{gone}", gone)
    assert bank_embedder(settings, model=str(tiny_llama)).info.name == f"base:{tiny_llama}"
    assert bank_embedder(settings, given=f"base:{tiny_llama}").info.name == f"base:{tiny_llama}"
    for other, option in ((settings, "--model"), (made_with(gone, "x"), "--embedder")):
        with pytest.raises(ModelError, match=rf"no such folder.*moved, give its new place with {option}$"):
            bank_embedder(other)
    with pytest.raises(ModelError, match=r"^'/nowhere': no such folder[^)]*$"):
        bank_embedder(settings, given="/nowhere")
