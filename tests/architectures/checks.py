"""A family from training to serving: what tests assert and `python -m loadtests.architectures` tells."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.architectures import exactness
from tests.architectures.exactness import SERVED, TRAINED
from tests.architectures.families import Family, Refusal, Status
from tests.architectures.serving_session import QUESTION, Served, serve
from tests.architectures.small_models import save_small, spoil
from tests.switched import switched
from vllm_mega.bank.library import Library
from vllm_mega.errors import BankError, MegaError
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.prompts import user
from vllm_mega.training.run.session import train


class Outcome(msgspec.Struct, frozen=True):
    """What became of a family, or of a model that should be refused."""

    name: str
    expected: Status
    status: str
    """A `Status`, or "wrong: " and what is."""
    train_seconds: float = 0.0
    serve_seconds: float = 0.0
    trained_error: float | None = None
    """Relative difference of the trainer's logits from PEFT's."""
    served_error: float | None = None
    """Largest difference of vLLM's logprobs from PEFT's; infinite: other tokens."""


class TrainedFamily(msgspec.Struct, frozen=True):
    """A family with an adapter, in files."""

    model: Path
    adapter: Path
    seconds: float
    error: float
    """Relative, of the trainer's logits."""
    effect: float
    """Relative, of the adapter on the logits: an adapter without any would be exact under any mistake."""
    early: float
    """Relative, of an adapter that acts on the beginning too: without any, nobody would see that it does."""
    modules: tuple[str, ...]


def train_family(family: Family, root: Path) -> TrainedFamily:
    """Make the small model in a new folder of `root`, train on it, compare with PEFT.

    Raises:
        MegaError: it is refused.
    """
    started = time.perf_counter()
    model = save_small(root / family.folder / "model", family.model_type, family.fields)
    adapter = root / family.folder / "adapter"
    trainer = exactness.train_small(model, adapter)
    rows = exactness.sample_rows()
    switch = switched(exactness.with_adapter(model, adapter), exactness.START)
    wanted = exactness.plain_logits(switch, rows)
    error = exactness.relative_error(exactness.trainer_logits(trainer, rows), wanted)
    base = exactness.plain_logits(exactness.with_adapter(model, None), rows)
    config = json.loads((adapter / "adapter_config.json").read_text())
    seconds = time.perf_counter() - started
    effect = exactness.relative_error(base, wanted)
    everywhere = exactness.plain_logits(exactness.with_adapter(model, adapter), rows)
    early = exactness.relative_error(everywhere, wanted)
    return TrainedFamily(model, adapter, seconds, error, effect, early, tuple(config["target_modules"]))


def serve_families(
    families: Sequence[Family], trained: Sequence[TrainedFamily], root: Path, timeout: float
) -> list[Outcome]:
    """Put every adapter into a bank, serve all banks, compare with PEFT."""
    banks, embedder = [root / family.folder / "bank" for family in families], load_embedder()
    for bank, files in zip(banks, trained, strict=True):
        exactness.make_bank(bank, files.model, files.adapter, embedder)
    served = serve(banks, root / "served.json", timeout)
    return [_outcome(*one) for one in zip(families, trained, served, strict=True)]


def _outcome(family: Family, trained: TrainedFamily, served: Served) -> Outcome:
    error = None
    if served.tokens:
        asked = load_chat_format(trained.model).asked(user(QUESTION))
        model = switched(
            exactness.with_adapter(trained.model, trained.adapter, **family.as_served), asked.start
        )
        error = exactness.greedy_error(model, served.prompt, served.tokens, served.logprobs)
        if (served.prompt, served.start) != asked:
            error = math.inf  # trained otherwise than it is asked
    status = _status(family, trained, served, error)
    return Outcome(
        family.name, family.expected, status, trained.seconds, served.seconds, trained.error, error
    )


def _status(family: Family, trained: TrainedFamily, served: Served, error: float | None) -> str:
    if not trained.error <= TRAINED:
        return f"wrong: the trainer differs from PEFT by {trained.error:.1e}"
    if served.failure:
        return f"wrong: the engine ended with {served.failure}"
    if served.refusal:
        meant = family.cpu_refusal and re.search(family.cpu_refusal, served.refusal)
        return "works" if meant else f"wrong: the engine refused: {served.refusal}"
    if error is None or not error <= SERVED:
        return f"wrong: vLLM differs from PEFT by {error}"
    return "works" if family.as_served else "exact"


def try_refusal(refusal: Refusal, root: Path) -> Outcome:
    """Make the model that should be refused and ask for a memory on it."""
    model = save_small(root / "model", refusal.model_type, refusal.fields)
    spoil(model, refusal.spoil)
    started = time.perf_counter()
    try:
        train(root / "bank", [exactness.MEMORY], str(model), settings=exactness.SETTINGS)
        said = "it was trained"
    except MegaError as error:
        said = str(error)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    good = re.search(refusal.words, said) and "\n" not in said and not _memories(root / "bank")
    status = "refused" if good else f"wrong: {said}"
    return Outcome(refusal.name, "refused", status, time.perf_counter() - started)


def _memories(bank: Path) -> int:
    try:
        with Library(bank) as library:
            return len(library.rows)
    except BankError:  # there is no bank
        return 0
