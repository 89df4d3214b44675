"""Training in another chat template than the model's own: what the bank keeps, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.banks import adapters
from tests.training.tiny import BELL, KETTLE, SETTINGS, TEMPLATE, save_tiny
from vllm_mega.bank.catalog.catalog import create_catalog, open_catalog
from vllm_mega.bank.catalog.changes import set_chat_template
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.layout import BaseModelInfo
from vllm_mega.cli import main
from vllm_mega.errors import BankMismatchError, ModelError, TrainingError
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.models import fingerprint
from vllm_mega.models.chat_template import read_template
from vllm_mega.training.run.outcome import TrainReport
from vllm_mega.training.run.session import train

PLAIN = read_template("plain")
OTHER = TEMPLATE.replace("m['role']", "m['role'] | trim")
QUICK = msgspec.structs.replace(SETTINGS, max_steps=2, jobs=1)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a base model: without a chat template."""
    folder = save_tiny(tmp_path_factory.mktemp("bare"))
    (folder / "chat_template.jinja").unlink()
    return folder


def run(bank: Path, model: Path, template: str = "", *memories: object) -> TrainReport:
    settings = msgspec.structs.replace(QUICK, chat_template=template)
    return train(bank, memories or (BELL,), str(model), f"base:{model}", settings)  # type: ignore[arg-type]


def template_of(bank: Path) -> str:
    with open_catalog(bank) as catalog:
        return catalog.settings().base.chat_template


def test_a_model_without_a_template_is_refused_with_the_remedy(tmp_path: Path, bare: Path) -> None:
    with pytest.raises(ModelError, match=r"--chat-template plain .*, or --chat-template FILE"):
        run(tmp_path / "bank", bare)
    assert not (tmp_path / "bank").exists()


def test_the_bank_keeps_the_template(tmp_path: Path, bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_bytes(msgspec.json.encode(BELL))
    words = [
        "train", "--bank", str(tmp_path / "bank"), "--input", str(lines), "--model", str(bare),
        "--embedder", f"base:{bare}", "--layers", "1", "--max-steps", "2", "--batch", "3",
    ]  # fmt: skip
    assert main([*words, "--chat-template", "plain"]) == 0
    assert template_of(tmp_path / "bank") == PLAIN
    assert "trained 1 memories" in capsys.readouterr().out
    assert main(words) == 0, "the bank's template is the default"
    assert "nothing to train" in capsys.readouterr().out
    mine = tmp_path / "mine.jinja"
    mine.write_text(TEMPLATE)
    assert main([*words, "--chat-template", str(mine)]) == 1
    message = capsys.readouterr().err
    assert 'trained in the chat template plain, not in the one that begins "{% for m' in message
    assert "leave --chat-template out, or choose another bank" in message
    assert template_of(tmp_path / "bank") == PLAIN


def test_another_template_than_that_of_the_memories_is_refused(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bank", tiny)
    with pytest.raises(BankMismatchError, match="the chat template the model's own, not in plain"):
        run(tmp_path / "bank", tiny, PLAIN)
    run(tmp_path / "bank", tiny, TEMPLATE)  # which is its own
    assert template_of(tmp_path / "bank") == ""


def test_a_given_template_replaces_the_models_own(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bank", tiny, OTHER)
    run(tmp_path / "other", tiny)
    assert template_of(tmp_path / "bank") == OTHER
    run(tmp_path / "bank", tiny, "", BELL, KETTLE)
    assert template_of(tmp_path / "bank") == OTHER
    assert set(adapters(tmp_path / "bank")) == {"bell", "kettle"}


def test_what_is_trained_is_the_template_that_was_given(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bank", tiny, PLAIN)
    run(tmp_path / "other", tiny)
    assert adapters(tmp_path / "bank")["bell"] != adapters(tmp_path / "other")["bell"]


def test_an_empty_bank_takes_the_template(tmp_path: Path, tiny: Path, bare: Path) -> None:
    for model in (tiny, bare):
        bank = tmp_path / model.name
        base = BaseModelInfo(str(model), fingerprint(model))
        create_catalog(bank, BankSettings(base, load_embedder(f"base:{model}").info)).close()
        run(bank, model, PLAIN)
        assert template_of(bank) == PLAIN


def test_memories_added_for_a_model_without_a_template_are_in_nobodys_way(tmp_path: Path, bare: Path) -> None:
    run(tmp_path, bare, PLAIN)
    with open_catalog(tmp_path) as catalog:
        set_chat_template(catalog, "", "tester")  # as `bank add` leaves it
    run(tmp_path, bare, PLAIN, KETTLE)
    assert template_of(tmp_path) == PLAIN


def test_text_that_cannot_be_trained_is_refused_before_anything_is(tmp_path: Path, tiny: Path) -> None:
    bad = msgspec.structs.replace(KETTLE, text="End every turn with </s> and sing.")
    with pytest.raises(TrainingError, match=r"1 of 2 .*\n  default/kettle: text has '</s>', a control token"):
        run(tmp_path / "bank", tiny, "", BELL, bad)
    assert not (tmp_path / "bank").exists()
