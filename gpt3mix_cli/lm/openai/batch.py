"""A provider's batches: an output's lines go out in one file, which is cheaper, and are collected hours later.

No call is paid twice. The file's name is in the journal before its batch is made, and the batch's own name after that: a
run that finds a file without a batch looks for it among the provider's batches, and only where there is none uploads anew.
What remains is the moment in which the provider has taken a batch that it does not list yet. Files cost nothing.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import StoppedShort, UserError
from ...settings import OpenAISettings
from ..journal import AnswerRow, Batch, Journal, SpendingRow
from .budget import BudgetTracker
from .dispatcher import HttpDispatcher, Refused
from .protocol import BadAnswer, Call, Usage, texts, usage

if TYPE_CHECKING:
    import openai
    from openai.types import Batch as Told

LINES, BYTES = 50_000, 200_000_000  # of one file, at most
TOGETHER = 1000  # answers in a commit
TRIES, PATIENCE = 5, 600.0  # repeats of what may be repeated, and seconds for each: a file is large
ENDED = ("completed", "expired", "cancelled")
TOO_MANY = "token_limit_exceeded"  # the code of a batch that was refused because others are still under way
GONE = 404  # HTTP's
AGAIN = "run the same command again later: it collects what is done; nothing is asked for twice"
OR_CANCEL = "or cancel it at the provider: what is missing is then asked for directly"
Given = TypeVar("Given")


class _Gone(Exception):
    """The provider does not have it, or no longer."""


class Batches:
    """The batches of one output; its methods are called in the endpoint's event loop."""

    def __init__(
        self,
        settings: OpenAISettings,
        traffic: HttpDispatcher,
        purse: BudgetTracker,
        journal: Journal,
        key: Callable[[Call], str],
        count: Callable[[str], int],
    ):
        """Keep where to ask and where to keep.

        Args:
            settings: of the endpoint.
            traffic: has the client, and knows what errors mean.
            purse: pays.
            journal: of the output.
            key: names a call's answer in the journal, and its line in the file.
            count: estimates how many tokens a text has.
        """
        self._settings, self._traffic, self._purse, self._journal, self._key, self._count = (
            settings,
            traffic,
            purse,
            journal,
            key,
            count,
        )

    async def settle(self, calls: Iterable[Call]) -> None:
        """Bring into the journal what batches give of these calls; what is missing when this returns is to be asked for directly.

        Where batches are no longer wanted, those under way are still waited for, since they are paid; one that is gone is forgotten.

        Raises:
            StoppedShort: while answers are to be waited for.
            UserError: if the provider takes no batches, or not this one.
        """
        asked = {self._key(call): call for call in calls}
        under_way = [
            words
            for batch in self._journal.batches()
            if not batch.ended and (words := await self._looked(batch, asked))
        ]
        missing, mine = self._missing(asked), self._journal.batches()
        elsewhere = {
            key
            for batch in self._journal.sibling_batches()
            if not batch.ended
            for key in batch.keys
        }
        known = elsewhere.union(*(batch.keys for batch in mine))
        new = (
            [(key, asked[key]) for key in missing if key not in known]
            if self._settings.batch
            else []
        )
        submitted = [await self._submitted(part) for part in parts(new)]
        if submitted:
            raise StoppedShort(
                f"submitted {len(new)} requests: {', '.join(submitted)}; the provider takes up to a day",
                AGAIN,
            )
        if not {key for batch in mine if not batch.ended for key in batch.keys}.isdisjoint(missing):
            raise StoppedShort(
                "; ".join(under_way), AGAIN if self._settings.batch else f"{AGAIN}; {OR_CANCEL}"
            )
        if not elsewhere.isdisjoint(missing):
            raise StoppedShort("waits for a batch of another variant of this sweep", AGAIN)

    def _missing(self, asked: Mapping[str, Call]) -> list[str]:
        """Return the keys that the journals have no answer to."""
        keys = list(asked)
        return [
            key
            for start in range(0, len(keys), TOGETHER)
            for key in self._without_answer(keys[start : start + TOGETHER])
        ]

    def _without_answer(self, keys: Sequence[str]) -> list[str]:
        found = self._journal.lookup(keys)
        return [key for key in keys if key not in found]

    # Submitting ------------------------------------------------------------------------------------------------------

    async def _submitted(self, part: Sequence[tuple[str, Call, bytes]]) -> str:
        """Upload and submit some calls; return the batch's name."""
        most = Usage(
            sum(self._count(_prompt(call)) for _, call, _ in part),
            sum(_written(call) for _, call, _ in part),
        )
        usd = self._purse.costs(most, batch=True)
        self._purse.reserve(len(part), most, usd)
        name, content = f"gpt3mix-{part[0][0][:16]}.jsonl", b"".join(line for _, _, line in part)
        file = await self._told(
            lambda client: client.files.create(file=(name, content), purpose="batch")
        )
        batch = Batch(file.id, "", tuple(key for key, _, _ in part))
        self._journal.store_batch(batch, (file.id, len(part), most.prompt, most.completion, usd))
        endpoint: Any = f"/v1{part[0][1].path}"
        # Not tried again: a batch whose receipt was lost is found among the provider's by the next run.
        made = await self._told(
            lambda client: client.batches.create(
                input_file_id=file.id,
                endpoint=endpoint,
                completion_window="24h",
                metadata={"made_by": "gpt3mix"},
            ),
            tries=0,
        )
        self._journal.store_batch(replace(batch, batch=made.id))
        return f"batch {made.id} ({endpoint})"

    async def _found(self, file: str) -> "Told | None":
        """Return the batch that was made of a file."""

        async def look(client: "openai.AsyncOpenAI") -> "Told | None":
            # All of them, since their order is not promised.
            async for told in client.batches.list(limit=100):
                if told.input_file_id == file:
                    return told
            return None

        return await self._told(look)

    # Collecting ------------------------------------------------------------------------------------------------------

    async def _looked(self, batch: Batch, asked: Mapping[str, Call]) -> str:
        """Collect a batch if it has ended; otherwise return how far it is. One that came to nothing is forgotten."""
        try:
            if batch.batch:
                told = await self._told(lambda client: client.batches.retrieve(batch.batch))
            elif found := await self._found(batch.file):
                told = found
                self._journal.store_batch(replace(batch, batch=told.id))
            else:
                self._forget(batch)
                return ""
            if told.status in ENDED:
                await self._collect(replace(batch, batch=told.id), told, asked)
                return ""
        except _Gone:
            self._forget(batch)
            return ""
        if told.status == "failed":
            self._forget(batch)
            self._failed(told)
        counts = told.request_counts
        done = (
            f": {counts.completed} of {counts.total} answered, {counts.failed} failed"
            if counts and counts.total
            else ""
        )
        return f"batch {told.id} is {told.status}{done}"

    def _forget(self, batch: Batch) -> None:
        self._journal.delete_batch(batch)
        self._purse.recount()

    async def _collect(self, batch: Batch, told: "Told", asked: Mapping[str, Call]) -> None:
        keys = set(batch.keys)
        for file in (told.output_file_id, told.error_file_id):
            if file:
                content = await self._content(file)
                good = [
                    found
                    for line in content.split("\n")
                    if (found := answered(line, told.endpoint)) and found[0] in keys
                ]
                for start in range(0, len(good), TOGETHER):
                    self._keep(good[start : start + TOGETHER], batch, asked)
        self._journal.store_batch(replace(batch, ended=True))
        self._purse.recount()

    async def _content(self, file: str) -> str:
        async def read(client: "openai.AsyncOpenAI") -> str:
            return (await client.files.content(file)).content.decode(errors="replace")

        return self._traffic.without_secret(await self._told(read))

    def _keep(
        self, good: Sequence[tuple[str, dict[str, Any]]], batch: Batch, asked: Mapping[str, Call]
    ) -> None:
        """Commit answers as if they had been asked for directly, at a batch's price."""
        new = set(self._without_answer([key for key, _ in good]))
        rows: list[AnswerRow] = []
        spent: list[SpendingRow] = []
        for key, value in good:
            if key in new:
                call, used = asked.get(key), usage(value)
                request = {"path": call.path, **call.body} if call else {"batch": batch.batch}
                number = int(call.number.partition(".")[0]) if call else None
                rows.append(
                    (
                        key,
                        number,
                        json.dumps(request, ensure_ascii=False),
                        json.dumps({**value, "batch": True}, ensure_ascii=False),
                    )
                )
                spent.append(
                    (key, 1, used.prompt, used.completion, self._purse.costs(used, batch=True))
                )
        self._journal.store(rows, spent)

    def _failed(self, told: "Told") -> None:
        """Raise what the provider says of a batch that it did not take."""
        errors = (told.errors.data if told.errors else None) or []
        words = (
            "; ".join(
                f"line {error.line}: {error.message}" if error.line else str(error.message)
                for error in errors[:3]
            )
            or "no words"
        )
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        message = f"batch {told.id} was refused: {self._traffic.without_secret(words)}{more}"
        if any(error.code == TOO_MANY for error in errors):
            raise StoppedShort(
                message,
                "run the same command again once other batches have ended: it is submitted anew",
            )
        raise UserError(
            f"lm {self._settings.model}: {message}",
            "see the provider's words; nothing was asked, and the next run submits a new batch",
        )

    async def _told(
        self, ask: "Callable[[openai.AsyncOpenAI], Awaitable[Given]]", tries: int = TRIES
    ) -> Given:
        """Return what the SDK's client gives.

        Raises:
            StoppedShort: if the provider cannot be reached.
            UserError: if it refuses.
            _Gone: if it does not have what is asked for, and batches are no longer wanted.
        """
        import openai

        try:
            return await ask(self._traffic.client.with_options(max_retries=tries, timeout=PATIENCE))
        except openai.APIStatusError as error:
            try:
                self._traffic.means(error)
            except Refused as refusal:
                if refusal.status == GONE and not self._settings.batch:
                    raise _Gone from None
                message = (
                    f"lm.batch: {self._settings.urls[0]}: HTTP {refusal.status}: {refusal.words}"
                )
                hint = (
                    "the server has no batches: leave lm.batch out"
                    if refusal.status in (404, 405) and "/files" in refusal.words
                    else "use the key of the project that submitted the batch; or leave lm.batch out: what is missing is then asked for directly"
                )
                raise UserError(message, hint) from None
        except openai.OpenAIError as error:
            words = self._traffic.without_secret(str(error.__cause__ or error))
            raise StoppedShort(
                f"lm.batch: {self._settings.urls[0]}: no answer: {words}", AGAIN
            ) from None


def parts(
    calls: Iterable[tuple[str, Call]], lines: int = LINES, size: int = BYTES
) -> Iterator[list[tuple[str, Call, bytes]]]:
    """Yield keys, calls and their lines in files of at most so many lines and bytes."""
    part: list[tuple[str, Call, bytes]] = []
    filled = 0
    for key, call in calls:
        line = (
            json.dumps(
                {"custom_id": key, "method": "POST", "url": f"/v1{call.path}", "body": call.body}
            ).encode()
            + b"\n"
        )
        if part and (len(part) == lines or filled + len(line) > size):
            yield part
            part, filled = [], 0
        part.append((key, call, line))
        filled += len(line)
    if part:
        yield part


def answered(line: str, endpoint: str) -> tuple[str, dict[str, Any]] | None:
    """Return the custom id and the answer of an output file's line; None if it holds no good one."""
    try:
        value = json.loads(line)
        answer = value["response"]["body"]
        if value["response"]["status_code"] != 200 or not isinstance(answer, dict):
            return None
        texts(answer, "chat" if "chat" in endpoint else "completions")
        return str(value["custom_id"]), answer
    except (ValueError, KeyError, TypeError, BadAnswer):
        return None


def _prompt(call: Call) -> str:
    messages = call.body.get("messages")
    return (
        "\n".join(message["content"] for message in messages)
        if messages
        else str(call.body["prompt"])
    )


def _written(call: Call) -> int:
    """Return the most tokens that a call can write."""
    most: int = call.body.get("max_completion_tokens") or call.body.get("max_tokens") or 0
    return most * int(call.body.get("n") or 1)
