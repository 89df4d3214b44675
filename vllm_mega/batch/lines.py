"""Input and output lines of `vllm-mega query`: our own format and OpenAI's batch format. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec

from vllm_mega.config import MegaSettings
from vllm_mega.errors import RequestError
from vllm_mega.jsonl import JsonError, decode, split_values
from vllm_mega.requests.conversation import user_text
from vllm_mega.requests.schemas import FIELD, make_plan
from vllm_mega.requests.wellformed import usual_messages

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
SHOWN_PROBLEMS = 20

Format = Literal["lines", "openai-batch"]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of our own format: `prompt` or `messages`."""

    id: str | int | None = None
    """None: the number of the line."""
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    mega: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give `prompt` or `messages`, and only one of them")


class BatchLine(msgspec.Struct, frozen=True):
    """A line of OpenAI's format. Only its `custom_id` must be right, for then an error can be its answer."""

    custom_id: str
    method: Any = None
    url: Any = None
    body: Any = None

    def problem(self, settings: MegaSettings) -> str | None:
        """Why the line cannot be a request; None: it can."""
        if self.method != "POST":
            return f"method must be 'POST', found {self.method!r}"
        if self.url not in (CHAT, COMPLETIONS):
            return f"url must be {CHAT} or {COMPLETIONS}, found {self.url!r}"
        if not isinstance(self.body, dict):
            return "body must be an object"
        if self.body.get("stream"):
            return "a line cannot be streamed: leave `stream` out"
        try:
            make_plan(self.body.get(FIELD), settings)
        except RequestError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class Job:
    """One request of a file."""

    id: str | int
    url: str
    body: dict[str, Any]
    prompt: str | None
    """What the output repeats of the question; None in OpenAI's format."""
    refusal: Reply | None = None
    """The answer to a line that cannot be a request; None: it is one."""

    def is_answered_by(self, output: Mapping[str, Any]) -> bool:
        """Whether this line of an output file belongs to the job."""
        if self.prompt is None:
            return output.get("custom_id") == self.id
        return output.get("id") == self.id and output.get("prompt") == self.prompt


@dataclass(frozen=True)
class Reply:
    """What a handler answered: a response, or OpenAI's error object."""

    status: int
    body: dict[str, Any]

    @classmethod
    def refused(cls, message: str) -> Self:
        """The answer to what is no request."""
        return cls(
            400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
        )

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def message(self) -> str:
        """What the error of the reply says; only where `ok` is false."""
        return str(self.body["error"]["message"])

    @property
    def tokens(self) -> int:
        """How many tokens were generated."""
        usage = self.body.get("usage") or {}
        return int(usage.get("completion_tokens") or 0)


def read_jobs(
    text: str, defaults: Mapping[str, Any], settings: MegaSettings, form: Format | None = None
) -> list[Job]:
    """Every line (or element of an array) as a job; blank lines are passed over.

    In OpenAI's format a line that cannot be a request is answered with an error, as OpenAI does; in ours,
    where lines are written by hand, it is refused.

    Args:
        text: the file.
        defaults: fields of a request body that a line does not give (its model, sampling).
        settings: that the field `mega` of a line goes with.
        form: of the lines; None: what the first one looks like.

    Raises:
        RequestError: lines that cannot be right, with their numbers; or not one that is a request.
    """
    try:
        lines = split_values(text)
    except JsonError as error:
        raise RequestError(f"the input, {error}") from error
    if not lines:
        raise RequestError("the input has no lines")
    parse = _parser(form or detect(lines[0][1]))
    jobs: list[Job] = []
    problems: list[str] = []
    seen: dict[str | int, int] = {}
    for number, line in lines:
        try:
            job = parse(line, number, defaults, settings)
            if (first := seen.setdefault(job.id, number)) != number:
                raise ValueError(f"line {first} has the same id, {job.id!r}")
            jobs.append(job)
        except ValueError as error:  # a RequestError is one, and a JsonError
            problems.append(f"line {number}: {error}")
    if problems:
        raise RequestError(f"{len(problems)} of {len(lines)} lines are wrong:\n{_shortened(problems)}")
    if (first_of := jobs[0].refusal) and all(job.refusal for job in jobs):
        raise RequestError(f"none of {len(jobs)} lines is a request; the first: {first_of.message}")
    return jobs


def _shortened(problems: Sequence[str]) -> str:
    """The first problems, a line each, and how many there are beside them."""
    more = len(problems) - SHOWN_PROBLEMS
    return "\n".join([*problems[:SHOWN_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])


def detect(line: str) -> Format:
    """The format of a file that begins with `line`."""
    try:
        fields = decode(line, object)
    except JsonError:
        return "lines"
    return "openai-batch" if isinstance(fields, dict) and "custom_id" in fields else "lines"


def _parser(form: Format) -> Callable[[str, int, Mapping[str, Any], MegaSettings], Job]:
    return _parse_line if form == "lines" else _parse_batch_line


def _parse_line(line: str, number: int, defaults: Mapping[str, Any], settings: MegaSettings) -> Job:
    fields = decode(line, Line)
    make_plan(fields.mega, settings)
    messages = fields.messages
    if messages is None:
        messages = [{"role": "user", "content": fields.prompt}]
    messages = usual_messages(messages)
    body = {**defaults, "messages": messages}
    if fields.mega is not None:
        body[FIELD] = fields.mega
    shown = fields.prompt if fields.prompt is not None else user_text(messages) or ""
    return Job(number if fields.id is None else fields.id, CHAT, body, shown)


def _parse_batch_line(line: str, number: int, defaults: Mapping[str, Any], settings: MegaSettings) -> Job:  # noqa: ARG001
    fields = decode(line, BatchLine)
    if problem := fields.problem(settings):
        return Job(fields.custom_id, "", {}, None, Reply.refused(problem))
    return Job(fields.custom_id, fields.url, {"model": defaults["model"], **fields.body}, None)


def output_line(job: Job, reply: Reply) -> dict[str, Any]:
    """The line of the output that answers `job`."""
    if job.prompt is None:
        response = {
            "status_code": reply.status,
            "request_id": f"vllm-batch-{uuid.uuid4().hex}",
            "body": reply.body if reply.ok else None,
        }
        return {
            "id": f"vllm-{uuid.uuid4().hex}",
            "custom_id": job.id,
            "response": response,
            "error": None if reply.ok else reply.body,
        }
    line: dict[str, Any] = {"id": job.id, "prompt": job.prompt, "answer": None, FIELD: None}
    if not reply.ok:
        return {**line, "error": reply.message}
    answer = reply.body["choices"][0]["message"]["content"]
    return {**line, "answer": answer, FIELD: reply.body.get(FIELD)}


def encode(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """The lines as JSONL: UTF-8, each with its line feed."""
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
