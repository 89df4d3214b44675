"""The request field "mega": what a client may say about memory, and what comes of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from vllm_mega.config import MODES, GateSettings, MegaSettings, Mode, check_name, check_tags, repeated
from vllm_mega.errors import ConfigError, MixtureError, RequestError
from vllm_mega.mixture import MAX_WEIGHT

FIELD = "mega"
"""Name of the field, in requests and in responses."""


class MemoryWeight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One memory of a mixture that the client gives itself."""

    id: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_name(self.id, "id")
        if not math.isfinite(self.weight) or abs(self.weight) > MAX_WEIGHT:
            raise ValueError(
                f"weight must be a finite number in [-{MAX_WEIGHT:g}, {MAX_WEIGHT:g}], got {self.weight!r}"
            )


Position = Annotated[int, msgspec.Meta(ge=0)]


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From where in its prompt a mixture acts, as the client says it: by token or by character."""

    token: Position | None = None
    character: Position | None = None

    def __post_init__(self) -> None:
        if (self.token is None) == (self.character is None):
            raise ValueError("start is a number of tokens, or an object with either token or character")


class Tools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That the model may call the tools of memory, and the server executes them."""

    rounds: Annotated[int, msgspec.Meta(ge=1, le=16)] = 4
    """Turns in which it may call something, at most."""
    choice: str | None = None
    """What it must call in the first: the name of a tool, or "required" (any); None: it decides."""


class MegaRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The field as it is sent; None means: as the server is configured."""

    enabled: bool = True
    mode: Mode | None = None
    top_k: int | None = None
    threshold: float | None = None
    beta: float | None = None
    link_share: float | None = None
    namespace: str | None = None
    tags: tuple[str, ...] | None = None
    memories: tuple[MemoryWeight, ...] | None = None
    start: Position | Start | None = None
    explain: bool = False
    tools: bool | Tools = False

    def __post_init__(self) -> None:
        if self.namespace is not None:
            check_name(self.namespace, "namespace")
        if self.memories is None:
            return
        if narrowing := [*self.gate, *(["tags"] if self.tags else [])]:
            given = ", ".join(narrowing)
            raise ValueError(f"memories gives the mixture itself: {given} do not go with it")
        if twice := repeated(memory.id for memory in self.memories):
            raise ValueError(f"memories names {', '.join(twice)} more than once")

    @property
    def gate(self) -> dict[str, float]:
        """What it asks of the gate, by the names of `GateSettings`."""
        asked = {name: getattr(self, name) for name in GateSettings.__struct_fields__}
        return {name: value for name, value in asked.items() if value is not None}

    @property
    def executed(self) -> Tools | None:
        """The tools in their one form; None: none is executed."""
        return self.tools if isinstance(self.tools, Tools) else Tools() if self.tools else None

    @property
    def position(self) -> Start | None:
        """The start in its one form; None: where the endpoint has it."""
        return Start(token=self.start) if isinstance(self.start, int) else self.start


@dataclass(frozen=True)
class Plan:
    """What to do for one request: the field and the server's settings, together."""

    mode: Mode
    """`off` also when the client says `enabled: false`."""
    namespace: str
    gate: GateSettings
    tags: tuple[str, ...] = ()
    """A memory must have all of them to take part."""
    memories: tuple[MemoryWeight, ...] | None = None
    """The client's own mixture; None: the gate decides."""
    start: Start | None = None
    """The client's own; None: where the endpoint has it."""
    explain: bool = False
    """Whether the answer shall say why the gate has decided so."""
    tools: Tools | None = None
    """That the server executes; None: none."""

    @property
    def asks_gate(self) -> bool:
        """Whether the text of the request decides about the mixture."""
        return self.mode != "off" and self.memories is None


def parse_mega(value: object) -> MegaRequest:
    """The field as a struct; None (absent) is the empty object.

    Raises:
        RequestError: an unknown field, a wrong type or a bad value; `param` names it.
    """
    try:
        request = msgspec.convert({} if value is None else value, MegaRequest)
        check_tags(request.tags or ())
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        param = FIELD + path.removesuffix("`")
        raise RequestError(f"{param}: {reason}", param) from error
    except ConfigError as error:
        raise RequestError(f"{FIELD}.{error}", f"{FIELD}.tags") from error
    return request


def too_wide(width: int, slots: int) -> MixtureError:
    """Why a mixture of so many memories cannot be served."""
    return MixtureError(
        f"the mixture has {width} memories, but the engine has {slots} slots: "
        f"ask for fewer ({FIELD}.top_k or {FIELD}.memories), or start the server with a larger --max-loras",
        f"{FIELD}.memories",
    )


def make_plan(
    value: object, settings: MegaSettings, slots: int | None = None, *, modes: Sequence[Mode] = MODES
) -> Plan:
    """What the field `value` means on a server with these settings.

    Args:
        value: as the client sent it.
        settings: the server's; a default mode that is not among `modes` becomes the first of them.
        slots: how many memories a mixture may have. More are refused before one is looked at, for a client
            may send any number, and this runs where all requests wait for it. None: not known yet.
        modes: that the endpoint has.

    Raises:
        RequestError: see `parse_mega`; also a number that the gate refuses, more memories than slots, or a
            mode that the client wants and the endpoint does not have.
    """
    memories = value.get("memories") if isinstance(value, dict) else None
    if slots is not None and isinstance(memories, list | tuple) and len(memories) > slots:
        raise too_wide(len(memories), slots)
    request = parse_mega(value)
    try:
        gate = msgspec.structs.replace(settings.gate, **request.gate)
    except ConfigError as error:
        name = str(error).partition(" ")[0]
        raise RequestError(f"{FIELD}.{error}", f"{FIELD}.{name}") from error
    if request.mode is not None and request.mode not in modes:
        raise RequestError(
            f"this endpoint has the modes {', '.join(modes)}, not {request.mode}: "
            f"set {FIELD}.mode, or ask at /v1/chat/completions",
            f"{FIELD}.mode",
        )
    default = settings.mode if settings.mode in modes else modes[0]
    return Plan(
        mode=(request.mode or default) if request.enabled else "off",
        namespace=request.namespace or settings.namespace,
        gate=gate,
        tags=request.tags or (),
        memories=request.memories,
        start=request.position,
        explain=request.explain,
        tools=request.executed,
    )


def refuse_tools(plan: Plan) -> None:
    """Refuse tools where none can be executed.

    Raises:
        RequestError: there are some.
    """
    if plan.tools is not None:
        name = f"{FIELD}.tools"
        raise RequestError(f"{name}: only /v1/chat/completions of a server has them: leave it out", name)
