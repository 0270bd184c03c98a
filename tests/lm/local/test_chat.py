"""Chat templates: prompts of instruction-tuned models, against the library's own chats."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    CHOICES,
    HEADER,
    LABEL_PREFIX,
    OPEN_PROMPTS,
    added,
    answers,
    plain,
    plain_logits,
    request,
)
from transformers import AutoTokenizer

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.lm.local import prompt_reader
from gpt3mix_cli.lm.local.chat import ChatTemplate
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.lm.local.tokenization import PromptTokenizer
from gpt3mix_cli.lm.port import GENERATION_INSTRUCTION
from gpt3mix_cli.settings import LocalLMSettings

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}\n{{ message.content }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
)
REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + TEMPLATE
)
IGNORES_SYSTEM = TEMPLATE.replace("messages %}", "messages if message.role != 'system' %}")
# Prompts whose labels are scored; a block of them shares instruction and header.
LABEL_PROMPTS = [
    f"{HEADER}Movie review: A gorgeous, witty film. (Sentiment: Positive)\n"
    f"Movie review: {text}{LABEL_PREFIX}"
    for text in ("so bad", "It 's a mess and it knows it", "Café, naïve – 映画", "fine !")
] + ["Movie review: fine (Sentiment:"]


@pytest.fixture(params=["llama-bytes", "llama-pieces"])
def chat_folder(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model without and one with a token before each text, which the template writes itself."""
    return with_template(folders[request.param], tmp_path / "chat")


def with_template(folder: Path, to: Path, template: str = TEMPLATE) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).hardlink_to(path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (to / "tokenizer_config.json").unlink()
    tokenizer.chat_template = template.replace("{{ bos_token }}", tokenizer.bos_token or "")
    tokenizer.save_pretrained(to)
    return to


def local(folder: Path, prompt: str = "chat") -> LocalLM:
    return LocalLM(
        LocalLMSettings.model_validate(
            {"kind": "local", "model": str(folder), "dtype": "float32", "device": "cpu"}
            | {"batch_size": 4, "prompt": prompt}
        )
    )


def chat_tokens(tokenizer: Any, prompt: str, continuation: str = "") -> list[int]:
    """The tokens by the library's own way to continue an assistant's message."""
    user, _, answer = prompt.rpartition("\n")
    messages = [
        {"role": "system", "content": GENERATION_INSTRUCTION},
        {"role": "user", "content": user},
        {"role": "assistant", "content": answer + continuation},
    ]
    return tokenizer.apply_chat_template(messages, continue_final_message=True, return_dict=False)


def chat_score(model: Any, tokenizer: Any, prompt: str, choice: str) -> float:
    before, whole = chat_tokens(tokenizer, prompt), chat_tokens(tokenizer, prompt, choice)
    assert whole[: len(before)] == before
    logprobs = plain_logits(model, whole).log_softmax(-1)
    return sum(float(logprobs[i - 1, whole[i]]) for i in range(len(before), len(whole)))


# Prompts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [*OPEN_PROMPTS, *LABEL_PROMPTS])
def test_a_prompt_is_the_librarys_chat_with_the_last_line_in_the_answer(
    chat_folder: Path, prompt: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    tokens = PromptTokenizer(tokenizer, "m", ChatTemplate(tokenizer, "m")).encode(prompt)
    assert tokens == chat_tokens(tokenizer, prompt)
    assert tokens.count(tokenizer.bos_token_id) == int(tokenizer.bos_token_id is not None)


def test_an_empty_think_block_comes_before_the_answer(tiny_lm: Path, tmp_path: Path) -> None:
    """A reasoning model's template adds it where `enable_thinking` is false."""
    thinks = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    folder = with_template(tiny_lm, tmp_path / "chat", TEMPLATE + thinks)
    chat = ChatTemplate(AutoTokenizer.from_pretrained(folder), "m").render(OPEN_PROMPTS[0])
    assert chat.endswith("assistant\n<think>\n\n</think>\n\nMovie review:")


def test_a_template_that_inserts_the_date_gives_the_same_prompt_every_day(
    tiny_lm: Path, tmp_path: Path
) -> None:
    dated = "Today is {{ strftime_now('%d %b %Y') }}\n" + TEMPLATE
    folder = with_template(tiny_lm, tmp_path / "chat", dated)
    chat = ChatTemplate(AutoTokenizer.from_pretrained(folder), "m").render("Text:")
    assert chat.startswith("Today is 1 January 2025\n")


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, IGNORES_SYSTEM])
def test_without_a_system_role_the_instruction_begins_the_users_message(
    tiny_lm: Path, tmp_path: Path, template: str
) -> None:
    folder = with_template(tiny_lm, tmp_path / "chat", template)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = ChatTemplate(tokenizer, "m").render("A list\n\nText: a\nText:")
    user = f"{GENERATION_INSTRUCTION}\n\nA list\n\nText: a"
    assert chat == f"user\n{user}<end>\nassistant\nText:"
    scores = local(folder).score(LABEL_PROMPTS, CHOICES)
    assert len({score.logprobs for score in scores}) == len(LABEL_PROMPTS)


# Answers ------------------------------------------------------------------------------------------


def test_scores_equal_a_reference_pass(chat_folder: Path) -> None:
    model, tokenizer = plain(chat_folder)
    results = local(chat_folder).score(LABEL_PROMPTS, CHOICES)
    for prompt, scores in zip(LABEL_PROMPTS, results, strict=True):
        expected = [chat_score(model, tokenizer, prompt, choice) for choice in CHOICES]
        assert scores.logprobs == pytest.approx(expected, abs=1e-4)


def test_greedy_text_equals_generate(chat_folder: Path) -> None:
    model, tokenizer = plain(chat_folder)
    requests = [
        request(i, prompt=prompt, max_tokens=20, temperature=0)
        for i, prompt in enumerate(OPEN_PROMPTS)
    ]
    for prompt, completion in zip(OPEN_PROMPTS, answers(local(chat_folder), requests), strict=True):
        ids = torch.tensor([chat_tokens(tokenizer, prompt)])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20,
                pad_token_id=0,
            )  # fmt: skip
        text = added(tokenizer, ids[0].tolist(), out[0, ids.shape[1] :].tolist())
        assert completion.text == text.split("\n")[0]
        assert completion.prompt_tokens == ids.shape[1]


def test_labels_of_generated_texts_equal_a_reference_pass(tiny_lm: Path, tmp_path: Path) -> None:
    folder = with_template(tiny_lm, tmp_path / "chat")
    model, tokenizer = plain(folder)
    sent = [
        request(
            i, prompt=OPEN_PROMPTS[i % 2], max_tokens=40, label_prefix=LABEL_PREFIX, choices=CHOICES
        )
        for i in range(12)
    ]
    scored = 0
    for asked, completion in zip(sent, answers(local(folder), sent), strict=True):
        if completion.scores:
            context = f"{asked.prompt}{completion.text}{LABEL_PREFIX}"
            expected = [chat_score(model, tokenizer, context, choice) for choice in CHOICES]
            assert completion.scores.logprobs == pytest.approx(expected, abs=1e-4)
            scored += 1
    assert scored


def test_what_prompts_share_is_read_once(
    chat_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instruction and header are the beginning of every chat."""
    monkeypatch.setattr(prompt_reader, "MIN_FLOPS_SAVED", 0)
    monkeypatch.setattr(prompt_reader, "CPU_PREFILL_TOKENS", 1)  # no padding
    lm = local(chat_folder)
    model = type(lm._decoder.model)
    forward, read = model.forward, []

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        read.append(options["input_ids"].numel())
        return forward(self, *args, **options)

    monkeypatch.setattr(model, "forward", counted)
    prompts = LABEL_PROMPTS[:4]
    lm.score(prompts, CHOICES)
    shared = lm.info.count_tokens(f"{HEADER.strip()}\n") - 10
    assert sum(read) < sum(map(lm.info.count_tokens, prompts)) - shared


# Settings -----------------------------------------------------------------------------------------


def test_chats_have_a_fingerprint_of_their_own(tiny_lm: Path, tmp_path: Path) -> None:
    """It depends on the template; completions do not."""
    folder = with_template(tiny_lm, tmp_path / "a")
    other = with_template(tiny_lm, tmp_path / "b", TEMPLATE.replace("assistant", "model"))
    completion, chat = local(folder, "completion"), local(folder)
    assert local(folder, "auto").info.fingerprint == completion.info.fingerprint
    fingerprints = {completion.info.fingerprint, chat.info.fingerprint}
    assert len(fingerprints | {local(other).info.fingerprint}) == 3
    # Of an empty prompt, its chat has the same tokens.
    edit = "{% if messages[-1].content %} {% endif %}"
    edited = local(with_template(tiny_lm, tmp_path / "c", TEMPLATE + edit))
    assert edited.info.count_tokens("") == chat.info.count_tokens("")
    assert edited.info.fingerprint != chat.info.fingerprint
    assert "chat prompts" in chat.info.details
    assert "chat prompts" in chat.describe()
    assert "prompts" not in completion.info.details
    assert "completion prompts" in completion.describe()


def test_the_templates_tokens_count(chat_folder: Path) -> None:
    chat, completion = local(chat_folder).info, local(chat_folder, "completion").info
    added = chat.count_tokens(OPEN_PROMPTS[0]) - completion.count_tokens(OPEN_PROMPTS[0])
    assert added > 30
    assert chat.count_tokens("") == pytest.approx(added, abs=4)
    assert chat.context_length == completion.context_length


def test_a_model_without_a_template_is_refused(tiny_lm: Path) -> None:
    with pytest.raises(UserError, match=r"lm\.prompt: chat: .*no chat template"):
        local(tiny_lm)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for message in messages %}", "Unexpected end of template"),
        ("{{ missing.content }}", "'missing' is undefined"),
        ("{{ raise_exception('no chats here') }}", "no chats here"),
        ("{{ messages[0].role }}:", "leaves out a message"),
    ],
)
def test_a_broken_template_is_refused(
    tiny_lm: Path, tmp_path: Path, template: str, reason: str
) -> None:
    folder = with_template(tiny_lm, tmp_path / "chat", template)
    local(folder, "completion")
    with pytest.raises(UserError, match=rf"lm\.prompt: chat: .*{reason}"):
        local(folder)
