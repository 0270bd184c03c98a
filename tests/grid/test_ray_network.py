"""Two Ray nodes in network namespaces of their own, whose folders the other one cannot see."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_runs import contents

import gpt3mix_cli
from gpt3mix_cli.cli import main

BIN = Path(sys.executable).parent
DEADLINE = 400  # seconds
NAMES = ("gpt3mix-head", "gpt3mix-node")
CONFIG = """\
name: small
task: {data: {kind: demo}, labels: [pos, neg], text_type: movie review, label_type: sentiment}
subsample: {levels: [2/class], seeds: 2, validation: 10}
lm: {kind: local, model: bundled, batch_size: 8}
augment: {ratio: 1, max_tokens: 40}
classifiers: [{kind: linear}]
trials: 4
"""
# Only this folder and the installation are common; both are only read, but for the archive.
PRIVATE = """
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs {folder}/private
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
cd {folder}/private
options="--object-store-memory 80000000 --disable-usage-stats"
"""
HEAD = """
ray start --head --node-ip-address 10.99.0.1 --port 6399 --num-cpus 0 $options
for try in $(seq 60); do
  [ "$(ray status --address 10.99.0.1:6399 2>/dev/null | grep -c ' node_')" -ge 2 ] && break
  sleep 1
done
gpt3mix run ../small.yaml --executor ray --address 10.99.0.1:6399 --out results || exit
ls > ../head.txt
tar cf ../results.tar results
"""
NODE = """
for try in $(seq 60); do
  ray start --address 10.99.0.1:6399 --node-ip-address 10.99.0.2 --num-cpus 1 $options && break
  sleep 2
done
while sleep 1; do ls > ../node.txt; done
"""


def ip(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *arguments], capture_output=True, check=check)
    return done.returncode == 0


def has_namespaces() -> bool:
    if not (shutil.which("ip") and shutil.which("unshare") and os.geteuid() == 0):
        return False
    works = ip("netns", "add", "gpt3mix-try", check=False)
    ip("netns", "del", "gpt3mix-try", check=False)
    return works


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed"),
]


@pytest.fixture
def network() -> Iterator[None]:
    """Two network namespaces, connected with each other only."""
    if not has_namespaces():
        pytest.skip("network namespaces need root and `ip`")
    for name in NAMES:
        ip("netns", "add", name)
    try:
        ip("link", "add", "v0", "netns", NAMES[0], "type", "veth", "peer", "name", "v1",
           "netns", NAMES[1])  # fmt: skip
        for number, name in enumerate(NAMES):
            ip("-n", name, "addr", "add", f"10.99.0.{number + 1}/24", "dev", f"v{number}")
            ip("-n", name, "link", "set", f"v{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in NAMES:
            ip("netns", "del", name, check=False)


def start(name: str, folder: Path, script: str) -> subprocess.Popen[bytes]:
    """Start a script in a network namespace, with mounts and processes of its own."""
    package = Path(gpt3mix_cli.__file__).parent.parent
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = {"PYTHONPATH": str(package), "RAY_AUTH_MODE": "disabled", "PATH": path}
    inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    (folder / f"{name}.sh").write_text(PRIVATE.format(folder=folder) + script)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, *inside, "bash", str(folder / f"{name}.sh")],
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.usefixtures("network")
def test_nodes_without_a_common_folder_give_the_rows_of_one_machine(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "private").mkdir()
    head, node = start(NAMES[0], tmp_path, HEAD), start(NAMES[1], tmp_path, NODE)
    try:
        assert head.wait(DEADLINE) == 0, (tmp_path / f"{NAMES[0]}.log").read_text()
    finally:
        for process in (head, node):
            process.kill()  # and with it all processes of its namespace
            process.wait()
    assert "results" in (tmp_path / "head.txt").read_text().split()
    assert (tmp_path / "node.txt").read_text() == ""  # the driver wrote all files
    with tarfile.open(tmp_path / "results.tar") as archive:
        archive.extractall(tmp_path / "ray", filter="data")
    assert main(["run", "small.yaml", "--jobs", "1", "--out", "local", "-q"]) == 0
    rows = [contents(folder) for folder in (tmp_path / "ray" / "results", tmp_path / "local")]
    assert len(rows[0]) > 8
    assert rows[0] == rows[1]
