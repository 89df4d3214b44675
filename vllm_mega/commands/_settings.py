"""Options that are settings: named, typed and described as the setting is, so that nothing stands twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints

import msgspec

from vllm_mega.config import described

_NUMBERS: tuple[type, ...] = (int, float)


class TakesOptions(Protocol):
    """A parser of arguments, or a group of one."""

    def add_argument(self, *names: str, **more: Any) -> Any:
        """Add an option, as `argparse.ArgumentParser` does."""


def add_setting(
    parser: TakesOptions,
    kind: type[msgspec.Struct],
    name: str,
    default: object = None,
    *,
    told: str | None = None,
    **more: Any,
) -> None:
    """The option of one setting.

    Args:
        parser: gets it.
        kind: of which the setting is one.
        name: of the setting; the option has dashes where it has underscores.
        default: of the option; None: it is left out, and then the setting's own holds.
        told: the default in words; None: the setting's own.
        more: for `add_argument`.
    """
    shown = told if told is not None else _shown(own_default(kind, name))
    parser.add_argument(
        "--" + name.replace("_", "-"),
        default=default,
        help=f"{described(kind)[name]} (default: {shown})".replace("%", "%%"),
        **{**_typed(get_type_hints(kind)[name]), **more},
    )


def own_default(kind: type[msgspec.Struct], name: str) -> object:
    """What the setting is when nobody says anything."""
    field = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    return field.default


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _typed(hint: Any) -> dict[str, Any]:
    """How the option of such a setting is read."""
    options = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    kind: Callable[[str], object] | Any = options[0] if type(None) in get_args(hint) else hint
    return {"type": kind} if kind in _NUMBERS else {}
