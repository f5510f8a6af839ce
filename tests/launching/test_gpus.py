"""Which GPUs processes see, with an nvidia-smi that pretends."""

import pytest

from big_vision.launching import gpus


@pytest.mark.parametrize(
  "env, want",
  [
    ({"CUDA_VISIBLE_DEVICES": "2, 3"}, ["2", "3"]),
    ({"CUDA_VISIBLE_DEVICES": "GPU-ab12,GPU-cd34"}, ["GPU-ab12", "GPU-cd34"]),
    ({"CUDA_VISIBLE_DEVICES": ""}, []),
    ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
    ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ["0"]),
    ({"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cpu"}, []),
    ({"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cuda,cpu"}, ["0"]),
    ({"PATH": "/no/folder"}, []),
  ],
)
def test_environment(env, want):
  assert gpus.find(env) == want


def test_nvidia_smi(tmp_path):
  program = tmp_path / "nvidia-smi"
  program.write_text("#!/bin/sh\necho 0\necho 1\n")
  program.chmod(0o755)
  env = {"PATH": str(tmp_path)}
  assert gpus.find(env) == ["0", "1"]
  program.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
  assert gpus.find(env) == []


def test_driver(tmp_path, monkeypatch):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert gpus.driver() is None
  program = tmp_path / "nvidia-smi"
  program.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
  program.chmod(0o755)
  assert gpus.driver() == "580.65.06"
  program.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
  assert gpus.driver() is None
