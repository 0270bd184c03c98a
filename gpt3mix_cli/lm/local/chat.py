"""The chat template of an instruction-tuned LM: `lm.prompt`.

The instruction is the system message, as at endpoints. The prompt without its last line is the
user's message. The last line (`Movie review:`) begins the assistant's answer, so the LM continues
it with the text and the label, in the same form as without a template.
"""

from typing import Any

from ...errors import UserError, first_line
from ...settings import LocalLMSettings
from ..port import GENERATION_INSTRUCTION

PROBE = "Text: A first try."
# Some templates insert the date of today, but equal prompts must be equal on every day.
FIXED_DATE = "{% macro strftime_now(format) %}1 January 2025{% endmacro %}"


class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: of the transformers library.
        model: its name, for messages.

    Raises:
        UserError: if the tokenizer has no template, or one that does not work.
    """

    def __init__(self, tokenizer: Any, model: str) -> None:
        self._tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise UserError(
                f"lm.prompt: chat: lm.model {model} has no chat template",
                "use lm.prompt: completion, or an instruction-tuned model",
            )
        reason = ""
        for has_system_role in (True, False):
            self._has_system_role = has_system_role
            try:
                chat = self._render(PROBE)
            except Exception as error:  # the template is code of the model's author
                reason = first_line(error)
                continue
            # Some templates ignore roles that they do not know.
            if GENERATION_INSTRUCTION in chat and PROBE in chat:
                return
            reason = "it leaves out a message"
        raise UserError(
            f"lm.prompt: chat: the chat template of lm.model {model} cannot be used: {reason}",
            "use lm.prompt: completion, or another model",
        )

    def render(self, prompt: str) -> str:
        """Return the chat whose last message, the assistant's, begins with the last line."""
        user, _, answer = prompt.rpartition("\n")
        return self._render(user) + answer

    def _render(self, user: str) -> str:
        system = [{"role": "system", "content": GENERATION_INSTRUCTION}]
        if not self._has_system_role:
            system, user = [], f"{GENERATION_INSTRUCTION}\n\n{user}"
        chat: str = self._tokenizer.apply_chat_template(
            [*system, {"role": "user", "content": user}],
            chat_template=FIXED_DATE + self._tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return chat


def open_chat_template(tokenizer: Any, settings: LocalLMSettings) -> ChatTemplate | None:
    """Return the chat template that prompts are wrapped in; None for completions.

    Raises:
        UserError: see `ChatTemplate`.
    """
    # `auto` is completion: as a chat SmolLM2 copies its examples more (results/LOG.md).
    return ChatTemplate(tokenizer, settings.model) if settings.prompt == "chat" else None
