"""Every architecture on the real engine: the tokens and logprobs of PEFT, or the refusal that is expected."""

from __future__ import annotations

import pytest

from tests.architectures.checks import Outcome, serve_families, train_family
from tests.architectures.families import FAMILIES, Family

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    root = tmp_path_factory.mktemp("families")
    trained = [train_family(family, root) for family in FAMILIES]
    return {outcome.name: outcome for outcome in serve_families(FAMILIES, trained, root, timeout=500)}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_vllm_says_what_peft_says(family: Family, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[family.name].status == family.expected
