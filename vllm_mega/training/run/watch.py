"""Training for ever: whatever comes to wait for an adapter gets one, until somebody says stop.

Any number of watchers may train for one bank, beside each other and beside runs of `session`; on other hosts
too, where the catalog is in PostgreSQL. One that is killed loses nothing: its leases end, and another trains
the same memories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.changes import set_chat_template
from vllm_mega.bank.catalog.known import Known, known
from vllm_mega.bank.catalog.records import Job, MemoryName
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import BankError, BankFormatError, BankMismatchError, BankNotFoundError, TrainingError
from vllm_mega.isolation import isolated
from vllm_mega.models import linear_shapes
from vllm_mega.models.chat_template import template_name
from vllm_mega.training.recipe.job import Fit
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.run.changes import why_waiting
from vllm_mega.training.run.crew import LocalFitter, Task
from vllm_mega.training.run.leases import owner
from vllm_mega.training.run.outcome import Failed, Trained
from vllm_mega.training.run.plan import prepare_waiting
from vllm_mega.training.run.publishing import Publisher
from vllm_mega.training.run.stopping import Stop
from vllm_mega.training.run.work import POLL_S, Fitted, Worker

PATIENCE_S = 60.0
"""Most seconds between two tries to reach a bank that is out of reach."""
_FOR_GOOD = (BankNotFoundError, BankFormatError, BankMismatchError)
"""Of these no waiting helps."""


class StopTraining(BaseException):
    """Raised between two steps of training, when somebody has said stop: no error, and handled as none."""


@dataclass(frozen=True)
class Taken:
    """These memories are trained from now on, side by side."""

    names: tuple[MemoryName, ...]


@dataclass(frozen=True)
class Returned:
    """Somebody said stop: the training of these was broken off, and they wait again."""

    names: tuple[MemoryName, ...]


@dataclass(frozen=True)
class OutOfReach:
    """The bank cannot be read or written; it is tried again in `seconds`."""

    reason: str
    seconds: float


News = Taken | Trained | Failed | Returned | OutOfReach


def prepare_watch(
    bank: Path,
    model: str | None = None,
    settings: TrainSettings | None = None,
    *,
    catalog: str | None = None,
    trust_remote_code: bool = False,
) -> Task:
    """What it takes to train for `bank`, when everything that can refuse has been asked.

    From now on the bank has the chat template that is trained in.

    Args:
        bank: its folder.
        model: name, path or Hugging Face id of the base model; None: the bank's.
        settings: None: the defaults.
        catalog: URL of the bank's catalog, if it is not in the folder.
        trust_remote_code: whether to run code that the base model brings.

    Raises:
        BankNotFoundError, BankMismatchError, ModelError: as `plan.prepare_waiting`.
        BankError: the bank cannot be written.
    """
    path, base, recipe, _ = prepare_waiting(
        bank, model, settings, catalog=catalog, trust_remote_code=trust_remote_code
    )
    with open_catalog(bank, catalog) as opened:
        set_chat_template(opened, recipe.chat_template, owner())
        return Task(opened.root, path, base.name, recipe, catalog, trust_remote_code)


class Watch:
    """A trainer with its model, that waits for work."""

    def __init__(self, task: Task, stop: Stop, poll: float = POLL_S) -> None:
        """Load the model.

        Args:
            task: what it takes to train for this bank.
            stop: asked by whoever wants the watch to end.
            poll: seconds between two looks at a bank where nothing waits.

        Raises:
            ModelError: the model does not have the layers that the recipe asks for.
        """
        self._task, self._stop, self._poll = task, stop, poll
        self._fitter = LocalFitter(task.path, task.recipe, task.trust_remote_code, self._each_step)
        self._shapes = linear_shapes(task.path)

    def run(self) -> Iterator[News]:
        """Train what waits, the oldest first, and whatever comes later; ends when it is told to stop.

        What is under way then is broken off after its step, and waits again. A bank that is out of reach is
        tried again, after more seconds each time, for ever.

        Raises:
            BankNotFoundError, BankFormatError, BankMismatchError: the bank is another than at the start.
            MegaError, RuntimeError: training fails for every memory, so it is no memory's fault.
        """
        wait = self._poll
        while not self._stop.asked:
            try:
                for news in self._until_trouble():
                    wait = self._poll
                    yield news
            except _FOR_GOOD:
                raise
            except BankError as error:
                yield OutOfReach(str(error), wait)
                self._stop.wait(wait)
                wait = min(2 * wait, max(PATIENCE_S, self._poll))

    def _until_trouble(self) -> Iterator[News]:
        with open_catalog(self._task.bank, self._task.catalog) as catalog:
            task = self._task
            publisher = Publisher(catalog, task.recipe, task.base, self._shapes, owner())
            worker = Worker(publisher, self._fit, task.recipe.jobs, lambda: self._fitter.steps)
            while not self._stop.asked:
                _require_template(catalog, task.recipe.chat_template)
                if jobs := worker.take():
                    yield from _lot(catalog, worker, jobs)
                else:
                    self._stop.wait(self._poll)

    def _fit(self, memories: Sequence[NewMemory]) -> Fitted:
        """Whatever goes wrong with one memory is its failure: it shall not stop the others for ever."""
        fits = isolated(self._fitter.fit, memories, Exception)
        strange = [fit for fit in fits if not isinstance(fit, Fit | TrainingError)]
        if len(strange) == len(fits) > 1:
            raise strange[0]
        return [fit if isinstance(fit, Fit | TrainingError) else _as_failure(fit) for fit in fits]

    def _each_step(self, _steps: int) -> None:
        if self._stop.asked:
            raise StopTraining


def _lot(catalog: Catalog, worker: Worker, jobs: Sequence[Job]) -> Iterator[News]:
    names = tuple(job.name for job in jobs)
    yield Taken(names)
    stored = known(catalog, names)
    try:
        outcomes = worker.train(jobs)
    except StopTraining:
        yield Returned(names)
        return
    yield from (_explained(outcome, stored) for outcome in outcomes)


def _explained(outcome: Trained | Failed, stored: Mapping[MemoryName, Known]) -> Trained | Failed:
    """With why it was trained, of a memory that was known before."""
    before = stored.get(MemoryName(outcome.namespace, outcome.id))
    if before is None or isinstance(outcome, Failed):
        return outcome
    return replace(outcome, why=why_waiting(before))


def _require_template(catalog: Catalog, template: str) -> None:
    """Refuse to make adapters that are asked otherwise than they were trained.

    Raises:
        BankMismatchError: somebody has given the bank another chat template.
    """
    found = catalog.settings().base.chat_template
    if found != template:
        raise BankMismatchError(
            f"{catalog.root} has the chat template {template_name(found)} by now, and this trainer trains in "
            f"{template_name(template)}: start it again"
        )


def _as_failure(error: Exception) -> TrainingError:
    return TrainingError(f"{type(error).__name__}: {error}")
