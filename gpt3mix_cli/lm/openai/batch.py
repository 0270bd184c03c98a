"""Sends the calls of an output as a provider's batch, which is cheaper and takes hours.

No call is paid twice. The file's id is in the journal before its batch is created, and the batch's
id after that. A run that finds a file without a batch looks for it among the provider's batches,
and uploads again only if there is none. What remains is the moment in which the provider has
accepted a batch that it does not list yet. Files cost nothing.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import StoppedShort, UserError
from ...settings import OpenAISettings
from ..journal import AnswerRow, Batch, Journal, SpendingRow
from .answers import parse_json, parse_texts, parse_usage
from .budget import BudgetTracker
from .dispatcher import HttpDispatcher
from .http_errors import HttpError, InvalidResponse
from .requests import Call
from .responses import Usage

if TYPE_CHECKING:
    import openai
    from openai.types import Batch as ProviderBatch

KEYS_PER_COMMIT = 1000  # and per look-up
MAX_RETRIES, REQUEST_TIMEOUT_S = 5, 600.0  # of uploads and downloads, whose files are large
ENDED_STATUSES = ("completed", "expired", "cancelled")
QUEUE_FULL = "token_limit_exceeded"  # the error of a batch that must wait for other batches
COLLECT_HINT = "run the same command again later: it collects the answers; nothing is sent twice"
CANCEL_HINT = "or cancel it at the provider: missing answers are then requested directly"
NO_BATCHES_HINT = "the server has no batches: omit lm.batch"
REFUSED_HINT = (
    "use the key of the project that submitted the batch; or omit lm.batch: "
    "missing answers are then requested directly"
)
MAX_LINES, MAX_BYTES = 50_000, 200_000_000  # the provider's limits of one file
KeyedCall = tuple[str, Call, bytes]  # key, call and line of a file
Result = TypeVar("Result")


class _BatchGone(Exception):
    """The provider does not have a file or a batch, or no longer."""


class BatchRunner:
    """The batches of one output. Its methods run in the endpoint's event loop.

    Args:
        settings: of the endpoint.
        dispatcher: has the SDK's client and knows what errors mean.
        budget: records what batches cost.
        journal: of the output.
        key: returns the journal key of a call.
        count_tokens: returns the number of tokens of a text, possibly an estimate.
    """

    def __init__(
        self,
        settings: OpenAISettings,
        dispatcher: HttpDispatcher,
        budget: BudgetTracker,
        journal: Journal,
        key: Callable[[Call], str],
        count_tokens: Callable[[str], int],
    ) -> None:
        self._settings, self._dispatcher, self._budget = settings, dispatcher, budget
        self._journal, self._key, self._count_tokens = journal, key, count_tokens

    async def run(self, calls: Iterable[Call]) -> None:
        """Collect the answers of batches that have ended, and submit calls that are in no batch.

        When this returns, answers that are still missing are to be requested directly. If
        `lm.batch` is now off, batches in progress are still waited for, because they are paid.

        Raises:
            StoppedShort: while answers are to be waited for.
            UserError: if the provider has no batches, or rejected this one.
        """
        calls_by_key = {self._key(call): call for call in calls}
        in_progress = await self._collect_ended(calls_by_key)
        missing = self._without_answer(list(calls_by_key))
        own_batches = self._journal.batches()
        elsewhere = _open_keys(self._journal.sibling_batches())
        if self._settings.batch:
            submitted = elsewhere.union(*(batch.keys for batch in own_batches))
            new = [(key, calls_by_key[key]) for key in missing if key not in submitted]
            batches = [await self._submit_file(file) for file in split_into_files(new)]
            if batches:
                message = f"submitted {len(new)} requests: {', '.join(batches)}"
                raise StoppedShort(f"{message}; the provider takes up to a day", COLLECT_HINT)
        if not _open_keys(own_batches).isdisjoint(missing):
            hint = COLLECT_HINT if self._settings.batch else f"{COLLECT_HINT}; {CANCEL_HINT}"
            raise StoppedShort("; ".join(in_progress), hint)
        if not elsewhere.isdisjoint(missing):
            raise StoppedShort("waiting for a batch of another variant of this sweep", COLLECT_HINT)

    def _without_answer(self, keys: Sequence[str]) -> list[str]:
        missing: list[str] = []
        for start in range(0, len(keys), KEYS_PER_COMMIT):
            part = keys[start : start + KEYS_PER_COMMIT]
            answered = self._journal.lookup(part)
            missing += [key for key in part if key not in answered]
        return missing

    # Submitting ------------------------------------------------------------------------------

    async def _submit_file(self, lines: Sequence[KeyedCall]) -> str:
        calls = [call for _, call, _ in lines]
        limit = Usage(
            sum(self._count_tokens(_prompt_text(call)) for call in calls),
            sum(call.max_completion_tokens for call in calls),
        )
        usd = self._budget.cost(limit, batch=True)
        self._budget.reserve_batch(len(lines), limit, usd)
        name, content = f"gpt3mix-{lines[0][0][:16]}.jsonl", b"".join(line for _, _, line in lines)
        file = await self._request(
            lambda client: client.files.create(file=(name, content), purpose="batch")
        )
        batch = Batch(file.id, "", tuple(key for key, _, _ in lines))
        self._journal.store_batch(batch, (file.id, len(lines), limit.prompt, limit.completion, usd))
        endpoint: Any = f"/v1{calls[0].path}"
        # Not retried: if the answer is lost, the next run finds the batch at the provider.
        created = await self._request(
            lambda client: client.batches.create(
                input_file_id=file.id,
                endpoint=endpoint,
                completion_window="24h",
                metadata={"made_by": "gpt3mix"},
            ),
            max_retries=0,
        )
        self._journal.store_batch(replace(batch, batch=created.id))
        return f"batch {created.id} ({endpoint})"

    # Collecting ------------------------------------------------------------------------------

    async def _collect_ended(self, calls_by_key: Mapping[str, Call]) -> list[str]:
        progress: list[str] = []
        for batch in self._journal.batches():
            if batch.ended:
                continue
            try:
                state = await self._retrieve(batch)
                if state and state.status in ENDED_STATUSES:
                    await self._collect(replace(batch, batch=state.id), state, calls_by_key)
                    continue
            except _BatchGone:
                state = None
            if state is None or state.status == "failed":
                self._journal.delete_batch(batch)
                self._budget.reload()
            if state:
                progress.append(self._progress(state))
        return progress

    async def _retrieve(self, batch: Batch) -> "ProviderBatch | None":
        if batch.batch:
            return await self._request(lambda client: client.batches.retrieve(batch.batch))
        state = await self._request(partial(_find_batch, batch.file))
        if state:
            self._journal.store_batch(replace(batch, batch=state.id))
        return state

    async def _collect(
        self, batch: Batch, state: "ProviderBatch", calls_by_key: Mapping[str, Call]
    ) -> None:
        new = set(self._without_answer(batch.keys))
        for file in filter(None, (state.output_file_id, state.error_file_id)):
            text = await self._request(partial(_download, file))
            answers = [
                answer
                for line in text.split("\n")
                if (answer := parse_output_line(line))
                and answer[0] in new
                and not self._dispatcher.holds_secret(line)
            ]
            for start in range(0, len(answers), KEYS_PER_COMMIT):
                self._store(answers[start : start + KEYS_PER_COMMIT], batch, calls_by_key)
        self._journal.store_batch(replace(batch, ended=True))
        self._budget.reload()

    def _store(
        self,
        answers: Sequence[tuple[str, dict[str, Any]]],
        batch: Batch,
        calls_by_key: Mapping[str, Call],
    ) -> None:
        rows: list[AnswerRow] = []
        spent: list[SpendingRow] = []
        for key, value in answers:
            call = calls_by_key.get(key)
            usage = parse_usage(value, partial(self._own_count, call, value))
            request = {"path": call.path, **call.body} if call else {"batch": batch.batch}
            number = int(call.number.partition(".")[0]) if call else None
            answer = json.dumps({**value, "batch": True}, ensure_ascii=False)
            rows.append((key, number, json.dumps(request, ensure_ascii=False), answer))
            usd = self._budget.cost(usage, batch=True)
            spent.append((key, 1, usage.prompt, usage.completion, usd))
        self._journal.store(rows, spent)

    def _own_count(self, call: Call | None, answer: Mapping[str, Any]) -> tuple[int, int]:
        """Return prompt and completion tokens of an answer that does not report them."""
        texts = [text.generated for text in parse_texts(answer)]
        prompt = call.count_tokens(self._count_tokens) if call else 0
        return prompt, sum(map(self._count_tokens, texts))

    # The provider ----------------------------------------------------------------------------

    def _progress(self, state: "ProviderBatch") -> str:
        if state.status != "failed":
            text, counts = f"batch {state.id} is {state.status}", state.request_counts
            if counts and counts.total:
                text += f": {counts.completed} of {counts.total} answered, {counts.failed} failed"
            return text
        errors = (state.errors.data if state.errors else None) or []
        shown = "; ".join(
            f"line {error.line}: {error.message}" if error.line else str(error.message)
            for error in errors[:3]
        )
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        message = self._dispatcher.redact_secrets(
            f"batch {state.id} was rejected: {shown or 'no message'}{more}"
        )
        if any(error.code == QUEUE_FULL for error in errors):
            raise StoppedShort(
                message, "run the same command again once other batches have ended: it resubmits"
            )
        raise UserError(
            f"lm {self._settings.model}: {message}",
            "see the provider's message; no request was sent, and the next run submits a new batch",
        )

    async def _request(
        self,
        send: "Callable[[openai.AsyncOpenAI], Awaitable[Result]]",
        max_retries: int = MAX_RETRIES,
    ) -> Result:
        """Return what the SDK's client returns.

        Raises:
            StoppedShort: if the provider cannot be reached.
            UserError: if it refuses.
            _BatchGone: if it lacks the file or batch, and `lm.batch` is now off.
        """
        import openai

        client, url = self._dispatcher.client, self._settings.urls[0]
        try:
            return await send(
                client.with_options(max_retries=max_retries, timeout=REQUEST_TIMEOUT_S)
            )
        except openai.APIStatusError as error:
            try:
                self._dispatcher.raise_for(error)
            except HttpError as refusal:
                if refusal.status == 404 and not self._settings.batch:
                    raise _BatchGone from None
                message = f"lm.batch: {url}: HTTP {refusal.status}: {refusal.message}"
                unsupported = refusal.status in (404, 405) and "/files" in refusal.message
                hint = NO_BATCHES_HINT if unsupported else REFUSED_HINT
                raise UserError(message, hint) from None
        except openai.OpenAIError as error:
            reason = self._dispatcher.redact_secrets(str(error.__cause__ or error))
            raise StoppedShort(f"lm.batch: {url}: no answer: {reason}", COLLECT_HINT) from None


def _open_keys(batches: Iterable[Batch]) -> set[str]:
    return {key for batch in batches if not batch.ended for key in batch.keys}


async def _find_batch(file: str, client: "openai.AsyncOpenAI") -> "ProviderBatch | None":
    # All of them are searched, because their order is not documented.
    async for listed in client.batches.list(limit=100):
        if listed.input_file_id == file:
            return listed
    return None


async def _download(file: str, client: "openai.AsyncOpenAI") -> str:
    return (await client.files.content(file)).content.decode(errors="replace")


# Files -------------------------------------------------------------------------------------------


def split_into_files(
    calls: Iterable[tuple[str, Call]], max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES
) -> Iterator[list[KeyedCall]]:
    """Yield the keys, calls and lines of files within the limits; a key is a line's custom id."""
    file: list[KeyedCall] = []
    size = 0
    for key, call in calls:
        request = {
            "custom_id": key,
            "method": "POST",
            "url": f"/v1{call.path}",
            "body": call.body,
        }
        line = json.dumps(request).encode() + b"\n"
        if file and (len(file) == max_lines or size + len(line) > max_bytes):
            yield file
            file, size = [], 0
        file.append((key, call, line))
        size += len(line)
    if file:
        yield file


def parse_output_line(line: str) -> tuple[str, dict[str, Any]] | None:
    """Return the custom id and the answer in a line of an output file; None if it has no answer."""
    try:
        value = parse_json(line)
        answer = value["response"]["body"]
        if value["response"]["status_code"] != 200 or not isinstance(answer, dict):
            return None
        parse_texts(answer)
        return str(value["custom_id"]), answer
    except (InvalidResponse, HttpError, KeyError, TypeError):
        return None


def _prompt_text(call: Call) -> str:
    messages = call.body.get("messages") or [{"content": call.body["prompt"]}]
    return "\n".join(message["content"] for message in messages)
