"""A package as its source lies in a folder, such as an unpacked wheel: read, never imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from vllm_mega.contract.signature import Function, Signature, of_source

_VERSION = re.compile(r"""^__version__[^"']*=\s*["']([^"']+)""", re.MULTILINE)


class _Elsewhere(NamedTuple):
    """A name that a module has from another."""

    module: str
    name: str


Written = ast.stmt | _Elsewhere


class _Module(NamedTuple):
    name: str
    text: str
    names: dict[str, Written]


class Tree:
    """The packages in the folder `root`.

    Names are followed to where they are written, through the modules that pass them on; what another package
    has written is not followed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._module = cache(self._read)

    def has(self, package: str) -> bool:
        """Whether there is such a package."""
        return (self._root / package / "__init__.py").is_file()

    def version(self, package: str) -> str:
        """What the package calls itself; "unknown" if it does not."""
        for file in ("_version.py", "__init__.py"):
            path = self._root / package / file
            if path.is_file() and (found := _VERSION.search(path.read_text(encoding="utf-8"))):
                return found[1]
        return "unknown"

    def find(self, owner: str) -> WrittenModule | WrittenClass | None:
        """See `View`."""
        module_name, _, class_name = owner.partition(":")
        module = self._module(module_name)
        if module is None or not class_name:
            return module and WrittenModule(self, module)
        where, written = self.resolve(module, class_name) or (module, None)
        return WrittenClass(self, module, where, written) if isinstance(written, ast.ClassDef) else None

    def resolve(self, module: _Module, name: str) -> tuple[_Module, ast.stmt] | None:
        """Where `name` of `module` is written, and as what; None: nowhere in here."""
        found = module.names.get(name)
        if not isinstance(found, _Elsewhere):
            return (module, found) if found is not None else None
        other = self._module(found.module)
        return self.resolve(other, found.name) if other else None

    def _read(self, name: str) -> _Module | None:
        path = self._root.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            return None
        text = file.read_text(encoding="utf-8")
        return _Module(name, text, dict(_names(ast.parse(text).body, name, is_package=path.is_dir())))


def _names(body: list[ast.stmt], module: str, *, is_package: bool) -> Iterator[tuple[str, Written]]:
    """What statements bind, also those under conditions."""
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            source = _source(statement, module, is_package=is_package)
            yield from ((a.asname or a.name, _Elsewhere(source, a.name)) for a in statement.names)
        elif isinstance(statement, ast.ClassDef | Function):
            yield statement.name, statement
        elif isinstance(statement, ast.If | ast.Try | ast.With):
            yield from _names(_inner(statement), module, is_package=is_package)
        else:
            yield from ((name, statement) for name in _assigned(statement))


def _source(statement: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The module that a `from ... import` names."""
    if not statement.level:
        return statement.module or ""
    parents = module.split(".")
    base = parents[: len(parents) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _inner(statement: ast.If | ast.Try | ast.With) -> list[ast.stmt]:
    handlers = [s for handler in getattr(statement, "handlers", ()) for s in handler.body]
    return [*handlers, *getattr(statement, "orelse", ()), *statement.body]


def _assigned(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return
    names = (one for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
    yield from (one.id for one in names if isinstance(one.ctx, ast.Store))


class WrittenModule:
    """See `Owner`."""

    def __init__(self, tree: Tree, module: _Module) -> None:
        self._tree, self._module = tree, module

    def has(self, name: str) -> bool:
        """See `Owner`."""
        return name in self._module.names

    def signature(self, name: str) -> Signature | None:
        """See `Owner`."""
        where, written = self._tree.resolve(self._module, name) or (self._module, None)
        if isinstance(written, ast.ClassDef):
            made = WrittenClass(self._tree, where, where, written).signature("__init__")
            return made and made.bound()
        return of_source(written) if isinstance(written, Function) else None

    def slotted(self) -> bool:
        """See `Owner`."""
        return False

    def says(self, text: str) -> bool:
        """See `Owner`."""
        return text in self._module.text


class WrittenClass:
    """See `Owner`."""

    def __init__(self, tree: Tree, asked: _Module, module: _Module, written: ast.ClassDef) -> None:
        self._tree, self._asked, self._module, self._written = tree, asked, module, written

    def has(self, name: str) -> bool:
        """See `Owner`."""
        return any(name in _members(one) for _, one in self._classes())

    def signature(self, name: str) -> Signature | None:
        """See `Owner`."""
        for _, one in self._classes():
            found = dict(_names(one.body, "", is_package=False)).get(name)
            if found is not None:
                return of_source(found) if isinstance(found, Function) else None
        return None

    def slotted(self) -> bool:
        """See `Owner`."""
        return all("__slots__" in dict(_names(one.body, "", is_package=False)) for _, one in self._classes())

    def says(self, text: str) -> bool:
        """See `Owner`."""
        return text in self._asked.text

    def _classes(self) -> Iterator[tuple[_Module, ast.ClassDef]]:
        """The class and its bases, as far as they are written here, nearest first."""
        waiting = [(self._module, self._written)]
        while waiting:
            module, one = waiting.pop(0)
            yield module, one
            bases = [self._tree.resolve(module, name) for name in map(_base, one.bases)]
            waiting += [(m, c) for m, c in filter(None, bases) if isinstance(c, ast.ClassDef)]


def _base(node: ast.expr) -> str:
    """The name of a base class; of a generic one without what it is made of."""
    return ast.unparse(node.value if isinstance(node, ast.Subscript) else node)


@cache
def _members(written: ast.ClassDef) -> frozenset[str]:
    """What the class defines, and what its methods set on any object; a bare annotation sets nothing."""
    nodes = list(ast.walk(written))
    bare = {one.target for one in nodes if isinstance(one, ast.AnnAssign) and one.value is None}
    set_by_methods = {
        one.attr
        for one in nodes
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and one not in bare
    }
    return frozenset(set_by_methods.union(dict(_names(written.body, "", is_package=False))))
