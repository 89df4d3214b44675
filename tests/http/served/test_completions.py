"""Completions: one prompt, and several with a mixture each."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.http.asking import BASE, MEGA, TOKENS, refused, used
from tests.http.live_bank import ASKED, UNRELATED

pytestmark = pytest.mark.engine


def test_completions(client: openai.OpenAI) -> None:
    def complete(prompt: Any, mega: Any = None, **more: Any) -> Any:
        body = {} if mega is None else {"mega": mega}
        more = {"temperature": 0, "max_tokens": TOKENS, **more}
        return client.completions.create(model=MEGA, prompt=prompt, extra_body=body, **more)

    answer = complete(ASKED["bakery"])
    assert (used(answer)[0], answer.model) == ("bakery", MEGA)
    chunks = list(complete([ASKED["bakery"]], stream=True))
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text
    assert chunks[-1].mega == answer.mega
    base = client.completions.create(model=BASE, prompt=ASKED["bakery"], temperature=0, max_tokens=TOKENS)
    assert complete(ASKED["bakery"], {"mode": "off"}).choices[0].text == base.choices[0].text

    late = complete(ASKED["bakery"], {"start": {"character": len("Which bread")}})
    assert (answer.mega["start"], late.mega["start"]) == (0, 2)
    for start in ({"character": 1000}, 1000):
        assert refused(lambda: complete("a", {"start": start}), 400)["param"] == "mega.start"  # noqa: B023
    assert refused(lambda: complete("a", {"mode": "irag"}), 400)["param"] == "mega.mode"
    assert used(complete([1, 2, 3], {"memories": [{"id": "comet"}]})) == ["comet"]
    assert used(complete([1, 2, 3], {"mode": "off"})) == []


def test_every_prompt_has_its_own_mixture(client: openai.OpenAI, url: str) -> None:
    def complete(prompt: Any, **more: Any) -> Any:
        more = {"temperature": 0, "max_tokens": 1, **more}
        return client.completions.create(model=MEGA, prompt=prompt, **more)

    def ids(prompt: str) -> list[int]:
        answer = httpx.post(f"{url}/tokenize", json={"model": BASE, "prompt": prompt}, timeout=60)
        return list(answer.json()["tokens"])

    def memories(mega: Any) -> list[str]:
        return [memory["id"] for memory in mega["memories"]]

    prompts = [ASKED["bakery"], UNRELATED, ASKED["comet"], ASKED["bakery"]]
    alone = [complete(prompt) for prompt in prompts]
    for several in (prompts, list(map(ids, prompts))):
        together = complete(several)
        assert [c.index for c in together.choices] == [0, 1, 2, 3]
        assert [c.text for c in together.choices] == [a.choices[0].text for a in alone]
        assert together.mega == [a.mega for a in alone]
        assert together.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)
    assert list(map(memories, together.mega)) == [["bakery"], [], ["comet"], ["bakery"]]
    said = ["", "", "", ""]
    for chunk in (chunks := list(complete(prompts, stream=True))):
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == [c.text for c in together.choices]
    assert ["mega" in chunk.model_extra for chunk in chunks[-2:]] == [False, True]
    assert chunks[-1].mega == together.mega
    twice = complete(prompts[:3], n=2, temperature=1.0)
    assert len(twice.choices) == 6
    assert twice.mega == together.mega[:3]
    assert used(complete(ids(ASKED["bakery"]))) == ["bakery"]
    assert refused(lambda: complete([[1, 2], [999_999]]), 400)["param"] == "prompt"
