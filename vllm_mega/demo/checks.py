"""What counts as answered, as recalled, as unchanged; and the demo's verdict. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from vllm_mega.evaluation.scoring import contains, in_one_sentence, is_exact

MIN_SHARE = 0.8
"""Of the questions answered, and of the memories recalled, for the demo to succeed."""


class Reply(msgspec.Struct, frozen=True):
    """What came back for one prompt."""

    text: str
    token_ids: tuple[int, ...]
    memories: tuple[tuple[str, float], ...] = ()
    """(title or id, weight) of the memories used, heaviest first."""


class Asked(msgspec.Struct, frozen=True):
    """One question, answered without memory and in both ways with, and what the answer should contain."""

    question: str
    answer: str
    base: Reply
    direct: Reply
    irag: Reply

    def fine(self, reply: Reply) -> bool:
        """Whether the words of the answer stand in the reply."""
        return contains(reply.text, self.answer)

    @property
    def right(self) -> list[Reply]:
        """The replies with memory, direct and with irag, that have the answer."""
        return [reply for reply in (self.direct, self.irag) if self.fine(reply)]


class Recalled(msgspec.Struct, frozen=True):
    """One memory, and what the model gave when asked to reconstruct it."""

    title: str
    text: str
    reply: Reply

    @property
    def exact(self) -> bool:
        """Word for word; only the white space may differ."""
        return is_exact(self.reply.text, self.text)


class Unrelated(msgspec.Struct, frozen=True):
    """One prompt that no memory is about, sent to the model with memory and to the base model."""

    prompt: str
    mega: Reply
    base: Reply

    @property
    def identical(self) -> bool:
        """No memory was used, and every token is the base model's."""
        return not self.mega.memories and self.mega.token_ids == self.base.token_ids


class Result(msgspec.Struct, frozen=True):
    """What out/demo.json says."""

    memories: int
    asked: int
    answered: int
    """Directly or with irag: one of the two replies contains the answer, or both do."""
    answered_in_one_sentence: int
    """Of those, in at most one sentence, as the paper counts; a recited memory does not."""
    answered_direct: int
    answered_irag: int
    """Recall first, then answer."""
    answered_base: int
    """Of the same questions, asked to the base model, which cannot know."""
    recall_exact: int
    null_route_identical: bool
    seconds: dict[str, float]

    @property
    def complaints(self) -> list[str]:
        """Why the demo fails; empty when it does not."""
        checks = {
            f"{self.answered} of {self.asked} questions answered": self.answered
            >= MIN_SHARE * self.asked
            > 0,
            f"{self.recall_exact} of {self.memories} memories recalled word for word": (
                self.recall_exact >= MIN_SHARE * self.memories > 0
            ),
            "an unrelated prompt was not answered exactly as by the base model": self.null_route_identical,
        }
        return [what for what, fine in checks.items() if not fine]

    def write(self, file: Path) -> None:
        """Write the result as JSON."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def judge(
    asked: Sequence[Asked],
    recalled: Sequence[Recalled],
    unrelated: Sequence[Unrelated],
    seconds: dict[str, float],
) -> Result:
    """What was asked and answered, counted; `seconds`: of each phase."""
    return Result(
        memories=len(recalled),
        asked=len(asked),
        answered=sum(bool(question.right) for question in asked),
        answered_in_one_sentence=sum(
            any(in_one_sentence(r.text) for r in question.right) for question in asked
        ),
        answered_direct=sum(question.fine(question.direct) for question in asked),
        answered_irag=sum(question.fine(question.irag) for question in asked),
        answered_base=sum(question.fine(question.base) for question in asked),
        recall_exact=sum(recall.exact for recall in recalled),
        null_route_identical=bool(unrelated) and all(prompt.identical for prompt in unrelated),
        seconds={phase: round(value, 1) for phase, value in seconds.items()},
    )
