"""A test server for OpenAI's protocol as OpenAI, vLLM, llama-cpp-python and Ollama speak it.

In a test: `with serving(dialect="vllm") as server:` and then `server.base_url`,
`server.fault("rate_limit", next=3)`, `server.counters()`, `server.model.logprobs(text)`.

As a process: `python tests/lm/endpoint_server.py --delay 0.2 --at_once 64` prints its port, or
`with running(delay=0.2) as server:`. GET /_control returns the counters; POST /_control takes
`{"faults": [...], "clear": true, "options": {...}, "batches": {...}, "reset": true}`.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from endpoint_answers import Answers
from endpoint_batches import Batches
from endpoint_faults import CUTS, Fault, answer_of, cut, seconds_of
from endpoint_options import Options, Refused, refused


@dataclasses.dataclass
class RequestRecord:
    """A request and the status of its answer; 0 if there is none, or a broken one."""

    number: int
    path: str
    body: bytes
    status: int = 0

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """The server's state: its options, its faults, the requests it got."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.answers = Answers(options)
        self.model = self.answers.model
        self.batches = Batches(self._batch_line, options.polls)
        self.url = ""
        self.faults: list[Fault] = []
        self.reset()

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def reset(self) -> None:
        """Reset the counters."""
        self.records: list[RequestRecord] = []
        self.keys: set[str] = set()
        self.paths: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.requests = self.in_flight = self.most_at_once = self.serving = 0
        self._times: collections.Counter[tuple[str, bytes]] = collections.Counter()
        self._accepted_at: collections.deque[float] = collections.deque()
        self._slots: asyncio.Semaphore | None = None

    def fault(self, kind: str, **how: Any) -> Fault:
        """Add a fault; see `Fault`."""
        self.faults.append(Fault(kind, **how))
        return self.faults[-1]

    def bodies(self, path: str = "") -> list[Any]:
        """Return the bodies of all requests to paths that contain this, in the order of arrival."""
        return [record.json() for record in self.records if path in record.path and record.body]

    def twice(self) -> list[Any]:
        """Return each body that was answered with 200 more than once."""
        answered = collections.Counter(
            (record.path, record.body)
            for record in self.records
            if record.status == 200 and record.body
        )
        return [json.loads(body) for (_, body), times in answered.items() if times > 1]

    def counters(self) -> dict[str, Any]:
        """Return the counters since the start or the last reset."""
        return {
            "requests": self.requests,
            "paths": dict(self.paths),
            "statuses": {str(status): times for status, times in self.statuses.items()},
            "most_at_once": self.most_at_once,
            "in_flight": self.in_flight,
            "different": len(self._times),
            "asked_twice": sum(times > 1 for times in self._times.values()),
            "answered_twice": len(self.twice()),
            "keys": sorted(self.keys),
            "batch_lines": self.batches.lines,
        }

    # Serving ----------------------------------------------------------------------------------

    def application(self) -> web.Application:
        """Return the aiohttp application; it serves in the loop that starts it."""
        application = web.Application(client_max_size=256 * 2**20)
        routes = [web.get("/_control", self._read_control), web.post("/_control", self._control)]
        if self.options.dialect == "openai":
            routes += self.batches.routes()
        application.add_routes([*routes, web.route("*", "/{path:.*}", self._handle)])
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        record = RequestRecord(
            self.requests + 1, request.path, body if self.options.remember else b""
        )
        self.requests += 1
        self.paths[record.path] += 1
        self.keys.add(request.headers.get("Authorization", ""))
        times = 0
        if self.options.remember:
            self.records.append(record)
            self._times[record.path, body] += 1
            times = self._times[record.path, body]
        self.in_flight += 1
        self.most_at_once = max(self.most_at_once, self.in_flight)
        try:
            response = await self._served(request, record, body, times)
        finally:
            self.in_flight -= 1
        self.statuses[record.status] += 1
        return response

    async def _next_fault(self, record: RequestRecord, body: bytes, times: int) -> Fault | None:
        """Wait for delays and return the first other fault that hits a request."""
        for fault in list(self.faults):
            if fault.hits(record.number, record.path, body, times):
                if fault.kind != "delay":
                    return fault
                await asyncio.sleep(seconds_of(fault.seconds))
        return None

    async def _served(
        self, request: web.Request, record: RequestRecord, body: bytes, times: int
    ) -> web.StreamResponse:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        fault = await self._next_fault(record, body, times)
        if fault and fault.kind not in CUTS:
            return self._done(
                record, answer_of(fault, self.options.dialect, self.options.model, key)
            )
        if request.method == "POST" and not self._is_within_rate():
            return self._done(
                record,
                self._too_many("Rate limit reached for requests per minute", self.options.window),
            )
        if self.options.at_once and not self.options.queue and self.serving >= self.options.at_once:
            return self._done(record, self._too_many("Too many requests at once", 0.1))
        async with self._slot():
            self.serving += 1
            try:
                answered = asyncio.get_running_loop().time() + (
                    seconds_of(self.options.delay) if request.method == "POST" else 0.0
                )
                status, answer, headers = self._answer(request.method, record.path, body, key)
                text = json.dumps(answer)
                await asyncio.sleep(
                    answered - asyncio.get_running_loop().time()
                )  # what the answer costs to make is part of the delay
                if fault:
                    return await cut(fault, request, answer)
            finally:
                self.serving -= 1
        return self._done(
            record,
            web.Response(
                text=text, status=status, headers=headers, content_type="application/json"
            ),
        )

    def _done(self, record: RequestRecord, response: web.Response) -> web.Response:
        record.status = response.status
        return response

    def _slot(self) -> contextlib.AbstractAsyncContextManager[Any]:
        if not (self.options.at_once and self.options.queue):
            return contextlib.nullcontext()
        self._slots = self._slots or asyncio.Semaphore(self.options.at_once)
        return self._slots

    def _is_within_rate(self) -> bool:
        if not self.options.per_minute:
            return True
        now = time.monotonic()
        while self._accepted_at and self._accepted_at[0] <= now - self.options.window:
            self._accepted_at.popleft()
        if len(self._accepted_at) >= self.options.per_minute:
            return False
        self._accepted_at.append(now)
        return True

    def _too_many(self, message: str, seconds: float) -> web.Response:
        if self._accepted_at:
            seconds = min(
                seconds, max(self._accepted_at[0] + self.options.window - time.monotonic(), 0.01)
            )
        answer = answer_of(
            Fault("rate_limit", message=message), self.options.dialect, self.options.model, ""
        )
        answer.headers["Retry-After"] = f"{seconds:.3f}"
        answer.headers["Retry-After-Ms"] = f"{1000 * seconds:.0f}"
        return answer

    def _answer(
        self, method: str, path: str, body: bytes, key: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        try:
            if self.options.key and key != self.options.key:
                message = (
                    f"Incorrect API key provided: {key}."
                    if self.options.dialect == "openai"
                    else "Unauthorized"
                )
                raise refused(self.options.dialect, 401, message, None, "invalid_api_key")
            return 200, self._endpoint(method, path, body), {}
        except Refused as refusal:
            return refusal.status, refusal.body, refusal.headers

    def _endpoint(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        if method == "GET" and path == "/v1/models":
            return self.answers.models()
        if method == "POST" and (endpoint := self.endpoints().get(path)):
            try:
                fields = json.loads(body)
            except ValueError as error:
                raise refused(
                    self.options.dialect,
                    400,
                    f"We could not parse the JSON body of your request: {error}",
                ) from error
            return endpoint(fields)
        raise refused(self.options.dialect, 404, f"Invalid URL ({method} {path})")

    def endpoints(self) -> dict[str, Any]:
        """Return the function that answers POST to each path."""
        answers, model = self.answers, self.model
        endpoints: dict[str, Any] = {
            "/v1/completions": answers.completions,
            "/v1/chat/completions": answers.chat,
        }
        match self.options.dialect:
            case "openai":
                endpoints["/v1/decisions"] = answers.decisions
            case "vllm":
                endpoints["/tokenize"] = answers.tokenize
                endpoints["/detokenize"] = lambda body: {
                    "prompt": "".join(map(model.token_of, body["tokens"]))
                }
            case "llamacpp":
                endpoints["/extras/tokenize"] = lambda body: {
                    "tokens": [model.id_of(token) for token in model.split(body["input"])]
                }
                endpoints["/extras/tokenize/count"] = lambda body: {
                    "count": len(model.split(body["input"]))
                }
        return endpoints

    def _batch_line(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.endpoints()[path](body)

    # Control ----------------------------------------------------------------------------------

    async def _read_control(self, request: web.Request) -> web.Response:
        return web.json_response(self.counters())

    async def _control(self, request: web.Request) -> web.Response:
        self.command(**await request.json())
        return web.json_response(self.counters())

    def command(
        self,
        *,
        faults: list[dict[str, Any]] | None = None,
        clear: bool = False,
        options: dict[str, Any] | None = None,
        batches: dict[str, Any] | None = None,
        reset: bool = False,
    ) -> None:
        """Change the server while it runs."""
        if clear:
            self.faults.clear()
        if reset:
            self.reset()
        for name, value in (options or {}).items():
            if not hasattr(self.options, name):
                raise web.HTTPBadRequest(text=f"no option is called {name!r}")
            setattr(self.options, name, value)
        for fault in faults or []:
            self.fault(**fault)
        if batches:
            self.batches.command(**batches)


# Where it runs --------------------------------------------------------------------------------


async def _start(server: Server, port: int) -> web.AppRunner:
    # A client that goes away ends its request: nothing hangs on after a kill.
    runner = web.AppRunner(
        server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner


@contextlib.contextmanager
def serving(port: int = 0, **options: Any) -> Iterator[Server]:
    """Serve in a thread; yields the server, whose attributes may be read and changed."""
    server = Server(Options(**options))
    loop = asyncio.new_event_loop()
    started = threading.Event()
    ended: list[BaseException] = []

    async def serve() -> None:
        runner = await _start(server, port)
        stop = asyncio.Event()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        started.set()
        await stop.wait()
        await runner.cleanup()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())
        except BaseException as error:
            ended.append(error)
        finally:
            started.set()

    stops: list[Any] = []
    thread = threading.Thread(target=run, name="endpoint", daemon=True)
    thread.start()
    started.wait(10)
    try:
        if ended:
            raise ended[0]
        yield server
    finally:
        for stop in stops:
            stop()
        thread.join(10)


@dataclasses.dataclass
class Remote:
    """A server in its own process."""

    url: str
    process: subprocess.Popen[str]

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def counters(self) -> dict[str, Any]:
        return self._control(None)

    def command(self, **what: Any) -> dict[str, Any]:
        return self._control(json.dumps(what).encode())

    def fault(self, kind: str, **how: Any) -> None:
        self.command(faults=[{"kind": kind, **how}])

    def _control(self, body: bytes | None) -> dict[str, Any]:
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/_control", body), timeout=10
        ) as response:
            return json.load(response)


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Remote]:
    """Serve in a process that ends with the block, or with the process that started it."""
    arguments = [
        word for name, value in options.items() for word in (f"--{name}", json.dumps(value))
    ]
    command = [sys.executable, __file__, *arguments, "--while_stdin"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Remote(f"http://127.0.0.1:{int(process.stdout.readline())}", process)
        finally:
            process.kill()


def main() -> None:
    """Serve until killed; each field of `Options` is a flag with JSON or a word as its value."""
    parser = argparse.ArgumentParser(description="A test server that speaks the OpenAI protocol.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=json.loads, default=[])
    parser.add_argument("--while_stdin", action="store_true", help="end when standard input does")
    for field in dataclasses.fields(Options):
        parser.add_argument(f"--{field.name}", type=_value)
    given = vars(parser.parse_args())
    port, faults, while_stdin = (given.pop(name) for name in ("port", "faults", "while_stdin"))
    server = Server(Options(**{name: value for name, value in given.items() if value is not None}))
    server.command(faults=faults)

    async def serve() -> None:
        await _start(server, port)
        print(server.url.rpartition(":")[2], flush=True)
        if while_stdin:
            await asyncio.to_thread(sys.stdin.read)
        else:
            await asyncio.Event().wait()

    asyncio.run(serve())


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
