"""What docs/clusters.md shows is what launchers need, and what is understood."""

import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

from big_vision.launching import clusters

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")


def block(title, language):
  """Returns the first fenced block below a title."""
  text = PAGE[PAGE.index(f"\n## {title}\n") :]
  return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


def test_job_set():
  manifest = yaml.safe_load(block("Kubernetes", "yaml"))
  name = manifest["metadata"]["name"]
  [job] = manifest["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  pod = spec["template"]["spec"]
  [container] = pod["containers"]
  env = {v["name"]: v["value"] for v in container["env"]}
  assert spec["completions"] == spec["parallelism"] == 2
  assert spec["completionMode"] == "Indexed" and job["replicas"] == 1
  [port] = [p["containerPort"] for p in container["ports"]]
  for i in range(2):  # As Kubernetes numbers the pods.
    place = clusters.detect({**env, "JOB_COMPLETION_INDEX": str(i)})
    assert (place.num_processes, place.process_id) == (2, i)
    # How JobSet calls the first pod.
    assert place.coordinator == f"{name}-{job['name']}-0-0.{name}:{port}"


def test_two_machines():
  lines = block("Two machines", "bash").splitlines()
  commands = [shlex.split(line) for line in lines if not line.startswith("#")]
  assert len(commands) == 2
  for i, words in enumerate(commands):
    env = dict(word.split("=", 1) for word in words[: words.index("bash")])
    place = clusters.detect(env)
    assert (place.num_processes, place.process_id) == (2, i)
    assert place.coordinator == "10.0.0.1:1234"
  same = [words[words.index("bash") :] for words in commands]
  assert same[0] == same[1]


@pytest.mark.parametrize(
  "status, requeued, want",
  [(0, False, 0), (143, True, 143), (1, False, 1)],
)
def test_slurm_script(tmp_path, status, requeued, want):
  for name, text in (
    ("srun", f'echo "$@" > {tmp_path}/ran; exit {status}'),
    ("scontrol", f'echo "$@" > {tmp_path}/requeued'),
  ):
    (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / name).chmod(0o755)
  done = subprocess.run(
    ["bash", "-c", block("Slurm", "bash")],
    env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"},
  )
  assert done.returncode == want
  ran = (tmp_path / "ran").read_text().split()
  assert ran[:4] == [
    "--kill-on-bad-exit", "bash", "setup.sh", "big_vision.train",
  ]  # fmt: skip
  assert (tmp_path / "requeued").exists() == requeued
  if requeued:
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_line_of_the_log():
  """The page shows the line that `training.hosts.join` writes."""
  source = (ROOT / "big_vision/training/hosts.py").read_text(encoding="utf-8")
  shown = re.search(r"`(Found Slurm:.*?)`", PAGE, re.DOTALL)[1]
  shown = " ".join(shown.split())
  for part in ("which meet", "and have", "This one takes", "chooses others."):
    assert part in shown and part in source
