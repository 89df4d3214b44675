from __future__ import annotations

import pytest

from tests.training.tiny import BELL, SETTINGS
from vllm_mega.training.compute.learner import Learner, Sight
from vllm_mega.training.recipe.encoding import Encoded
from vllm_mega.training.recipe.job import memory_job

KNOWN = Sight(0.1, True, [True] * 5, [True] * 2)


@pytest.fixture
def bell() -> Learner:
    job = memory_job(BELL, SETTINGS)
    return Learner(job, [Encoded([1, 2, 3], [4, 2], [1.0, 1.0]) for _ in job.examples], SETTINGS)


def seen(bell: Learner, *sights: Sight) -> bool:
    for sight in sights:
        bell.note(sight)
    return bell.seems_learnt()


def test_three_steps_must_know_everything(bell: Learner) -> None:
    assert not seen(bell, KNOWN, KNOWN)
    assert seen(bell, KNOWN)
    assert not seen(bell, KNOWN._replace(recalled=False))


@pytest.mark.parametrize(("wrong", "learnt"), [(3, True), (4, False)])
def test_a_fifth_of_the_answers_may_be_others(bell: Learner, wrong: int, learnt: bool) -> None:
    answered = [False] * wrong + [True] * (5 - wrong)
    assert seen(bell, KNOWN, KNOWN, KNOWN._replace(answered=answered)) == learnt


def test_ends_of_answers_are_counted_apart(bell: Learner) -> None:
    """One of ten answers, but two of the six that are learnt to their end: it goes on behind them."""
    assert not seen(bell, KNOWN, KNOWN, KNOWN._replace(ended=[False, False]))


@pytest.mark.parametrize(("surprise", "weight"), [(2.0, 3.0), (20.0, 6.0), (60.0, 9.0)])
def test_ends_weigh_as_much_as_they_surprise_the_model(surprise: float, weight: float) -> None:
    """Whole answers only: the last token of a cut one is any token."""
    job = memory_job(BELL, SETTINGS)
    whole, cut = Encoded([1, 2, 3], [4, 2], [1.0, 3.0]), Encoded([1, 2, 3], [4, 5], [1.0, 1.0], ends=False)
    encoded = [cut if example.limit else whole for example in job.examples]
    bell = Learner(job, encoded, SETTINGS)
    bell.weigh_ends(surprise)
    assert {tuple(weights) for weights in bell.weights} == {(1.0, weight), (1.0, 1.0)}
    assert whole.weights == [1.0, 3.0]


def test_steps_that_do_not_help_any_more_are_noticed(bell: Learner) -> None:
    for step in range(40):
        bell.note(KNOWN._replace(loss=1.0 - 0.02 * step))
        assert not bell.is_stuck()
    for _ in range(SETTINGS.ends.patience + SETTINGS.ends.average):
        bell.note(KNOWN._replace(loss=0.22))
    assert bell.is_stuck()
