"""Settings: frozen, and refusing bad values when they are made, not when they are used."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta

from vllm_mega.errors import ConfigError

Mode = Literal["adapter", "recall", "irag", "text", "both", "off"]
MODES: tuple[Mode, ...] = get_args(Mode)
ForgetRunning = Literal["finish", "end"]

SUFFIX = "-mega"
"""NAME is the base model, NAME-mega the same with memory."""
DEFAULT_NAMESPACE = "default"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(NAME_PATTERN)
_PASSWORD = re.compile(r"^[^:]+://[^:/@]*:[^@]*@|[?&]password=")
MAX_TAGS = 32
"""Tags of a memory, and in a request."""
MAX_TAG = 64
"""Characters of a tag."""


def check_name(value: str, what: str) -> str:
    """`value`, if it can name a memory or a namespace (and a folder: no separators, no '..').

    Raises:
        ConfigError: it cannot.
    """
    if not _NAME.fullmatch(value):
        raise ConfigError(
            f"{what} must be 1 to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit, got {value!r}"
        )
    return value


def repeated(names: Iterable[str]) -> list[str]:
    """Those of `names` that come more than once, sorted; in time linear in their number."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def check_tags(tags: Sequence[str]) -> None:
    """Refuse tags that no memory can have: more than 32, one twice, or one that is no name of something.

    Raises:
        ConfigError: as above; the message says which.
    """
    _require(len(tags) <= MAX_TAGS, f"tags must be at most {MAX_TAGS}, got {len(tags)}")
    for tag in tags:
        _require(
            tag.strip() == tag and 1 <= len(tag) <= MAX_TAG,
            f"tags must have 1 to {MAX_TAG} characters each, no white space around them, got {tag!r:.200}",
        )
    twice = repeated(tags)
    _require(not twice, f"tags names {', '.join(twice)} more than once")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


class GateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How scores become a mixture: softmax with `beta` over the best `top_k` above `threshold`.

    The defaults are measured with all-MiniLM-L6-v2. Other embedders have other scores: `vllm-mega gate`
    shows them.
    """

    top_k: Annotated[int, Meta(description="most memories in a mixture")] = 2
    """Below half of the weight a memory is hardly recalled word for word, so more than two rarely help."""
    threshold: Annotated[
        float, Meta(description="least score (cosine) of a memory; below it the base model answers")
    ] = 0.4
    """Questions that name their subject nearly always reach it, ordinary unrelated requests rarely."""
    beta: Annotated[
        float, Meta(description="sharpness of the softmax; smaller (5) for questions that need two memories")
    ] = 25.0
    """A memory that is 0.1 better than the next gets 0.92 of the weight: word for word, still."""
    link_share: Annotated[
        float,
        Meta(
            description="what a memory that a chosen one links to has of its score, at least; "
            "0: links are not followed"
        ),
    ] = 0.8
    """A memory that a chosen one links to counts as if it had at least this share of that one's score; 0:
    links are not followed. With beta 25 a memory of score 0.5 keeps 0.92 of the weight beside it, with beta
    5, for questions that need both, 0.62."""

    def __post_init__(self) -> None:
        _require(1 <= self.top_k <= 64, f"top_k must be 1..64, got {self.top_k}")
        _require(-1.0 <= self.threshold <= 1.0, f"threshold must be in [-1, 1], got {self.threshold}")
        _require(
            math.isfinite(self.beta) and self.beta >= 0.0, f"beta must be finite and >= 0, got {self.beta}"
        )
        _require(0.0 <= self.link_share <= 1.0, f"link_share must be in [0, 1], got {self.link_share}")


class MegaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server or an offline engine needs to know; travels as vLLM's `additional_config["mega"]`."""

    bank: Annotated[str, Meta(description="the bank's folder")]
    catalog: Annotated[
        str | None,
        Meta(
            description="where the bank's catalog is, if not in its folder: "
            "postgresql+psycopg://user@host/database"
        ),
    ] = None
    mode: Annotated[Mode, Meta(description="how memory is used")] = "adapter"
    namespace: Annotated[
        str, Meta(description="whose memories are used, where a request names no namespace")
    ] = DEFAULT_NAMESPACE
    gate: GateSettings = GateSettings()
    embedder: Annotated[str | None, Meta(description="embedder of the gate: model id or path")] = None
    """None: the one that the bank was made with."""
    window: Annotated[int, Meta(description="how many of the last user messages are compared")] = 1
    dialogue: Annotated[
        int,
        Meta(
            description="how many of the last messages, of user and assistant, are compared beside it, so "
            "that a question is understood from what is being talked about; 0: none"
        ),
    ] = 8
    """A score is then the mean of both cosines; 1 is as 0."""
    pinned: Annotated[
        tuple[str, ...],
        Meta(description="a memory that is loaded at the start and never leaves host memory"),
    ] = ()
    """Of `namespace`."""
    salience_margin: Annotated[
        float,
        Meta(
            description="how much nearer than another a memory may be, as a score, and still give way to one "
            "that is used more; 0: use counts for nothing"
        ),
    ] = 0.0
    """0.02 is a near tie with all-MiniLM-L6-v2; docs/gate.md says what use does."""
    salience_half_life_days: Annotated[
        float, Meta(description="days in which what use has made of a memory falls to one half")
    ] = 30.0
    max_requests: Annotated[
        int | None,
        Meta(
            description="how many requests a server answers or keeps waiting at a time; more get 503 with "
            "Retry-After, which clients of OpenAI heed"
        ),
    ] = None
    """None: four times as many as its engines run (--max-num-seqs)."""
    forget_running: Annotated[
        ForgetRunning,
        Meta(
            description="what becomes of requests that use a memory when it is forgotten: they finish as if "
            "it were there, or end with an error (503)"
        ),
    ] = "finish"
    keys: Annotated[
        str | None,
        Meta(
            description="file of keys that `vllm-mega keys` writes: who may use the server, in which role, "
            "for which namespaces; instead of --api-key"
        ),
    ] = None
    audit: Annotated[
        str | None,
        Meta(description="file that gets a line for every refused try; it has no texts and no keys"),
    ] = None

    def __post_init__(self) -> None:
        _require(bool(self.bank), "bank must be the path of a bank")
        # Settings stand in command lines, which every process can read, and in logs.
        _require(
            not _PASSWORD.search(self.catalog or ""),
            "catalog must be a URL without a password: give that as PGPASSWORD, or in ~/.pgpass",
        )
        check_name(self.namespace, "namespace")
        _require(1 <= self.window <= 64, f"window must be 1..64, got {self.window}")
        _require(0 <= self.dialogue <= 64, f"dialogue must be 0..64, got {self.dialogue}")
        _require(
            0.0 <= self.salience_margin <= 0.2,
            f"salience_margin must be in [0, 0.2], got {self.salience_margin}",
        )
        _require(
            1.0 <= self.salience_half_life_days <= 3650.0,
            f"salience_half_life_days must be in [1, 3650], got {self.salience_half_life_days}",
        )
        _require(
            self.max_requests is None or self.max_requests >= 1,
            f"max_requests must be at least 1, got {self.max_requests}",
        )


def described(kind: type) -> dict[str, str]:
    """What each setting of `kind` is, in the words of `--help` and of the documents."""
    hints = get_type_hints(kind, include_extras=True)
    metas = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {
        name: meta.description
        for name, some in metas.items()
        for meta in some
        if isinstance(meta, Meta) and meta.description
    }


S = TypeVar("S")


def settings_from(value: Mapping[str, Any], kind: type[S]) -> S:
    """`value` as settings of `kind`.

    Raises:
        ConfigError: an unknown field, a wrong type or a bad value; the message names the field.
    """
    try:
        return msgspec.convert(dict(value), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error
