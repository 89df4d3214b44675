"""The recipe: every number and word of training is in it, or is told here why it changes no adapter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vllm_mega import prompts, text
from vllm_mega.config import settings_from
from vllm_mega.errors import ConfigError
from vllm_mega.training.recipe.recipe import EndRules, LossRules, Recipe
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import resolved

SHARED = "one of all that are read into the recipe: prompts.TRAINED or text.PATTERNS"
FORECAST = "an estimate of cost or memory: nothing is trained by it"
CHECKS = "refuses models and memories, or kernels; what passes is trained alike"
ROUNDING = "how many are computed at once: rounding alone"
NAMED = "a name or a path, no number of training"
HARMLESS = {
    "prompts": {
        "MEMORY_PROMPT": SHARED,
        "QUESTION_SUFFIX": SHARED,
        "TRAINED": SHARED,
        "_ABOUT": SHARED,
        "_INFORMED": SHARED,
        "_QUESTION": SHARED,
        "RECALL_SUFFIX": "evaluation alone asks so",
        "_NO_THOUGHT": "reads answers",
        "_THOUGHT": "reads answers",
    },
    "text": {
        "PATTERNS": SHARED,
        "_BELOW_HEADER": SHARED,
        "_CLOSE": SHARED,
        "_HEADING": SHARED,
        "_PLAIN": SHARED,
        "_PLAIN_CLOSING": SHARED,
        "_ROW": SHARED,
        "_RULE": SHARED,
        "_SENTENCE_END": SHARED,
        "_SPACE": SHARED,
        "_UNDERLINE": SHARED,
        "_WIDE": SHARED,
        "_WIDE_CLOSING": SHARED,
    },
    "training.compute.agreement": {"_CLEAR": CHECKS, "_COMPARED": CHECKS, "_FLOOR": CHECKS, "_TIMES": CHECKS},
    "training.compute.alignment": {"_TINY": "the smallest float32: keeps a division by zero away"},
    "training.compute.attention": {"NAME": NAMED, "_ROW": "the row that runs"},
    "training.recipe.english": dict.fromkeys(("_MONTH", "_NAME"), "a part of patterns of `English`"),
    "training.run.estimate": dict.fromkeys(
        ("CANDIDATES", "LOGITS", "REST", "ROWS", "RUNTIME", "STEPS", "THIN", "TURNS"), FORECAST
    ),
    "training.compute.frozen": {"_TEXT": CHECKS},
    "training.compute.fused_check": {"CANCELLED": CHECKS, "ROUNDINGS": CHECKS, "TOKENS": CHECKS},
    "training.compute.fused_kernels": {"SOURCE": NAMED, "_LOG": NAMED, "_NAMES": NAMED},
    "training.compute.lora": {
        "PEFT_PREFIX": NAMED,
        "_TINY": "the smallest float32: keeps a division by zero away",
    },
    "training.run.leases": {
        "LEASE_S": "how long a trainer that is gone has its jobs",
        "PROGRESS_S": "how often a job tells its steps",
        "_LOG": NAMED,
    },
    "training.compute.loss": {"COLUMNS": ROUNDING, "ROWS": ROUNDING},
    "training.compute.model": {"LENGTH": CHECKS, "LONGEST": CHECKS, "_BEYOND": CHECKS},
    "training.run.outlook": dict.fromkeys(
        ("CPU_OTHERS", "GPU_LAYER", "GPU_SHARE", "PROBE", "SAMPLE", "_CUBES", "_NONE"), FORECAST
    ),
    "training.run.plan": {"_LOG": NAMED},
    "training.run.preflight": {"_BEGINNING": CHECKS, "_SLACK": CHECKS},
    "training.run.scale_out": {"LOSSES": "how often a worker is started again", "_LOG": NAMED},
    "training.recipe.segments": {"_WASTE": ROUNDING},
    "training.run.stopping": {"_SIGNALS": NAMED, "_SLICE": "how soon a wish to stop is noticed"},
    "training.run.watch": {"PATIENCE_S": "how often a bank out of reach is tried", "_FOR_GOOD": NAMED},
    "training.run.session": {"_AT_A_TIME": "how many are stored at once"},
    "training.recipe.targets": {"_LAYER": "reads names; which layers there are is resolved into the recipe"},
    "training.run.trainer": {"_LOG": NAMED},
    "training.run.work": {"POLL_S": "how often others are looked after"},
    "training.compute.truth": {"LOGITS": ROUNDING},
}
"""By module, every constant that stands outside of the recipe, and why it may."""


def constants(source: str) -> Iterator[str]:
    """The upper-case names that a module is given outside of functions and classes."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [name for target in targets if target for name in ast.walk(target)]
        yield from (name.id for name in names if isinstance(name, ast.Name) and name.id.isupper())


def test_every_constant_is_in_the_recipe_or_changes_no_adapter(repo: Path) -> None:
    package = repo / "vllm_mega"
    files = [package / "prompts.py", package / "text.py", *sorted((package / "training").rglob("*.py"))]
    found = {}
    for file in files:
        if names := sorted(set(constants(file.read_text(encoding="utf-8")))):
            found[".".join(file.relative_to(package).with_suffix("").parts)] = names
    assert found == {module: sorted(names) for module, names in HARMLESS.items()}, (
        "a constant that decides an adapter is a field of `Recipe`; one that does not is told here, with why"
    )


def test_shared_constants_are_a_part_of_what_the_recipe_has() -> None:
    for module, has in ((prompts, prompts.TRAINED), (text, text.PATTERNS)):
        names = HARMLESS[module.__name__.rpartition(".")[2]]
        values = {name: getattr(module, name) for name, why in names.items() if why == SHARED}
        for name, value in values.items():
            written = value.pattern if isinstance(value, re.Pattern) else value
            assert written == has or any(written in one for one in has), name


def test_constants_are_found_wherever_they_are_assigned() -> None:
    source = "A = 1\nB: int = 2\nC, _D = 3, 4\nif A:\n    pass\nx = 5\nclass E:\n    F = 1\n"
    assert list(constants(source)) == ["A", "B", "C", "_D"]


def changed(struct: msgspec.Struct, name: str) -> object:
    """Another value for a field, of the same type."""
    value = getattr(struct, name)
    if isinstance(value, msgspec.Struct):
        inner = value.__struct_fields__[0]
        return msgspec.structs.replace(value, **{inner: changed(value, inner)})
    if isinstance(value, tuple):
        return (*value, value[0])
    return {int: lambda: value + 1, float: lambda: value / 2, str: lambda: value + "?"}[type(value)]()


def groups() -> list[tuple[str, str]]:
    """(group, field) of all groups of the recipe."""
    fields = msgspec.structs.asdict(Recipe()).items()
    found = {name: value for name, value in fields if isinstance(value, msgspec.Struct)}
    return [(group, name) for group, rules in found.items() for name in rules.__struct_fields__]


@pytest.mark.parametrize(("group", "name"), groups())
def test_every_constant_changes_the_digest(group: str, name: str) -> None:
    recipe = Recipe()
    rules = getattr(recipe, group)
    other = msgspec.structs.replace(rules, **{name: changed(rules, name)})
    assert msgspec.structs.replace(recipe, **{group: other}).digest != recipe.digest


def test_settings_that_decide_change_the_digest_and_others_do_not() -> None:
    recipe = Recipe()
    assert recipe.digest == Recipe().digest
    for change in ({"jobs": 1}, {"seconds": 3.0}):
        assert msgspec.structs.replace(recipe, **change).digest == recipe.digest
    changes = (
        {"rank": 3}, {"seed": 1}, {"max_steps": 7}, {"dtype": "float32"}, {"layers": 3}, {"batch": 4},
        {"alpha": 2.0}, {"learning_rate": 0.1}, {"modules": ("up_proj",)}, {"chat_template": "Say."},
        {"algorithm": 6}, {"recalls": 4},
    )  # fmt: skip
    digests = {msgspec.structs.replace(recipe, **change).digest for change in changes}
    assert len(digests - {recipe.digest}) == len(changes)
    tried = {name for change in changes for name in change}
    assert {*TrainSettings.__struct_fields__} - {"jobs", "seconds"} <= tried


def test_a_recipe_of_settings_has_them_and_a_recipe_is_its_own() -> None:
    given = TrainSettings(rank=2, seed=7)
    recipe = Recipe.of(given)
    assert (recipe.rank, recipe.seed, recipe.ends) == (2, 7, EndRules())
    other = msgspec.structs.replace(recipe, loss=LossRules(near=1.0))
    assert Recipe.of(other) is other
    config = {"model_type": "llama", "num_hidden_layers": 3}
    assert resolved(other, config).loss == LossRules(near=1.0)
    assert resolved(other, config).digest != other.digest


def test_users_choose_settings_and_no_constants() -> None:
    with pytest.raises(ConfigError, match="unknown field `algorithm`"):
        settings_from({"algorithm": 6}, TrainSettings)
    with pytest.raises(ConfigError, match="rank must be 1"):
        Recipe(rank=0)


@pytest.mark.parametrize("name", ["prompts", "sentences"])
def test_what_serving_shares_cannot_be_another(name: str) -> None:
    assert {"prompts": prompts.TRAINED, "sentences": text.PATTERNS}[name] == getattr(Recipe(), name)
    with pytest.raises(ConfigError, match=f"{name} of a recipe must be those of this version"):
        Recipe(**{name: ("Tell me.",)})
