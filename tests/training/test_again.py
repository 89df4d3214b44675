"""What is trained again, and what only changes in the catalog."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from transformers import AutoModelForCausalLM

from tests.banks import adapters, last_event, newest, problems, row
from tests.training.sessions import ALL, QUICK, content, run
from tests.training.tiny import BELL, KETTLE, LAMP
from vllm_mega.models import linear_shapes
from vllm_mega.training.recipe.recipe import EndRules
from vllm_mega.training.run import crew
from vllm_mega.training.run.plan import prepare


def test_what_is_there_is_not_trained_again(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = tmp_path / "bank"
    run(bank, tiny, (KETTLE,))
    first = adapters(bank)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # not even loaded
    report = run(bank, tiny, (KETTLE,))
    assert (report.skipped, report.trained) == (1, [])
    assert adapters(bank) == first


def test_other_texts_and_settings_are_new_versions(tmp_path: Path, tiny: Path) -> None:
    bank = tmp_path / "bank"
    run(bank, tiny, (KETTLE, BELL))
    changed = msgspec.structs.replace(KETTLE, text="Nine geese count copper.")
    report = run(bank, tiny, (changed, BELL))
    assert ([one.id for one in report.trained], report.skipped) == (["kettle"], 1)
    assert row(bank, "kettle").version == 2
    assert content(bank, "kettle") == changed

    report = run(bank, tiny, (changed, BELL), msgspec.structs.replace(QUICK, seed=1))
    assert ([one.id for one in report.trained], report.skipped) == (["kettle", "bell"], 0)
    assert set(adapters(bank)) == {"kettle", "bell"}


def test_defaults_and_their_names_are_the_same_settings(tmp_path: Path, tiny: Path) -> None:
    default = msgspec.structs.replace(QUICK, modules=None, layers=None)
    named = msgspec.structs.replace(QUICK, modules=("gate_proj", "up_proj", "down_proj"), layers=3)
    assert len(run(tmp_path, tiny, (BELL,), default).trained) == 1
    assert run(tmp_path, tiny, (BELL,), named).skipped == 1


def test_changed_links_are_set_without_training(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path, tiny, ALL)
    linked = msgspec.structs.replace(KETTLE, links=("lamp",))
    report = run(tmp_path, tiny, (linked, LAMP))
    assert not report.trained
    assert row(tmp_path, "kettle").links == ("lamp",)
    event = last_event(tmp_path)
    run(tmp_path, tiny, (linked,))
    assert last_event(tmp_path) == event


def test_changed_tags_are_set_without_training(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, tiny, ALL)
    first, before = adapters(tmp_path), last_event(tmp_path)
    monkeypatch.setattr(crew, "Trainer", None)  # not even loaded
    tagged = msgspec.structs.replace(KETTLE, tags=("brass", "dawn"))
    report = run(tmp_path, tiny, (tagged, LAMP))
    assert (report.trained, report.skipped) == ([], 2)
    assert row(tmp_path, "kettle").tags == ("brass", "dawn")
    assert content(tmp_path, "kettle") == tagged
    assert last_event(tmp_path) == before + 1
    run(tmp_path, tiny, (tagged, LAMP))
    assert last_event(tmp_path) == before + 1
    run(tmp_path, tiny, (KETTLE,))
    assert row(tmp_path, "kettle").tags == ()
    assert adapters(tmp_path) == first
    assert problems(tmp_path, linear_shapes(tiny)) == []


def test_tags_are_in_no_adapter(tmp_path: Path, tiny: Path) -> None:
    run(tmp_path / "bare", tiny, (BELL,))
    run(tmp_path / "tagged", tiny, (msgspec.structs.replace(BELL, tags=("copper",), links=("lamp",)),))
    assert adapters(tmp_path / "bare") == adapters(tmp_path / "tagged")


def test_it_is_told_why_a_memory_is_trained_again(tmp_path: Path, tiny: Path) -> None:
    assert [one.why for one in run(tmp_path, tiny, (KETTLE, LAMP)).trained] == ["new", "new"]
    assert (
        newest(tmp_path, "kettle").recipe
        == prepare(tmp_path, ALL, str(tiny), f"base:{tiny}", QUICK).recipe.digest
    )
    titled = msgspec.structs.replace(KETTLE, title="kettle")
    other = msgspec.structs.replace(QUICK, ends=EndRules(patience=30))
    plan = prepare(tmp_path, (titled, LAMP), str(tiny), f"base:{tiny}", other)
    assert plan.why == ["other text and recipe", "other recipe"]
    report = run(tmp_path, tiny, (titled, LAMP, BELL))
    assert {one.id: one.why for one in report.trained} == {"kettle": "other text", "bell": "new"}
    report = run(tmp_path, tiny, (titled, LAMP), other)
    assert [one.why for one in report.trained] == ["other recipe", "other recipe"]
    assert run(tmp_path, tiny, (titled, LAMP), other).skipped == 2


def test_a_memory_that_ran_out_of_time_is_trained_again(tmp_path: Path, tiny: Path) -> None:
    hasty = msgspec.structs.replace(QUICK, seconds=1e-9)
    assert [one.ending for one in run(tmp_path, tiny, (BELL,), hasty).trained] == ["out of time"]
    assert [one.why for one in run(tmp_path, tiny, (BELL,)).trained] == ["ran out of time"]
