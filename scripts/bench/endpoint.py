#!/usr/bin/env python3
"""How near to an endpoint's limit the engine comes, beside the openai SDK alone.

    python scripts/bench/endpoint.py [--requests 5000]

A real server on loopback (tests/lm/endpoint_server.py, a process of its own) answers each request after 200 ms and serves
64 at once; what comes above that is refused. All ways send the same bodies, each in a process of its own:

    one after the other    await client.completions.create(...) in a loop; timed over few requests
    SDK, a semaphore       the same, 64 tasks at a time
    concurrency: 64        `lm.complete`: journal, retries, budget and all, every answer committed before it is read
    concurrency: auto      the same, the level found by trying

Ideal is 64 / 0.2 s. CPU is the client process's own, start-up left out; memory is the largest resident set.
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
AT_ONCE, DELAY = 64, 0.2
FEW = 40  # requests of the way that would take a quarter of an hour
PROMPT = (
    "Each item in the following list contains a movie review and the respective sentiment. The sentiment is one of 'positive' or 'negative'.\n\n"
    "Movie review: a witty film. (Sentiment: Positive)\nMovie review: a dull mess. (Sentiment: Negative)\nMovie review:"
)
WAYS = {
    "one": "one after the other",
    "sdk": "SDK, a semaphore",
    "fixed": "concurrency: 64",
    "auto": "concurrency: auto",
}


def body(number: int) -> dict[str, Any]:
    """Return what the SDK alone sends: the engine's own request."""
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


async def by_sdk(url: str, requests: int, at_once: int) -> None:
    """Ask with the SDK and a semaphore."""
    import openai

    async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:
        places = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with places:
                answer = await client.completions.create(**body(number))
                assert answer.choices

        await asyncio.gather(*(one(number) for number in range(requests)))


def by_engine(url: str, requests: int, concurrency: int | str) -> float:
    """Ask with the engine, over a journal; return the seconds that the probe took."""
    from gpt3mix_cli.lm import JournaledLM, Request
    from gpt3mix_cli.lm.openai.engine import OpenAILM
    from gpt3mix_cli.settings import OpenAISettings

    def asked(first: int, count: int) -> Iterator[Request]:
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
        # The probe, and the labels' tokens, which are asked for with the first request.
        assert next(journal.complete(asked(requests, 1)))
        probed = time.perf_counter() - began
        assert sum(1 for _ in journal.complete(asked(0, requests))) == requests
        journal.close()
    lm.close()
    return probed


def measured(way: str, url: str, requests: int) -> dict[str, float]:
    """Return what a way takes, in this process."""
    import gpt3mix_cli.lm.openai_api  # noqa: F401
    import openai  # noqa: F401 - start-up is no part of it

    count = FEW if way == "one" else requests
    began, cpu = time.perf_counter(), time.process_time()
    probed = 0.0
    if way in ("one", "sdk"):
        asyncio.run(by_sdk(url, count, 1 if way == "one" else AT_ONCE))
    else:
        probed = by_engine(url, count, AT_ONCE if way == "fixed" else "auto")
    seconds, cpu = time.perf_counter() - began - probed, time.process_time() - cpu
    return {
        "probed": probed,
        "rate": count / seconds,
        "cpu": 1000 * cpu / count,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def of_its_own(way: str, requests: int) -> dict[str, float]:
    """Return what a way takes in a process of its own, against a fresh server."""
    server = [
        sys.executable,
        str(ROOT / "tests/lm/endpoint_server.py"),
        "--while_stdin",
        "--remember",
        "false",
    ]
    options = ["--delay", str(DELAY), "--at_once", str(AT_ONCE)]
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
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measured(given.way, given.url, given.requests)))
        return
    ideal = AT_ONCE / DELAY
    found = {way: of_its_own(way, given.requests) for way in WAYS}
    found_few = of_its_own("fixed", given.requests // 10)
    print(
        f"{given.requests} requests, {DELAY:g} s each, {AT_ONCE} at once: {ideal:g} a second at best ('{WAYS['one']}': {FEW} requests)\n"
    )
    print(
        "| way | requests a second | of the ideal | CPU ms a request | beyond the SDK | largest memory, MiB |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for way, name in WAYS.items():
        one = found[way]
        beyond = f"{one['cpu'] - found['sdk']['cpu']:+.2f}" if way in ("fixed", "auto") else ""
        print(
            f"| {name} | {one['rate']:.1f} | {one['rate'] / ideal:.1%} | {one['cpu']:.2f} | {beyond} | {one['memory']:.0f} |"
        )
    print(
        f"\nThe probe and a first request, once an endpoint, took {found['fixed']['probed']:.1f} s and are left out."
    )
    print(
        f"Memory of `{WAYS['fixed']}` after {given.requests // 10} requests: {found_few['memory']:.0f} MiB."
    )


if __name__ == "__main__":
    main()
