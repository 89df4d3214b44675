"""What becomes of memories that are to be trained, and what a run has done."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_mega.errors import TrainingError
from vllm_mega.training.recipe.job import Ending
from vllm_mega.training.run.changes import Why


@dataclass(frozen=True)
class Trained:
    """One memory that has its adapter now."""

    namespace: str
    id: str
    steps: int
    loss: float
    recalled: bool
    """Whether the untouched model recites the text with the exported adapter, word for word."""
    ending: Ending
    """Why its training ended."""
    seconds: float
    bytes: int
    why: Why = "new"
    """Why it was trained."""


@dataclass(frozen=True)
class Failed:
    """One memory that was to be trained, and has no adapter of its newest text."""

    namespace: str
    id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.id}: {self.reason}"


@dataclass
class TrainReport:
    """What a run has done."""

    trained: list[Trained] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    skipped: int = 0
    """Memories that the bank had already, trained on the same text by the same recipe."""
    seconds: float = 0.0

    def require_all(self) -> None:
        """For whoever can do nothing with a part of the memories.

        Raises:
            TrainingError: some could not be trained; says which, and why.
        """
        if self.failed:
            raise TrainingError("\n  ".join(["these memories could not be trained:", *map(str, self.failed)]))

    def note(self, outcome: Trained | Failed) -> None:
        """Add what became of a memory."""
        if isinstance(outcome, Trained):
            self.trained.append(outcome)
        else:
            self.failed.append(outcome)
