"""The chat format of a model: how its template writes a conversation, and the answer that the model gives.

vLLM writes a conversation with the template, asks for an answer (`add_generation_prompt`) and shows what the
model generates from there. So a prompt here is what the template writes for that, token by token, and an
answer is what has to be generated behind it: what the template puts before a text (Qwen3 an empty think
block), the text, and the token that ends it. Both are learnt from the template by what it makes of a question
and an answer that are easy to find again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vllm_mega.errors import ModelError, TrainingError
from vllm_mega.models.checkpoint import read_json
from vllm_mega.models.control_tokens import special_ids
from vllm_mega.models.refusals import load_error
from vllm_mega.models.start import other_question, start_of
from vllm_mega.prompts import Message, user

_REMEDY = "give --chat-template plain ('User: ...', 'Assistant: ...'), or --chat-template FILE"

_QUESTION, _ANSWER = "Is this the question Q1?", "This is the answer A1."
"""No template has them, and trimming changes nothing."""
_OPEN_TAG = re.compile(r"<(\w+)>\s*\Z")
_NEUTRAL = "]"
"""Text behind it gets no space from tokenizers that begin every text with one."""
_NEAR = 8
"""Tokens of a prompt that are enough to read what follows as it will be read there."""


class Answer(NamedTuple):
    """What the model has to generate."""

    ids: list[int]
    """Opening, text, end token."""
    opening: int
    """How many of them stand before the text; white space that is one token with the text's begin is none."""


class Prompt(NamedTuple):
    """What a chat request gives the model."""

    ids: list[int]
    start: int
    """Where the content of the last message begins, in tokens: a mixture acts from there (see `start`)."""


class ChatFormat:
    """What the chat template of a tokenizer writes, as token ids."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int], template: str = "") -> None:
        """Learn the format.

        Args:
            tokenizer: of transformers.
            end_ids: tokens at which vLLM ends an answer; the first is used where the template names none.
            template: Jinja, in place of the tokenizer's own; empty: its own.

        Raises:
            ModelError: there is no template, or none that memories can be trained with.
        """
        self.tokenizer = tokenizer
        self.end_ids = list(end_ids)
        self.template = "" if template == tokenizer.chat_template else template
        """Empty: the tokenizer's own."""
        if not (template or tokenizer.chat_template):
            raise ModelError(f"the model has no chat template: {_REMEDY}")
        self._special = special_ids(tokenizer)
        self._pieces: dict[int, str] = {}
        self._in_parts = False
        self._in_parts = _QUESTION not in self._write(user(_QUESTION), answered=False)
        self._asked, self._opening, after = self._probed()
        # Where a text can stand so that a tokenizer takes it as going on.
        self._before = {text: self._ids(text) for text in (self._asked, _NEUTRAL, "")}
        self._near = self._before[self._asked][-_NEAR:]
        self.end_id = next((token for token in self._ids(after) if token in end_ids), self.end_ids[0])

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids that vLLM gives the model for a chat request with these messages.

        Raises:
            ModelError: the template refuses them.
        """
        return self._ids(self._write(messages, answered=False))

    def asked(self, messages: Sequence[Message]) -> Prompt:
        """The same, and where the question starts: the content of the last message, which is the user's.

        Raises:
            ModelError: the template refuses them.
        """
        *before, last = messages
        varied = self.prompt([*before, {"role": last["role"], "content": other_question(last["content"])}])
        ids = self.prompt(messages)
        return Prompt(ids, start_of(ids, varied))

    def answer(self, text: str) -> Answer:
        """What has to be generated so that vLLM shows `text`.

        Raises:
            TrainingError: nothing can (see `unfit_text`).
        """
        answer = self._answer(text)
        if isinstance(answer, str):
            raise TrainingError(f"{_short(text)} cannot be trained: it {answer}")
        return answer

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        for token in set(ids) - self._pieces.keys():
            self._pieces[token] = self._decode([token])
        return [self._pieces[token] for token in ids]

    def unfit_text(self, text: str) -> str | None:
        """Why `text` cannot be trained as an answer ("has ..."); None: it can."""
        answer = self._answer(text)
        return answer if isinstance(answer, str) else None

    def unfit_prompt(self, text: str) -> str | None:
        """Why `text` cannot stand in a prompt ("has ..."); None: it can.

        Text that spells a control token becomes that token in a prompt, here and in vLLM.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            return "has half of a character (a lone surrogate): leave it out"
        return self._control_token(text, self._special)

    def _control_token(self, text: str, control: set[int]) -> str | None:
        names = [
            self.tokenizer.convert_ids_to_tokens(token) for token in control.intersection(self._ids(text))
        ]
        unknown = self.tokenizer.unk_token
        if name := min([*names, *([unknown] if unknown and unknown in text else [])], default=""):
            return f"has {name!r}, a control token of the model: write it otherwise, such as with spaces"
        return None

    def _answer(self, text: str) -> Answer | str:
        """The answer, or why there is none."""
        if why := self.unfit_prompt(text) or self._control_token(text, set(self.end_ids)):
            return why
        said = self._opening + text
        nearly: Answer | None = None
        read = ""
        for before in self._before:
            ids = self._behind(before, said)
            if ids is None:
                continue
            readings = self._readings(ids)
            answer = Answer([*ids, self.end_id], _common(ids, self._behind(before, self._opening) or []))
            if said in readings:
                return answer
            read = read or readings[0]
            if nearly is None and _core(said) in map(_core, readings):
                nearly = answer
        return nearly or f"becomes {_difference(said, read)} in the model's tokenizer: write it otherwise"

    def _behind(self, before: str, text: str) -> list[int] | None:
        """The tokens of `text` behind `before`; None: there they are not tokens of their own."""
        first = self._before[before]
        ids = self._ids(before + text)
        return ids[len(first) :] if ids[: len(first)] == first else None

    def _readings(self, ids: list[int]) -> tuple[str, str]:
        """What `ids` say behind a prompt, and by themselves."""
        alone, before, both = self._decode(ids), self._decode(self._near), self._decode([*self._near, *ids])
        return (both[len(before) :] if both.startswith(before) else alone), alone

    def _probed(self) -> tuple[str, str, str]:
        """A prompt, what opens an answer behind it, and what the template writes behind an answer.

        Raises:
            ModelError: the template loses what is said, or writes a prompt that no answer goes on from.
        """
        asked = self._write(user(_QUESTION), answered=False)
        whole = self._write([*user(_QUESTION), {"role": "assistant", "content": _ANSWER}], answered=True)
        _, question, after = whole.rpartition(_QUESTION)
        between, answer, after = after.partition(_ANSWER)
        if _QUESTION not in asked or not question or not answer:
            raise ModelError(f"the chat template does not write what is asked and answered: {_REMEDY}")
        opening = _opening(asked.rpartition(_QUESTION)[2], between)
        return asked, opening, after

    def _write(self, messages: Sequence[Message], *, answered: bool) -> str:
        conversation: list[Any] = [*messages]
        if self._in_parts:  # as vLLM writes them for templates that look for parts
            conversation = [
                {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages
            ]
        try:
            text: str = self.tokenizer.apply_chat_template(
                conversation,
                chat_template=self.template or None,
                add_generation_prompt=not answered,
                tokenize=False,
            )
        except Exception as error:  # a template is a program: anything may go wrong in it
            what = "a question and its answer" if answered else "a question"
            raise ModelError(
                f"the chat template refuses {what} ({' '.join(str(error).split())}): {_REMEDY}"
            ) from error
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def load_chat_format(path: Path | str, template: str = "", *, trust_remote_code: bool = False) -> ChatFormat:
    """The chat format of the checkpoint at `path`; see `ChatFormat`.

    Raises:
        ModelError: the tokenizer cannot be loaded, brings code that is not trusted, names no end token, or
            has no usable template.
    """
    from transformers import AutoTokenizer

    from vllm_mega._quiet import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise load_error(Path(path), error, "a checkpoint with its tokenizer") from error
    return ChatFormat(tokenizer, _end_ids(Path(path), tokenizer), template)


def _end_ids(path: Path, tokenizer: Any) -> list[int]:
    """The tokens at which vLLM ends an answer, the tokenizer's own first."""
    named: list[Any] = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        if (path / name).is_file():
            named.append(read_json(path / name).get("eos_token_id"))
            break
    flat = [token for ids in named for token in (ids if isinstance(ids, list) else [ids])]
    ends = [token for token in dict.fromkeys(flat) if token is not None]
    if not ends:
        raise ModelError(
            f"{path}: neither the tokenizer nor generation_config.json names an end token: "
            "set eos_token_id in generation_config.json"
        )
    return ends


def _opening(asking: str, answering: str) -> str:
    """What an answer begins with, of what the template writes behind a question without and with an answer.

    Reasoning models are asked with a tag that is open, and the template leaves the reasoning out of answers
    before the last: then the answer closes the tag first.
    """
    if answering.startswith(asking):
        return answering[len(asking) :]
    if tag := _OPEN_TAG.search(asking):
        closing = f"</{tag[1]}>"
        rest = answering.removeprefix(asking[: tag.start()])
        if answering.startswith(asking[: tag.start()]) and (not rest.strip() or rest.startswith(closing)):
            return rest if rest.strip() else f"{closing}\n\n"
    if asking.startswith(answering):
        return ""
    raise ModelError(
        f"the chat template changes the prompt when an answer follows it, from {asking!r} to {answering!r}: "
        f"{_REMEDY}"
    )


def _common(first: Sequence[object], second: Sequence[object]) -> int:
    """How many items both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _core(text: str) -> str:
    """`text` without white space; characters that Unicode holds to be the same are the same."""
    return unicodedata.normalize("NFC", "".join(text.split()))


def _difference(text: str, read: str) -> str:
    """Where `text` and `read` first differ, and how."""
    start = max(0, _common(text, read) - 8)
    return f"{read[start : start + 24]!r} for {text[start : start + 24]!r}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 40 else f"{line[:37]}...")
