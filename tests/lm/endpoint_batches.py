"""OpenAI's files and batches: upload, create, poll, collect two files in another order."""

import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from endpoint_options import Refused, refused

ENDPOINTS = {"/v1/chat/completions", "/v1/completions"}


@dataclass
class Batch:
    """A batch as clients see it, and how often it was retrieved."""

    state: dict[str, Any]
    retrievals: int = 0


@dataclass
class Batches:
    """All files and batches.

    Attributes:
        answer: the endpoint of a path, from a body to an answer; raises Refused.
        polls: a batch ends when it was retrieved this many times; -1: on command only.
        fail: custom ids whose lines fail.
        expire: whether batches expire with half of their lines done.
        without_usage: whether the answers to lines leave out how many tokens they took.
        lines: the number of lines answered.
    """

    answer: Callable[[str, dict[str, Any]], dict[str, Any]]
    polls: int = 2
    fail: list[str] = field(default_factory=list)
    expire: bool = False
    without_usage: bool = False
    lines: int = 0
    files: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{file}", self._file),
            web.get("/v1/files/{file}/content", self._content),
            web.delete("/v1/files/{file}", self._delete),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{batch}", self._retrieve),
            web.post("/v1/batches/{batch}/cancel", self._cancel),
        ]

    def command(
        self,
        complete: bool = False,
        expire: bool | None = None,
        fail: list[str] | None = None,
        polls: int | None = None,
    ) -> None:
        """Change the outcome of batches; `complete` ends those in progress."""
        self.expire = self.expire if expire is None else expire
        self.fail = self.fail if fail is None else fail
        self.polls = self.polls if polls is None else polls
        for batch in self.batches.values():
            if complete and batch.state["status"] in {"validating", "in_progress", "finalizing"}:
                self._finish(batch)

    # Files ------------------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.Response:
        content, purpose, name = b"", "", "file.jsonl"
        async for part in await request.multipart():
            if part.name == "file":
                content, name = bytes(await part.read()), part.filename or name
            elif part.name == "purpose":
                purpose = await part.text()
        if purpose != "batch" or not content:
            return web.json_response(
                refused("openai", 400, "Invalid file or purpose.", "purpose").body, status=400
            )
        return web.json_response(self._keep(content, purpose, name))

    def _keep(self, content: bytes, purpose: str, name: str) -> dict[str, Any]:
        state = {
            "id": f"file-{next(self._numbers)}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
        }
        state |= {"filename": name, "purpose": purpose, "status": "processed"}
        self.files[state["id"]] = (state, content)
        return state

    async def _file(self, request: web.Request) -> web.Response:
        file = self.files.get(request.match_info["file"])
        return web.json_response(file[0]) if file else _no_such("file", request.match_info["file"])

    async def _content(self, request: web.Request) -> web.Response:
        file = self.files.get(request.match_info["file"])
        return (
            web.Response(body=file[1], content_type="application/octet-stream")
            if file
            else _no_such("file", request.match_info["file"])
        )

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        return web.json_response(
            {"id": name, "object": "file", "deleted": self.files.pop(name, None) is not None}
        )

    # Batches ----------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        fields = await request.json()
        if fields.get("endpoint") not in ENDPOINTS or fields.get("completion_window") != "24h":
            return web.json_response(
                refused(
                    "openai", 400, f"Invalid 'endpoint': {fields.get('endpoint')}.", "endpoint"
                ).body,
                status=400,
            )
        if fields.get("input_file_id") not in self.files:
            return _no_such("file", str(fields.get("input_file_id")))
        now = int(time.time())
        state = {
            "id": f"batch_{next(self._numbers)}",
            "object": "batch",
            "endpoint": fields["endpoint"],
            "errors": None,
            "status": "validating",
        }
        state |= {
            "input_file_id": fields["input_file_id"],
            "completion_window": "24h",
            "output_file_id": None,
            "error_file_id": None,
        }
        state |= {"created_at": now, "expires_at": now + 86_400, "metadata": fields.get("metadata")}
        state["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
        self.batches[state["id"]] = Batch(state)
        return web.json_response(state)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "object": "list",
                "data": [batch.state for batch in self.batches.values()],
                "has_more": False,
            }
        )

    async def _retrieve(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["batch"])
        if batch is None:
            return _no_such("batch", request.match_info["batch"])
        batch.retrievals += 1
        if batch.state["status"] in {"validating", "in_progress"}:
            if not self._check(batch):
                batch.state["status"] = "failed"
            elif self.polls >= 0 and batch.retrievals >= self.polls:
                self._finish(batch)
            else:
                batch.state |= {"status": "in_progress", "in_progress_at": int(time.time())}
        return web.json_response(batch.state)

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["batch"])
        if batch is None:
            return _no_such("batch", request.match_info["batch"])
        batch.state |= {"status": "cancelled", "cancelled_at": int(time.time())}
        return web.json_response(batch.state)

    def _check(self, batch: Batch) -> bool:
        """Record the errors of lines that are not valid requests; return whether there are none."""
        errors, seen = [], set()
        for number, line in enumerate(self._lines(batch), 1):
            try:
                fields = json.loads(line)
                wrong = (
                    fields["url"] != batch.state["endpoint"]
                    or fields["method"] != "POST"
                    or not isinstance(fields["body"], dict)
                )
                if wrong or fields["custom_id"] in seen:
                    errors.append(
                        {
                            "code": "invalid_request",
                            "line": number,
                            "message": "Invalid line or custom_id seen twice.",
                            "param": None,
                        }
                    )
                seen.add(fields["custom_id"])
            except (ValueError, KeyError, TypeError):
                errors.append(
                    {
                        "code": "invalid_json_line",
                        "line": number,
                        "message": "This line is not parseable as valid JSON.",
                        "param": None,
                    }
                )
        batch.state["errors"] = {"object": "list", "data": errors} if errors else None
        return not errors

    def _lines(self, batch: Batch) -> list[bytes]:
        return self.files[batch.state["input_file_id"]][1].splitlines()

    def _finish(self, batch: Batch) -> None:
        lines = [json.loads(line) for line in self._lines(batch)]
        random.Random(batch.state["id"]).shuffle(lines)
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for number, line in enumerate(lines):
            if self.expire and number >= len(lines) // 2:
                error = {
                    "code": "batch_expired",
                    "message": (
                        "This request could not be executed before the completion window expired."
                    ),
                }
                failed.append(self._outcome(line, None, error))
            else:
                status, body = self._answered(line)
                outcome = {
                    "status_code": status,
                    "request_id": f"req_{next(self._numbers)}",
                    "body": body,
                }
                (done if status == 200 else failed).append(self._outcome(line, outcome, None))
        ended = "expired" if self.expire else "completed"
        batch.state |= {"status": ended, f"{ended}_at": int(time.time())}
        for name, part in (("output_file_id", done), ("error_file_id", failed)):
            if part:
                text = "".join(json.dumps(line) + "\n" for line in part)
                batch.state[name] = self._keep(
                    text.encode(), "batch_output", f"{batch.state['id']}_{name}.jsonl"
                )["id"]
        batch.state["request_counts"] = {
            "total": len(lines),
            "completed": len(done),
            "failed": len(failed),
        }

    def _answered(self, line: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.lines += 1
        if line["custom_id"] in self.fail:
            return 500, refused(
                "openai",
                500,
                "The server had an error while processing your request.",
                kind="server_error",
            ).body
        try:
            answer = self.answer(line["url"], line["body"])
            return 200, {
                name: value
                for name, value in answer.items()
                if name != "usage" or not self.without_usage
            }
        except Refused as refusal:
            return refusal.status, refusal.body

    def _outcome(
        self, line: dict[str, Any], response: dict[str, Any] | None, error: dict[str, str] | None
    ) -> dict[str, Any]:
        return {
            "id": f"batch_req_{next(self._numbers)}",
            "custom_id": line["custom_id"],
            "response": response,
            "error": error,
        }


def _no_such(kind: str, name: str) -> web.Response:
    return web.json_response(
        refused("openai", 404, f"No such {kind.capitalize()} object: {name}", "id").body, status=404
    )
