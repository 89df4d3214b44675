"""Tools that the server executes (`mega.tools`): a model is asked, what it calls is done, it is asked again.

Each round is a chat of its own, with memory; each call is a request of the server's, as whoever has asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionToolsParam,
)
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, UsageInfo
from vllm.exceptions import VLLMValidationError

from vllm_mega.errors import RequestError
from vllm_mega.http.entrance import principal
from vllm_mega.http.inside import inside
from vllm_mega.mcp.asking import Asker
from vllm_mega.mcp.tools import BY_NAME, TOOLS, Outcome, Tool, call
from vllm_mega.models.control_tokens import plain_text
from vllm_mega.requests.schemas import FIELD, Plan, Tools
from vllm_mega.requests.usage import total
from vllm_mega.requests.wellformed import usual_messages

PARAM = f"{FIELD}.tools"


@dataclass
class Rounds:
    """What has been said and done so far."""

    messages: list[dict[str, Any]]
    used: dict[str, Any] = field(default_factory=dict)
    """Tokens of the rounds."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """As the response tells them."""

    def add(
        self, answer: Any, calls: Sequence[Any], outcomes: Sequence[Outcome], control: Collection[str]
    ) -> None:
        """Put what the model said, and what came of its calls, into the conversation, none of it a template.

        Args:
            answer: of vLLM.
            calls: of our tools. Others of the same turn are left out: the model makes them again, if it still
                wants to, once it knows what came of ours.
            outcomes: of each.
            control: how the control tokens of the model are spelled.
        """
        self.used = total(self.used, answer.usage.model_dump())
        content = answer.choices[0].message.content or ""
        asked, told = [], []
        for one, outcome in zip(calls, outcomes, strict=True):
            name, arguments = one.function.name, one.function.arguments
            said, heard = plain_text(arguments, control), plain_text(outcome.text, control)
            function = {"name": name, "arguments": said}
            asked.append({"id": one.id, "type": "function", "function": function})
            told.append({"role": "tool", "tool_call_id": one.id, "content": heard})
            call = {"id": one.id, "name": name, "arguments": arguments, "ok": outcome.ok}
            self.calls.append({**call, "content": outcome.text})
        said = plain_text(content, control)
        self.messages += [{"role": "assistant", "content": said, "tool_calls": asked}, *told]

    def annotated(self, answer: Any) -> Any:
        """The last answer, with what was called, and the tokens of all rounds."""
        if isinstance(answer, ErrorResponse):
            answer.error.message += self._before()
            return answer
        getattr(answer, FIELD)["tool_calls"] = self.calls
        answer.usage = UsageInfo.model_validate(total(answer.usage.model_dump(), self.used))
        return answer

    def explained(self, error: VLLMValidationError) -> Exception:
        """VLLM's refusal of a prompt; it tells what was done before."""
        return RequestError(f"{error}{self._before()}", "messages") if self.calls else error

    def _before(self) -> str:
        done = [f"{one['name']} ({'done' if one['ok'] else 'failed'})" for one in self.calls]
        return f" Before that, the model has called {', '.join(done)}" if done else ""


async def answered(chat: Any, plan: Plan, request: Any, raw_request: Any) -> Any:
    """The answer to a request whose tools the server executes.

    A turn without a call of ours is the answer, also where it calls the client's own tools. After the last
    round the model is asked once more, and may call nothing. It is not offered what its key may not do; if it
    calls that all the same, the route refuses.

    Args:
        chat: vLLM's handler of chats, with memory.
        plan: of the request.
        request: the client's.
        raw_request: the client's, by which the tools ask; None: there is none (a batch).

    Raises:
        RequestError: the request and its tools do not go together; `param` names why.
    """
    wanted = plan.tools
    assert wanted is not None
    offered = [tool for tool in TOOLS if principal().may(tool.role, plan.namespace)]
    _check(chat, wanted, offered, request, raw_request)
    rounds = Rounds(usual_messages(request.messages))
    async with inside(raw_request) as client:
        asker = Asker(client, plan.namespace)
        for number in range(wanted.rounds + 1):
            choice = _choice(wanted, request, number)
            asked = _asked(request, rounds.messages, offered, choice)
            try:
                answer = await chat.create_chat_completion(asked, raw_request)
            except VLLMValidationError as error:
                raise rounds.explained(error) from error
            said = [] if isinstance(answer, ErrorResponse) else answer.choices[0].message.tool_calls
            calls = [one for one in said if one.function.name in BY_NAME]
            if not calls or choice == "none":
                break
            outcomes = [await call(asker, one.function.name, one.function.arguments) for one in calls]
            rounds.add(answer, calls, outcomes, chat.control)
    return rounds.annotated(answer)


def _asked(request: Any, messages: Sequence[Any], offered: Sequence[Tool], choice: Any) -> Any:
    """The request of one round."""
    ours = [ChatCompletionToolsParam(function=_function(tool)) for tool in offered]
    mega = {name: value for name, value in request.model_extra[FIELD].items() if name != "tools"}
    tools = [*(request.tools or ()), *ours]
    changed = {"messages": [*messages], "tools": tools, "tool_choice": choice, FIELD: mega}
    return request.model_copy(update=changed)


def _function(tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI has it; strict: vLLM lets the model write arguments of this schema alone."""
    about = {"name": tool.name, "description": tool.about, "parameters": tool.schema}
    return {**about, "strict": True}


def _choice(wanted: Tools, request: Any, number: int) -> Any:
    """What the model may or must call in a round: what the client says is for the first."""
    if number == wanted.rounds:
        return "none"
    if number:
        return "auto"
    if wanted.choice is None:
        return (request.tools and request.tool_choice) or "auto"
    if wanted.choice == "required":
        return wanted.choice
    return ChatCompletionNamedToolChoiceParam(function={"name": wanted.choice})


def _check(chat: Any, wanted: Tools, offered: Sequence[Tool], request: Any, raw_request: Any) -> None:
    """Refuse what does not go together.

    Raises:
        RequestError: see `answered`.
    """
    if raw_request is None:
        raise RequestError(f"{PARAM}: tools are executed by servers, and here is none: leave it out", PARAM)
    if not chat.enable_auto_tools or chat.parser_cls is None:
        raise RequestError(
            f"{PARAM}: this server does not read what models call: start it with --enable-auto-tool-choice "
            "and the --tool-call-parser of its model",
            PARAM,
        )
    for name, value, must in (
        ("stream", request.stream, "the answer comes at once, after all rounds: leave it out"),
        ("n", (request.n or 1) > 1, "there is one answer: leave it out"),
        ("use_beam_search", request.use_beam_search, "beams would call tools each: leave it out"),
    ):
        if value:
            raise RequestError(f"{name} does not go with {PARAM}: {must}", name)
    _check_names(wanted, offered, request)


def _check_names(wanted: Tools, offered: Sequence[Tool], request: Any) -> None:
    names = {tool.name for tool in offered}
    own = {tool.function.name for tool in request.tools or ()}
    if twice := sorted(own & set(BY_NAME)):
        raise RequestError(
            f"tools has {twice[0]}, and so has {PARAM}: give your own function another name", "tools"
        )
    said = request.tool_choice if "tool_choice" in request.model_fields_set else None
    if said == "none" or (said not in (None, "auto") and wanted.choice is not None):
        raise RequestError(
            f"tool_choice does not go with {PARAM} like that: leave one of them out", "tool_choice"
        )
    if wanted.choice is not None and wanted.choice not in {"required", *names}:
        raise RequestError(
            f"{PARAM}.choice is {wanted.choice!r}: give 'required', or one of {', '.join(sorted(names))}",
            f"{PARAM}.choice",
        )
