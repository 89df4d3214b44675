"""The wording of the prompts is part of what adapters are trained on."""

from __future__ import annotations

from vllm_mega import prompts

QUESTION = "Who rang the bell?"


def test_wording_of_the_paper() -> None:
    assert prompts.MEMORY_PROMPT == "Tell me a story that you memorized."
    assert prompts.recall_prompt(QUESTION) == (
        "Who rang the bell? Reconstruct the entire story that is related to the above question."
    )
    assert prompts.question_prompt(QUESTION) == (
        "Who rang the bell? Answer should be no more than one sentence."
    )


def test_irag_has_the_recalled_text_and_the_question() -> None:
    (message,) = prompts.irag_messages(QUESTION, "Ada rang the bell.")
    assert message["role"] == "user"
    assert message["content"].startswith("Ada rang the bell.\n\n")
    assert message["content"].endswith(prompts.question_prompt(QUESTION))
