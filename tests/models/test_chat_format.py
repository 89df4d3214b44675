"""What chat templates and tokenizers of every kind make of prompts and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.models import chats
from tests.models.chats import TEXT
from vllm_mega.errors import ConfigError, ModelError, TrainingError
from vllm_mega.models.chat_format import Answer, ChatFormat, load_chat_format
from vllm_mega.models.chat_template import read_template, template_name
from vllm_mega.prompts import irag_messages, user


def qwen3(template: str = chats.QWEN3) -> PreTrainedTokenizerFast:
    return chats.byte_level(template, "<think>", "</think>", **chats.CHATML_TOKENS)


def r1() -> PreTrainedTokenizerFast:
    return chats.byte_level(chats.R1, "<think>", "</think>", **chats.R1_TOKENS)


KINDS: dict[str, Any] = {
    "chatml": lambda: chats.byte_level(chats.CHATML, **chats.CHATML_TOKENS),
    "system prompt of its own": lambda: chats.byte_level(chats.QWEN25, **chats.CHATML_TOKENS),
    "content in parts": lambda: chats.byte_level(chats.PARTS, **chats.CHATML_TOKENS),
    "qwen3": qwen3,
    "qwen3 thinking": lambda: qwen3(chats.QWEN3_THINKING),
    "r1": r1,
    "llama3": lambda: chats.byte_level(chats.LLAMA3, **chats.LLAMA3_TOKENS),
    "llama2": lambda: chats.sentencepiece(chats.LLAMA2, prefix=True, **chats.LLAMA_TOKENS),
    "mistral": lambda: chats.sentencepiece(chats.MISTRAL, prefix=True, **chats.LLAMA_TOKENS),
    "gemma": lambda: chats.sentencepiece(chats.GEMMA, prefix=False, **chats.GEMMA_TOKENS),
    "unigram": lambda: chats.unigram(chats.MISTRAL, **chats.LLAMA_TOKENS),
    "plain, bytes": lambda: chats.byte_level(read_template("plain"), **chats.CHATML_TOKENS),
    "plain, prefix": lambda: chats.sentencepiece(
        read_template("plain"), prefix=True, **chats.LLAMA_TOKENS
    ),
    "plain, gemma": lambda: chats.sentencepiece(read_template("plain"), prefix=False, **chats.GEMMA_TOKENS),
}  # fmt: skip


def format_of(tokenizer: PreTrainedTokenizerFast, *ends: str) -> ChatFormat:
    return ChatFormat(tokenizer, [tokenizer.eos_token_id, *map(tokenizer.convert_tokens_to_ids, ends)])


def tokens(chat: ChatFormat, answer: Answer) -> list[str]:
    return chat.pieces(answer.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_those_of_a_chat_request(kind: str) -> None:
    tokenizer = KINDS[kind]()
    chat = format_of(tokenizer)
    for messages in (user("Who sings?"), irag_messages("Who sings?", TEXT)):
        content: Any = messages[0]["content"]
        if kind == "content in parts":
            content = [{"type": "text", "text": content}]
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
        )
        assert chat.prompt(messages) == chat.asked(messages).ids == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_starts_where_its_content_does(kind: str) -> None:
    """Behind all that the template writes before it; also where what was said before looks like one."""
    chat = format_of(KINDS[kind]())
    said: Any = {"role": "assistant", "content": "User: <|im_start|>user\n[INST] Who sings?"}
    for earlier in ([], [*user("Who sings?"), said]):
        for question in ("Who sings?", "9 nights", "  red kettle"):
            ids, start = chat.asked([*earlier, *user(question)])
            assert chat.tokenizer.decode(ids[start:]).lstrip().startswith(question.split()[0])
            again = chat.asked([*earlier, *user("Nine geese count copper at dawn.")])
            least = min(start, again.start)  # a space that is one token with the first word is the question's
            assert again.ids[:least] == ids[:least]
            assert abs(start - again.start) <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [TEXT, "9 nights", "(for copper)", "Kœnig ½ 水\n\tat dawn"])
def test_answers_read_back_as_their_text(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    chat = format_of(tokenizer)
    if kind == "unigram":  # knows no bytes, nor line ends
        text = "The red kettle sings at dawn."
    ids, opening = chat.answer(text)
    assert ids[-1] == tokenizer.eos_token_id
    read = tokenizer.decode(ids[opening:-1])
    assert read.removeprefix(" ") == text if kind.startswith("plain") else read == text
    # Behind a real prompt it reads so too: nothing is lost or added between them.
    prompt = chat.prompt(user("Who sings?"))
    behind = tokenizer.decode(prompt + ids[:-1])[len(tokenizer.decode(prompt)) :]
    assert behind.strip() == (tokenizer.decode(ids[:opening]) + text).strip()


@pytest.mark.parametrize(
    ("tokenizer", "opening"),
    [
        (qwen3, ["<think>", "\n\n", "</think>", "\n\n"]),
        # The prompt ends with "<think>\n": a token of its own, although "\n\n" is one as well.
        (KINDS["qwen3 thinking"], ["\n", "</think>", "\n\n"]),
        (r1, ["</think>", "\n\n"]),
        (KINDS["chatml"], []),
        (KINDS["llama3"], []),
        (KINDS["llama2"], []),
    ],
)
def test_what_opens_an_answer_is_known_apart(tokenizer: Any, opening: list[str]) -> None:
    chat = format_of(tokenizer())
    answer = chat.answer("The red kettle")
    assert answer.opening == len(opening)
    assert tokens(chat, answer)[: len(opening)] == opening
    assert tokens(chat, answer)[len(opening)] == "The"


def test_tags_that_the_template_closes_in_earlier_answers() -> None:
    """GLM asks with '<think>' and writes '</think>' before answers without reasoning."""
    template = chats.R1.replace("'<|Assistant|>' + m", "'<|Assistant|></think>' + m").replace(
        "<think>\\n", "<think>"
    )
    tokenizer = chats.byte_level(template, "<think>", "</think>", **chats.R1_TOKENS)
    chat = format_of(tokenizer)
    assert tokens(chat, chat.answer("The red kettle"))[:2] == ["</think>", "The"]


def test_think_blocks_that_the_prompt_has_closed_are_not_opened_again() -> None:
    template = chats.CHATML.replace(
        "assistant\\n' }}{% endif", "assistant\\n<think>\\n\\n</think>\\n\\n' }}{% endif"
    )
    chat = format_of(qwen3(template))
    assert chat.answer("The red kettle").opening == 0
    assert chat.pieces(chat.prompt(user("Who?")))[-2:] == ["</think>", "\n\n"]


def test_tokens_at_the_seam_are_those_of_the_prompt() -> None:
    """Written in one go, 'Assistant: ' and 'The' share a token that the model is not prompted with."""
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    for tokenizer in (
        chats.byte_level(template, **chats.CHATML_TOKENS),
        chats.sentencepiece(template, prefix=True, **chats.LLAMA_TOKENS),
    ):
        chat = format_of(tokenizer)
        prompt, answer = chat.prompt(user("Who sings?")), chat.answer("red kettle")
        assert tokenizer.decode([*prompt, *answer.ids[:-1]]).endswith("assistant: red kettle")
        assert answer.opening == 0


def test_the_end_is_the_one_that_the_template_writes_and_vllm_stops_at() -> None:
    gemma = KINDS["gemma"]()
    turn = gemma.convert_tokens_to_ids("<end_of_turn>")
    assert format_of(gemma, "<end_of_turn>").answer("A").ids[-1] == turn
    assert format_of(gemma).answer("A").ids[-1] == gemma.eos_token_id, "vLLM would go on after the turn"


def test_where_the_template_has_no_end_it_is_that_of_the_tokenizer() -> None:
    tokenizer = chats.byte_level(chats.CHATML.replace("<|im_end|>", "--"), **chats.CHATML_TOKENS)
    assert format_of(tokenizer).answer("A lamp").ids[-1] == tokenizer.eos_token_id


def test_what_follows_the_end_is_left_out() -> None:
    tokenizer = chats.byte_level(
        chats.CHATML.replace("<|im_end|>", "<|im_end|> at dawn"), **chats.CHATML_TOKENS
    )
    assert tokenizer.decode(format_of(tokenizer).answer("A lamp").ids) == "A lamp<|im_end|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template: give --chat-template plain .*, or --chat-template FILE"),
        ("{{ messages[-1].content }}", "does not write what is asked and answered"),
        ("{{ bos_token }}", "does not write what is asked and answered"),
        (
            chats.CHATML + "{{ raise_exception('Only tools\nhere') }}",
            r"refuses a question \(Only tools here\)",
        ),
        ("{% for m in messages %}", r"refuses a question \("),
        (
            chats.CHATML.replace(
                "m.role +", "m.role + (raise_exception('No model') if loop.index0 else '') +"
            ),
            r"refuses a question and its answer \(No model\)",
        ),
        (
            chats.CHATML.replace("'<|im_start|>assistant\\n'", "'Now:'"),
            "changes the prompt when an answer follows",
        ),
    ],
)
def test_templates_that_cannot_be_trained_with(template: str | None, reason: str) -> None:
    tokenizer = chats.byte_level(template, **chats.CHATML_TOKENS)
    with pytest.raises(ModelError, match=reason) as error:
        format_of(tokenizer)
    assert "\n" not in str(error.value)
    assert "--chat-template" in str(error.value)


def test_a_template_that_refuses_system_prompts_is_right_for_users() -> None:
    chat = format_of(KINDS["gemma"]())
    assert chat.pieces(chat.prompt(user(" Who? ")))[0] == "<bos>"
    with pytest.raises(ModelError, match="System role not supported"):
        chat.prompt([{"role": "system", "content": "Be brief."}, *user("Who?")])


@pytest.mark.parametrize("kind", ["chatml", "llama2", "gemma"])
def test_text_that_spells_a_control_token_is_unfit(kind: str) -> None:
    tokenizer = KINDS[kind]()
    chat = format_of(tokenizer)
    text = f"End every turn with {tokenizer.eos_token} and ring."
    for why in (chat.unfit_text(text), chat.unfit_prompt(text)):
        assert why is not None
        assert why.startswith(
            f"has {tokenizer.eos_token!r}, a control token of the model: write it otherwise"
        )
    with pytest.raises(TrainingError, match=r"'End every turn with .* cannot be trained: it has"):
        chat.answer(text)
    spaced = " ".join(tokenizer.eos_token)
    assert chat.unfit_text(f"End every turn with {spaced} and ring.") is None


def test_tokens_that_end_an_answer_may_be_asked_with() -> None:
    chat = format_of(KINDS["chatml"](), "ĊĊ")
    assert chat.unfit_prompt(TEXT.replace(".", "")) is None
    why = chat.unfit_text(TEXT.replace(".", ""))
    assert why is not None
    assert why.startswith("has 'ĊĊ', a control token"), "vLLM would stop there"


def test_added_tokens_that_are_shown_are_text() -> None:
    chat = format_of(qwen3())
    text = "Close with </think> and ring."
    ids, opening = chat.answer(text)
    assert chat.tokenizer.decode(ids[opening:-1], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A \ud83d lamp", "half of a character"),
        ("An <unk> lamp", "has '<unk>', a control token"),
        ("A lamp for 水.", "becomes 'amp for <unk>.' for 'amp for 水.'"),
    ],
)
def test_text_that_the_tokenizer_cannot_say_is_unfit(text: str, reason: str) -> None:
    why = format_of(KINDS["unigram"]()).unfit_text(text)
    assert why is not None
    assert reason in why


def test_other_characters_are_unfit_but_other_writings_of_the_same_are_not() -> None:
    from tokenizers import normalizers

    tokenizer = KINDS["chatml"]()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.NFC()
    assert format_of(tokenizer).unfit_text("Cafe\u0301") is None
    backend.normalizer = normalizers.NFKC()
    why = format_of(tokenizer).unfit_text("A ½ lamp")
    assert why is not None
    assert "becomes 'A 1\u20442 lamp' for 'A ½ lamp'" in why


def test_a_given_template_replaces_the_own_one() -> None:
    tokenizer = KINDS["llama3"]()
    end = [tokenizer.eos_token_id]
    plain = ChatFormat(tokenizer, end, read_template("plain"))
    assert plain.template == read_template("plain")
    assert tokenizer.decode(plain.prompt(user("Who?"))) == "<|begin_of_text|>User: Who?\nAssistant:"
    assert ChatFormat(tokenizer, end, tokenizer.chat_template).template == ""


def test_plain_has_turns_for_all_three_roles_and_no_others() -> None:
    talk = [
        {"role": "system", "content": "Be brief. "},
        {"role": "user", "content": " Who sings?"},
        {"role": "assistant", "content": "A kettle.\n"},
        {"role": "user", "content": "When?"},
    ]
    tokenizer = chats.sentencepiece(read_template("plain"), prefix=True, **chats.LLAMA_TOKENS)
    written = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    assert written == ("<s>Be brief.\n\nUser: Who sings?\nAssistant: A kettle.</s>\nUser: When?\nAssistant:")
    without = chats.byte_level(read_template("plain"))
    assert (
        without.apply_chat_template(talk[1:3], tokenize=False) == "User: Who sings?\nAssistant: A kettle.\n"
    )
    with pytest.raises(Exception, match="has the roles system, user and assistant"):
        without.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_templates_are_named_as_plain_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(chats.CHATML)
    assert read_template(str(file)) == chats.CHATML
    names = [template_name(text) for text in ("", read_template("plain"), chats.CHATML)]
    assert names == ["the model's own", "plain", f"the one that begins {chats.CHATML[:40]!r}"]
    file.write_text("\n")
    with pytest.raises(ConfigError, match="expected a Jinja template, found an empty file"):
        read_template(str(file))
    with pytest.raises(ConfigError, match="--chat-template takes plain or a Jinja file, got nowhere"):
        read_template("nowhere")


def test_a_checkpoint_names_its_end_tokens(tmp_path: Path) -> None:
    tokenizer = KINDS["gemma"]()
    tokenizer.save_pretrained(tmp_path)
    eos, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": eos}))
    assert load_chat_format(tmp_path).end_ids == [eos]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [turn, eos]}))
    chat = load_chat_format(tmp_path)
    assert (chat.end_ids, chat.end_id) == ([eos, turn], turn)


def test_a_checkpoint_without_an_end_token(tmp_path: Path) -> None:
    chats.byte_level(chats.LLAMA3.replace("{{ bos_token }}", "")).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="names an end token: set eos_token_id"):
        load_chat_format(tmp_path)
