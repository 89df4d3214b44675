"""What our sources use of other packages, found by reading them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import vllm_mega

PACKAGES = ("vllm", "transformers")
ROOT = Path(vllm_mega.__file__).parent
DATA = ("contract.of_", "engine.upstream.of_")
"""Modules that name the names: what is in them is no use."""


@dataclass
class OurClass:
    """A class of ours, by what it is made of."""

    name: str
    module: str
    bases: list[str]
    members: set[str]
    asked: set[str] = field(default_factory=set)
    """Names that it reads or calls on itself or on `super()`."""


@dataclass
class Source:
    """A module of ours."""

    name: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)
    """Name here -> `module:name`, of what comes from `PACKAGES`."""
    classes: list[OurClass] = field(default_factory=list)


@cache
def sources(root: Path = ROOT) -> tuple[Source, ...]:
    """All modules in `root`, but those that hold the contract itself."""
    found = [read(path.read_text(), name_of(path, root)) for path in sorted(root.rglob("*.py"))]
    return tuple(source for source in found if not source.name.startswith(DATA))


def name_of(path: Path, root: Path) -> str:
    """`engine.worker` for vllm_mega/engine/worker.py."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def read(text: str, name: str) -> Source:
    """One module."""
    source = Source(name, ast.parse(text))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for a in node.names:
                full = source.imports.setdefault(a.asname or a.name, f"{node.module}:{a.name}")
                assert full == f"{node.module}:{a.name}", f"{name}: {full} and another have one name"
        elif isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).split("[")[0] for base in node.bases]
            source.classes.append(OurClass(node.name, name, bases, members(node), set(asked(node))))
    return source


def members(node: ast.ClassDef) -> set[str]:
    """Names that a class defines, or sets on itself."""
    found = set()
    for part in node.body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(part.name)
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            found.add(part.target.id)
        elif isinstance(part, ast.Assign):
            found |= {target.id for target in part.targets if isinstance(target, ast.Name)}
    return found | {one.attr for one in attributes(node) if is_own(one) and isinstance(one.ctx, ast.Store)}


def attributes(node: ast.AST) -> Iterator[ast.Attribute]:
    """Every `x.name` in `node`."""
    return (one for one in ast.walk(node) if isinstance(one, ast.Attribute))


def is_own(one: ast.Attribute) -> bool:
    """Whether it is `self.name` or `cls.name`."""
    return isinstance(one.value, ast.Name) and one.value.id in ("self", "cls")


def asked(node: ast.ClassDef) -> Iterator[str]:
    """Names that a class reads or calls on itself or on `super()`."""
    for one in attributes(node):
        of_super = isinstance(one.value, ast.Call) and ast.unparse(one.value.func) == "super"
        if of_super or (is_own(one) and isinstance(one.ctx, ast.Load)):
            yield one.attr


@cache
def stocks() -> dict[str, frozenset[str]]:
    """By class of ours: the classes of `PACKAGES` that its objects are of, also where it is mixed in."""
    classes = {one.name: one for source in sources() for one in source.classes}
    imports = {source.name: source.imports for source in sources()}

    def above(one: OurClass) -> set[str]:
        found = {imports[one.module][base] for base in one.bases if base in imports[one.module]}
        return found.union(*(above(classes[base]) for base in one.bases if base in classes))

    found = {name: above(one) for name, one in classes.items()}
    for name, one in classes.items():
        for base in one.bases:
            if base in found:
                found[base] |= found[name]
    return {name: frozenset(owners) for name, owners in found.items()}


@cache
def inherited(name: str) -> frozenset[str]:
    """Members of a class of ours and of our classes that it stands on."""
    classes = {one.name: one for source in sources() for one in source.classes}
    one = classes[name]
    return frozenset(one.members).union(*(inherited(base) for base in one.bases if base in classes))


@cache
def our_names() -> frozenset[str]:
    """Names of all functions, classes and constants of ours, and of what classes of ours define."""
    found: set[str] = set()
    for source in sources():
        found |= {
            target.id
            for statement in source.tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                found |= members(node)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
    return frozenset(found)
