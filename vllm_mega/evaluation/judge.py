"""A judge of the user's own, a language model say, whose rate stands beside the deterministic ones."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence

from vllm_mega.errors import ConfigError, MegaError

Judge = Callable[[str, Sequence[str], str], bool]
"""Called with (question, the gold answer and its aliases, reply): whether the reply is right."""


def load_judge(spec: str) -> Judge:
    """The function that `spec`, "module:function", names.

    Raises:
        ConfigError: it names nothing that can be imported, or called with three arguments.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ConfigError(f"--judge must be MODULE:FUNCTION, got {spec!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # anything: it is not our code
        raise ConfigError(
            f"--judge: {module_name!r} cannot be imported: {error}. Is its folder in PYTHONPATH?"
        ) from error
    named = getattr(module, name, None)
    if named is None:
        raise ConfigError(f"--judge: {module_name!r} has no {name!r}")
    if not callable(named):
        raise ConfigError(f"--judge: {spec} is no function but a {type(named).__name__}")
    judge: Judge = named
    _check_arguments(spec, judge)
    return judge


def _check_arguments(spec: str, judge: Judge) -> None:
    try:
        signature = inspect.signature(judge)
    except ValueError:  # some that are written in C do not tell
        return
    try:
        signature.bind("", (), "")
    except TypeError as error:
        raise ConfigError(
            f"--judge: {spec}{signature} must take the question, the gold answers and the reply: {error}"
        ) from error


def judged(judge: Judge, question: str, golds: Sequence[str], reply: str) -> bool:
    """What the judge says.

    Raises:
        MegaError: it raises, or says neither True nor False.
    """
    try:
        verdict = judge(question, golds, reply)
    except Exception as error:  # anything: it is not our code
        raise MegaError(f"the judge failed on the question {question!r}: {error!r}") from error
    if not isinstance(verdict, bool):
        raise MegaError(
            f"the judge must say True or False, and said {verdict!r} to the question {question!r}"
        )
    return verdict
