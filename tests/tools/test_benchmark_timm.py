"""`tools.benchmark --against timm`: both sides train the same model."""

import importlib.util
import json

import pytest

from big_vision.tools import benchmark

pytestmark = pytest.mark.usefixtures("quick_compilation")

MIXER = dict(
  variant=None, patch_size=(16, 16), num_blocks=1, hidden_dim=32,
  tokens_mlp_dim=16, channels_mlp_dim=64,
)  # fmt: skip
MODELS = {
  "vit": ["--variant=mu/16"],
  "vit with a token": ["--variant=mu/16", '--model_kw={"pool_type": "tok"}'],
  "mlp_mixer": [f"--model_kw={json.dumps(MIXER)}"],
  "bit_paper": ["--variant=R26x1"],
  "proj.image_text.two_towers": ["--variant=mu/16"],
}


def run(name, *more):
  return benchmark.main(
    [
      "--parts=step", "--against=timm", "--no-reference", "--res=32",
      "--batch=4", "--classes=10", "--steps=1", "--rounds=1", "--devices=1",
      f"--model={name.split()[0]}", *more,
    ]
  )["step"]  # fmt: skip


def test_the_same_models():
  pytest.importorskip("timm")  # With PyTorch it is larger than all the rest.
  for name, args in MODELS.items():
    step = run(name, *args)
    assert step["num_params"] == step["num_params_timm"], name
    times = step["seconds_per_step"]
    assert step["time_relative_to_timm"] == pytest.approx(
      times["big_vision"]["best"] / times["timm"]["best"]
    )


def test_missing_packages(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SystemExit):
    run("vit")
  assert "needs torch: pip install torch timm" in capsys.readouterr().err
