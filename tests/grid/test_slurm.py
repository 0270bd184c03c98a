"""The SLURM scripts, on a `sbatch` that runs the tasks of an array one after the other."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = """\
case "$1" in
run) for stage in subsample subsample subsample train report; do
  n=$((n + 1)); echo "gpt3mix $stage films.yaml --seed $n --out 'my results'"; done ;;
*) echo "$*" >>log ;;
esac
"""
SBATCH = """\
number=$(($(cat jobs 2>/dev/null || echo 0) + 1))
echo $number >jobs
echo "sbatch $2 $3" >>log
range=${2#--array=0-}
while [ "${1#*sbatch}" = "$1" ]; do shift; done
for index in $(seq 0 "$range"); do SLURM_ARRAY_TASK_ID=$index bash "$@"; done
echo $number
"""


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """Return the environment in which `gpt3mix`, `sbatch` and `scontrol` are small scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "gpt3mix": COMMANDS,
        "sbatch": SBATCH,
        "scontrol": 'echo "MaxArraySize            = 2" | tee -a requeued; echo "$@" >>requeued\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}


def test_an_array_for_each_stage_waits_for_the_stage_before(
    tmp_path: Path, programs: dict[str, str]
) -> None:
    command = ["bash", str(ROOT / "scripts/slurm_submit"), "films.yaml"]
    done = subprocess.run(
        command, cwd=tmp_path, env=programs, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "subsample: job 1, 2 tasks",  # the cluster allows two in one array
        "subsample: job 2, 1 tasks",
        "train: job 3, 1 tasks",
        "report: job 4, 1 tasks",
    ]
    submitted = (tmp_path / "log").read_text().splitlines()
    assert [line.split(str(ROOT))[0].strip() for line in submitted] == [
        "sbatch --array=0-1",
        "subsample films.yaml --seed 1 --out my results",
        "subsample films.yaml --seed 2 --out my results",
        "sbatch --array=0-0",
        "subsample films.yaml --seed 3 --out my results",
        "sbatch --array=0-0 --dependency=afterany:1:2",
        "train films.yaml --seed 4 --out my results",
        "sbatch --array=0-0 --dependency=afterany:3",
        "report films.yaml --seed 5 --out my results",
    ]


def test_a_job_whose_time_ends_is_asked_to_stop_and_queued_again(
    tmp_path: Path, programs: dict[str, str]
) -> None:
    (tmp_path / "bin/gpt3mix").write_text(
        "#!/bin/bash\ntrap 'echo stopped >>log; exit 143' TERM\necho started >>log\n"
        "while :; do sleep 0.05; done\n"
    )
    (tmp_path / "list").write_text("gpt3mix train films.yaml --out 'my results'\n")
    job = subprocess.Popen(
        ["bash", str(ROOT / "scripts/slurm_array.sbatch"), "list"],
        cwd=tmp_path,
        env={**programs, "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "7"},
    )
    while not (tmp_path / "log").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)  # to the script only, as `--signal=B:TERM` does
    assert job.wait(10) == 143
    assert (tmp_path / "log").read_text() == "started\nstopped\n"
    assert "requeue 7" in (tmp_path / "requeued").read_text()
