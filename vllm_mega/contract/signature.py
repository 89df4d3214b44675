"""Parameters of a function, from its object or from its source, and whether a call fits them. Pure."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

_BOUND = ("self", "cls")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Parameter(NamedTuple):
    """One parameter."""

    name: str
    required: bool = True
    by_keyword_alone: bool = False
    stars: str = ""
    """`*` of `*args`, `**` of `**kwargs`."""


class Signature(NamedTuple):
    """Parameters, and whether the function is `async`."""

    parameters: tuple[Parameter, ...]
    is_async: bool = False

    @property
    def names(self) -> str:
        """The names of the parameters."""
        return " ".join(parameter.name for parameter in self.parameters)

    @property
    def words(self) -> str:
        """The parameters as `Use` writes them."""
        return " ".join(self._words())

    def _words(self) -> Iterator[str]:
        if self.is_async:
            yield "async"
        alone = False
        for one in self.parameters:
            if one.by_keyword_alone and not alone:
                yield "*"
            alone = alone or one.by_keyword_alone or one.stars == "*"
            yield one.stars + one.name + ("" if one.required or one.stars else "=")

    def takes(self, words: str) -> bool:
        """Whether it can be called with `words`: names by position, in this order, and `name=` by keyword."""
        given = words.split()
        if ("async" in given) != self.is_async:
            return False
        positions = [word for word in given if word != "async" and not word.endswith("=")]
        keywords = {word.removesuffix("=") for word in given if word.endswith("=")}
        return self._positions(positions) and self._keywords(keywords) and not self._missing(given)

    def bound(self) -> Signature:
        """Without `self` or `cls`."""
        return self._replace(parameters=self._own())

    def _own(self) -> tuple[Parameter, ...]:
        first = self.parameters[:1]
        return self.parameters[1:] if first and first[0].name in _BOUND else self.parameters

    def _positions(self, given: list[str]) -> bool:
        usual = [one.name for one in self._own() if not one.by_keyword_alone and not one.stars]
        more = any(one.stars == "*" for one in self.parameters)
        return given[: len(usual)] == usual[: len(given)] and (more or len(given) <= len(usual))

    def _keywords(self, given: set[str]) -> bool:
        known = {one.name for one in self._own() if not one.stars}
        return given <= known or any(one.stars == "**" for one in self.parameters)

    def _missing(self, given: list[str]) -> bool:
        names = {word.removesuffix("=") for word in given}
        return any(one.required and not one.stars and one.name not in names for one in self._own())


def of_object(function: Any) -> Signature:
    """The signature of a function that is there; what a decorator or a patch stands before is looked through.

    Raises:
        TypeError, ValueError: it is no function, or one without a signature.
    """
    parameters = inspect.signature(function).parameters.values()
    inner = inspect.unwrap(function)
    waits = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
    return Signature(tuple(map(_parameter, parameters)), waits)


def _parameter(one: inspect.Parameter) -> Parameter:
    if one.kind is one.VAR_POSITIONAL:
        return Parameter(one.name, stars="*")
    if one.kind is one.VAR_KEYWORD:
        return Parameter(one.name, stars="**")
    return Parameter(one.name, one.default is one.empty, one.kind is one.KEYWORD_ONLY)


def of_source(function: Function) -> Signature:
    """The signature of a function that is written."""
    arguments = function.args
    usual = [*arguments.posonlyargs, *arguments.args]
    first_default = len(usual) - len(arguments.defaults)
    found = [Parameter(one.arg, n < first_default) for n, one in enumerate(usual)]
    if arguments.vararg:
        found.append(Parameter(arguments.vararg.arg, stars="*"))
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(Parameter(one.arg, default is None, by_keyword_alone=True))
    if arguments.kwarg:
        found.append(Parameter(arguments.kwarg.arg, stars="**"))
    return Signature(tuple(found), isinstance(function, ast.AsyncFunctionDef))
