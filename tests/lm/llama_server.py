"""Real servers for tests, each in its own process: two of llama.cpp, and `transformers serve`.

llama-cpp-python's server and llama.cpp's own `llama-server` read a model in GGUF format.

model = model_as_gguf(tmp_path / "lm.gguf")
with llama_server(model, tmp_path / "server.log", "--n_ctx", "1024") as server:
    server.ask("v1/completions", prompt="Movie review:", max_tokens=1)
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CONVERTER = Path(__file__).parents[2] / "scripts" / "lm_to_gguf.py"
PARTS = (
    "llama_cpp",
    "gguf",
    "uvicorn",
    "fastapi",
    "sse_starlette",
    "starlette_context",
    "pydantic_settings",
)
MISSING = [name for name in PARTS if not importlib.util.find_spec(name)]
needs_llama_server = pytest.mark.skipif(
    bool(MISSING), reason=f"extra server-tests: {', '.join(MISSING)} not installed"
)

NATIVE = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server") or ""
needs_native_server = pytest.mark.skipif(
    not (NATIVE and importlib.util.find_spec("gguf")),
    reason="no llama-server in PATH or LLAMA_SERVER, or the extra server-tests is not installed",
)
needs_transformers_serve = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "uvicorn"))),
    reason="extra server-tests: fastapi or uvicorn not installed",
)

START_TIMEOUT_S = 120  # 2 s are enough on an idle machine
LISTENS = re.compile(r"(?:running|listening) on (http://127\.0\.0\.1:\d+)")
# Tests do not use the proxy of the machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        root: such as `http://127.0.0.1:40123`.
        log: the file of its output.
        key: that clients need; empty: none.
    """

    root: str
    log: Path
    key: str

    @property
    def url(self) -> str:
        """What a config calls `lm.base_url`."""
        return f"{self.root}/v1"

    def send(self, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """Return status and JSON of an answer; POST if there is a body; `key` replaces the key."""
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.key if key is None else key}",
        }
        request = urllib.request.Request(f"{self.root}/{path}", data, headers)
        try:
            with OPENER.open(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, path: str, **body: Any) -> Any:
        """Return the JSON that answers a POST; it must succeed."""
        status, answer = self.send(path, body)
        assert status == 200, f"{path}: {status} {answer}\n{self.tail()}"
        return answer

    def tail(self) -> str:
        """Return the last lines that the server printed, for messages."""
        return "\n".join(
            ["the server's log ends:", *self.log.read_text("utf-8", "replace").splitlines()[-30:]]
        )


@contextmanager
def llama_server(model: Path, log: Path, *options: str, key: str = "") -> Iterator[Server]:
    """Run a server over a GGUF file until the block ends.

    Args:
        model: the file.
        log: the file for its output.
        options: of `llama_cpp.server`, such as `--n_ctx 1024`.
        key: that clients need; empty: none.
    """
    # More threads than free cores would spin while they wait for each other.
    one_thread = ["--n_threads", "1", "--n_threads_batch", "1"]
    address = ["--host", "127.0.0.1", "--port", "0", *(["--api_key", key] if key else [])]
    # Keys and values in float32 (type 0): float16, the default, moves labels by 1e-3.
    exact = ["--logits_all", "true", "--type_k", "0", "--type_v", "0"]
    command = [
        sys.executable,
        "-m",
        "llama_cpp.server",
        "--model",
        str(model),
        *exact,
        *one_thread,
        *address,
        *options,
    ]
    with _running(command, log, key) as server:
        yield server


@contextmanager
def native_llama_server(model: Path, log: Path, *options: str) -> Iterator[Server]:
    """Run llama.cpp's own server over a GGUF file until the block ends."""
    exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "-fa", "off"]
    address = ["--host", "127.0.0.1", "--port", "0", "-t", "1"]
    with _running([NATIVE, "-m", str(model), *exact, *address, *options], log) as server:
        yield server


@contextmanager
def transformers_serve(folder: Path, log: Path) -> Iterator[Server]:
    """Run `transformers serve` over a model's folder until the block ends."""
    program = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(folder), "--device", "cpu"]
    with _running([*command, "--host", "127.0.0.1", "--port", "0"], log) as server:
        yield server


@contextmanager
def _running(command: list[str], log: Path, key: str = "") -> Iterator[Server]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        yield Server(_listening(process, log), log, key)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address once the server prints it; the system chooses the port."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        printed = log.read_text("utf-8", "replace")
        if match := LISTENS.search(printed):
            return match[1]
        assert process.poll() is None, (
            f"the server ended with {process.returncode}:\n{printed[-4000:]}"
        )
        assert time.monotonic() < deadline, (
            f"the server did not listen within {START_TIMEOUT_S} s:\n{printed[-4000:]}"
        )
        time.sleep(0.05)


def model_as_gguf(output: Path, *folder: Path) -> Path:
    """Return a GGUF file of a model's folder, by default the packaged LM's."""
    done = subprocess.run(
        [sys.executable, CONVERTER, *folder, "-o", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return output
