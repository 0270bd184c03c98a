#!/usr/bin/env python3
"""Compares the throughput and CPU time of the endpoint LM with those of the openai SDK alone.

    python scripts/bench/endpoint.py [--requests 5000]

A real server on loopback (tests/lm/endpoint_server.py, in its own process) answers each request
after 200 ms and serves 64 at once; it refuses others. All ways send the same bodies, each in its
own process:

    one after the other    await client.completions.create(...) in a loop, with few requests
    SDK, a semaphore       the same, 64 tasks at a time, over the SDK's aiohttp transport
    concurrency: 64        `lm.complete` with journal, retries and budget; every answer is committed
                           before it is parsed
    concurrency: auto      the same with adaptive concurrency

The ideal is 64 / 0.2 s. CPU is that of the client process without start-up (getrusage), which
other processes on the machine change little; the throughput they do change, so the fraction of the
ideal needs an idle machine. Memory is the largest resident set.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCY, DELAY_S = 64, 0.2
SEQUENTIAL_REQUESTS = 40  # all of them would take a quarter of an hour
PROMPT = (
    "Each item in the following list contains a movie review and the respective sentiment. "
    "The sentiment is one of 'positive' or 'negative'.\n\n"
    "Movie review: a witty film. (Sentiment: Positive)\n"
    "Movie review: a dull mess. (Sentiment: Negative)\nMovie review:"
)
WAYS = {
    "one": "one after the other",
    "sdk": "SDK, a semaphore",
    "fixed": "concurrency: 64",
    "auto": "concurrency: auto",
}


def body(number: int) -> dict[str, Any]:
    """Return the body for the SDK: that of the endpoint LM."""
    return {
        "model": "tiny",
        "prompt": PROMPT,
        "max_tokens": 40,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": number,
        "stop": ["\n"],
        "logprobs": 1,
    }


async def run_sdk(url: str, requests: int, concurrency: int) -> None:
    """Send requests with the SDK and a semaphore."""
    import openai

    async with openai.AsyncOpenAI(
        api_key="none", base_url=url, max_retries=0, http_client=openai.DefaultAioHttpClient()
    ) as client:
        slots = asyncio.Semaphore(concurrency)

        async def send(number: int) -> None:
            async with slots:
                answer = await client.completions.create(**body(number))
                assert answer.choices

        await asyncio.gather(*(send(number) for number in range(requests)))


def run_lm(url: str, requests: int, concurrency: int | str) -> float:
    """Send requests with the endpoint LM and a journal; return the seconds of the probe."""
    from gpt3mix_cli.lm import JournaledLM, Request
    from gpt3mix_cli.lm.openai.engine import OpenAILM
    from gpt3mix_cli.settings import OpenAISettings

    def make_requests(first: int, count: int) -> Iterator[Request]:
        for number in range(first, first + count):
            yield Request(
                number,
                PROMPT,
                number,
                28,
                label_prefix=" (Sentiment:",
                choices=(" Positive", " Negative"),
            )

    lm = OpenAILM(
        OpenAISettings(kind="openai", model="tiny", base_url=url, concurrency=concurrency)
    )
    with tempfile.TemporaryDirectory() as folder:
        journal = JournaledLM(lm, Path(folder) / "bench.journal.sqlite")
        began = time.perf_counter()
        # The probe, and the tokens of the labels, which come with the first request.
        assert next(journal.complete(make_requests(requests, 1)))
        probed = time.perf_counter() - began
        assert sum(1 for _ in journal.complete(make_requests(0, requests))) == requests
        journal.close()
    lm.close()
    return probed


def cpu_seconds() -> float:
    """Return the CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(way: str, url: str, requests: int) -> dict[str, float]:
    """Measure a way in this process."""
    import openai  # noqa: F401 - start-up is not measured

    import gpt3mix_cli.lm.openai.engine  # noqa: F401

    count = SEQUENTIAL_REQUESTS if way == "one" else requests
    began, cpu = time.perf_counter(), cpu_seconds()
    probed = 0.0
    if way in ("one", "sdk"):
        asyncio.run(run_sdk(url, count, 1 if way == "one" else CONCURRENCY))
    else:
        probed = run_lm(url, count, CONCURRENCY if way == "fixed" else "auto")
    seconds, cpu = time.perf_counter() - began - probed, cpu_seconds() - cpu
    return {
        "probed": probed,
        "rate": count / seconds,
        "cpu": 1000 * cpu / count,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_in_process(way: str, requests: int) -> dict[str, float]:
    """Measure a way in its own process, with a new server."""
    server = [
        sys.executable,
        str(ROOT / "tests/lm/endpoint_server.py"),
        "--while_stdin",
        "--remember",
        "false",
    ]
    options = ["--delay", str(DELAY_S), "--at_once", str(CONCURRENCY)]
    with subprocess.Popen(
        [*server, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        command = [
            sys.executable,
            __file__,
            "--way",
            way,
            "--url",
            url,
            "--requests",
            str(requests),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        process.kill()
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.url, given.requests)))
        return
    ideal = CONCURRENCY / DELAY_S
    results = {way: measure_in_process(way, given.requests) for way in WAYS}
    few = given.requests // 10
    few_result = measure_in_process("fixed", few)
    print(
        f"{given.requests} requests of {DELAY_S:g} s, {CONCURRENCY} at once: at best {ideal:g} per "
        f"second ('{WAYS['one']}': {SEQUENTIAL_REQUESTS} requests)\n"
    )
    print(
        "| way | requests per second | of the ideal | CPU ms per request | of the SDK's "
        "| largest memory, MiB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for way, name in WAYS.items():
        result = results[way]
        ratio = f"{result['cpu'] / results['sdk']['cpu']:.2f}" if way in ("fixed", "auto") else ""
        print(
            f"| {name} | {result['rate']:.1f} | {result['rate'] / ideal:.1%} "
            f"| {result['cpu']:.2f} | {ratio} | {result['memory']:.0f} |"
        )
    probed = results["fixed"]["probed"]
    print(f"\nNot included: {probed:.1f} s for the probe and a first request, once per endpoint.")
    print(f"Memory of `{WAYS['fixed']}` after {few} requests: {few_result['memory']:.0f} MiB.")


if __name__ == "__main__":
    main()
