"""The contract names all that our sources use of vLLM and transformers, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.contract import sources as ours
from tests.contract.sources import Source, sources, stocks
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import Use, pins
from vllm_mega.engine.upstream import patches, runner_patches
from vllm_mega.engine.upstream.patch import Patch
from vllm_mega.engine.upstream.whole import CONTRACT, PATCHED

USES = tuple(use for uses in CONTRACT.values() for use in uses)
FACING = re.compile(r"(engine|hook|http|batch|requests)\.|offline(_chat)?$|plugin$")
"""Modules whose objects are mostly vLLM's: there every name that is not known is one of vLLM's."""
SETTERS = {
    "engine.upstream.patch": "patches, each in the contract",
    "http.handlers": "the field `mega` of a response",
    "training.compute.last": "a module of a model, by its place",
    "training.compute.lora": "a module of a model, by its place",
}
"""Where attributes are set by a name that is computed."""
KNOWN: tuple[object, ...] = (
    str, bytes, int, float, list, dict, set, frozenset, tuple, type, BaseException, Path, re.Match, re.Pattern
)  # fmt: skip
OTHERS = frozenset({
    "aclose", "_actions", "add_api_route", "add_done_callback", "add_metric", "add_middleware",
    "add_subparsers", "__aenter__", "any", "app", "BAD_REQUEST", "bind", "call_soon_threadsafe", "callback",
    "cancel", "connect", "copy_", "create_future", "cumsum", "current_stream", "data_ptr", "default",
    "exception", "_exit", "extract", "fileno", "flatten", "flush", "FORBIDDEN", "__func__",
    "get_current_span", "get_span_context", "get_tracer", "handle_request", "headers", "hexdigest", "host",
    "inc", "include_router", "inject", "INTERNAL_SERVER_ERROR", "is_alive", "is_closed", "is_pinned",
    "is_set", "is_valid", "itemsize", "kill", "_mapping", "max", "mega_audit", "mega_expiring",
    "mega_forgetting", "mega_guarded", "mega_keys", "mega_memories", "mega_ready", "mega_used",
    "mega_watch", "model_copy", "model_dump", "model_dump_json", "model_extra", "model_fields_set",
    "model_validate", "multi_items", "named_modules", "NOT_FOUND", "NOT_IMPLEMENTED", "NOT_MODIFIED",
    "numel", "numpy", "observe", "OK", "parse_args", "path_params", "pid", "poll", "pop_all", "popleft",
    "prctl", "PRECONDITION_FAILED", "query_params", "ravel", "record_event", "recv", "repeat", "_replace",
    "REQUEST_ENTITY_TOO_LARGE", "result", "run_forever", "run_in_executor", "scope", "seek", "send_signal",
    "SERVICE_UNAVAILABLE", "set_attribute", "set_attributes", "set_exception", "set_result", "setsockopt",
    "socket", "st_dev", "st_ino", "st_mode", "st_mtime_ns", "st_size", "st_uid", "start_span", "stdout",
    "Stream", "stream", "strerror", "__struct_fields__", "subscribe", "synchronize", "t", "terminate",
    "tolist", "TOO_MANY_REQUESTS", "track_inprogress", "truncate", "type", "UNAUTHORIZED",
    "UNPROCESSABLE_ENTITY", "use_span", "view", "wait_event", "wait_stream", "warning", "zero_",
})  # fmt: skip
"""Names of other packages: sockets, ASGI, pydantic, futures, spans, tensors, files, os."""
DUNDERS = {"__init__", "__len__"}
"""Used without their names."""
NAMED_TUPLE = {"_replace", "_asdict", "_fields"}


def of_owner(owner: str) -> list[Use]:
    return [use for use in USES if use.owner == owner]


def names(uses: Iterable[Use], *kinds: str) -> set[str]:
    return {pin.name for use in uses for pin in pins(use) if not kinds or pin.kind in kinds}


def used_by(module: str) -> set[str]:
    """Names that the contract has for a module of ours, those of classes among them."""
    uses = [use for use in USES if module in use.by.split()]
    said = {word for use in uses for text in use.says for word in re.findall(r"\w+", text)}
    return names(uses) | said | {use.owner.partition(":")[2] for use in uses}


# --- what is imported, overridden and patched -------------------------------------------------------------


@pytest.mark.parametrize("source", [s for s in sources() if s.imports], ids=lambda s: s.name)
def test_everything_that_is_imported_is_in_the_contract(source: Source) -> None:
    missing = [full for full in source.imports.values() if not list(imported(full, source.name))]
    assert missing == [], f"{source.name} imports {missing}: name it in a Use, with by={source.name!r}"


def imported(full: str, by: str) -> Iterator[Use]:
    """What the contract says of `module:name`; of a package's top level, wherever it is written."""
    module, _, name = full.partition(":")
    for use in USES:
        owner, _, class_name = use.owner.partition(":")
        here = owner == module or (module in ours.PACKAGES and owner.split(".")[0] == module)
        named = here and (class_name == name or name in names([use]))
        if by in use.by.split() and (named or use.owner == f"{module}.{name}"):
            yield use


@pytest.mark.parametrize("name", sorted(name for name, owners in stocks().items() if owners))
def test_a_class_on_one_of_theirs_overrides_and_adds_what_the_contract_says(name: str, tree: Tree) -> None:
    (ours_,) = [one for source in sources() for one in source.classes if one.name == name]
    wrong = []
    for owner in stocks()[name]:
        stock = tree.find(owner)
        assert stock is not None, owner
        uses = of_owner(owner)
        for member in ours_.members - {"__slots__", "__init__"}:
            kinds = ("overridden", "called", "read") if stock.has(member) else ("added",)
            if member not in names(uses, *kinds):
                wrong.append(f"{owner}.{member}: {' or '.join(kinds)}")
    assert wrong == [], f"{name} has them: name them in a Use"


@pytest.mark.parametrize("name", sorted(name for name, owners in stocks().items() if owners))
def test_what_a_class_asks_of_theirs_is_in_the_contract(name: str, tree: Tree) -> None:
    (ours_,) = [one for source in sources() for one in source.classes if one.name == name]
    own = ours_.asked - {"__init__"} - (ours.inherited(name) - names(USES, "overridden", "read", "called"))
    wrong = []
    for owner in stocks()[name]:
        stock = tree.find(owner)
        assert stock is not None
        missing = {one for one in own if stock.has(one)} - names(of_owner(owner))
        wrong += [f"{owner}.{one}" for one in sorted(missing)]
    assert wrong == [], f"{name} asks for them: name them in a Use"


def test_every_patch_is_in_the_contract() -> None:
    found = []
    for module in (patches, runner_patches):
        for value in vars(module).values():
            found += [
                one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, Patch)
            ]
    assert len(found) == len(PATCHED) > 10
    targets = {f"{one.module}.{one.target}" for one in found}
    assert targets == {pin.full_name.replace(":", ".") for use in PATCHED for pin in pins(use)}
    assert modules_that(lambda node: isinstance(node, ast.Call) and ast.unparse(node.func) == "Patch") == {
        "engine.upstream.patches",
        "engine.upstream.runner_patches",
    }


def test_attributes_are_set_by_a_computed_name_only_where_it_is_known_why() -> None:
    def sets(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "monkeypatch")

    assert modules_that(sets) == set(SETTERS)


def test_classes_are_swapped_only_where_the_contract_says() -> None:
    def swaps(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Attribute) and node.attr == "__class__" and isinstance(node.ctx, ast.Store)
        )

    (module,) = modules_that(swaps)
    (source,) = [one for one in sources() if one.name == module]
    swapped = {use.owner for use in USES if use.swapped}
    handed = {n.id for n in ast.walk(source.tree) if isinstance(n, ast.Name)} & source.imports.keys()
    assert {source.imports[name] for name in handed} == swapped
    assert all(module in use.by.split() for use in USES if use.swapped)


def modules_that(does) -> set[str]:
    return {source.name for source in sources() if any(does(node) for node in ast.walk(source.tree))}


# --- what is used of objects whose class no import tells --------------------------------------------------


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.name)
def test_private_names_of_others_are_in_the_contract(source: Source) -> None:
    used = {one.attr for one in ours.attributes(source.tree) if is_private(one.attr) and not ours.is_own(one)}
    unknown = used - ours.our_names() - NAMED_TUPLE - OTHERS - used_by(source.name)
    assert not unknown, f"{source.name} uses {sorted(unknown)}: name them in a Use with by={source.name!r}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("source", [s for s in sources() if FACING.match(s.name)], ids=lambda s: s.name)
def test_names_that_are_nobodys_else_are_in_the_contract(source: Source) -> None:
    unknown = set(foreign(source)) - used_by(source.name)
    assert not unknown, (
        f"{source.name} uses {sorted(unknown)}: if they are vLLM's, name them in a Use with "
        f"by={source.name!r}; if not, among the OTHERS of this test"
    )


def test_others_are_names_that_we_use() -> None:
    facing = [source for source in sources() if FACING.match(source.name)]
    private = {
        one.attr for source in sources() for one in ours.attributes(source.tree) if is_private(one.attr)
    }
    assert private.union(*(foreign(source, frozenset()) for source in facing)) >= OTHERS


def foreign(source: Source, others: frozenset[str] = OTHERS) -> Iterator[str]:
    """Names that are neither ours, nor of a module, nor of a usual type."""
    modules = {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    known = others.union(ours.our_names(), *map(dir, KNOWN))
    for one in ours.attributes(source.tree):
        root = one.value
        while isinstance(root, ast.Attribute):
            root = root.value
        of_module = isinstance(root, ast.Name) and root.id in modules
        if not of_module and one.attr not in known:
            yield one.attr


# --- nothing else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", USES, ids=lambda use: use.owner)
def test_nothing_is_in_the_contract_that_nobody_uses(use: Use) -> None:
    if use in PATCHED:
        return
    texts = all_words()
    unknown = [module for module in use.by.split() if module not in texts]
    assert unknown == [], f"{use.owner}: there are no such modules of ours"
    together = set().union(*(texts[module] for module in use.by.split()))
    kinds = ("patched", "overridden", "called", "read")
    assert names([use], *kinds) - together - DUNDERS == set(), f"{use.owner}: nobody uses them"


@cache
def all_words() -> dict[str, set[str]]:
    return {source.name: words(source) for source in sources()}


def words(source: Source) -> set[str]:
    """Names and words of texts in a module."""
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.alias):
            found.add(node.name)
        elif isinstance(node, ast.keyword):
            found.add(node.arg or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"\w+", node.value))
    return found
