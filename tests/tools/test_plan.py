"""The command: what it reads, what it says, and its errors."""

import json
import subprocess
import sys
import types

import jax
import ml_collections as mlc
import pytest

from big_vision import train
from big_vision.configs.proj.clippo import train_clippo
from big_vision.configs.proj.image_text import siglip_pretrain
from big_vision.configs.proj.uvim import (
  train_nyu_depth_pretrained,
  vqvae_nyu_depth,
)
from big_vision.planning import chips, report
from big_vision.tools import plan
from big_vision.trainers.proj.image_text import siglip
from big_vision.trainers.proj.uvim import train as stage_2
from big_vision.trainers.proj.uvim import vqvae

VIT = dict(width=64, depth=2, mlp_dim=128, num_heads=4, patch_size=(8, 8))


def make_config(**kw):
  default = dict(
    total_steps=100,
    num_classes=10,
    input=dict(batch_size=64, pp="decode|resize(40)|central_crop(32)|flip_lr"),
    model_name="vit",
    model=VIT,
    optax_name="scale_by_adam",
    lr=1e-3,
    schedule=dict(decay_type="cosine"),
  )
  return mlc.ConfigDict({**default, **kw})


@pytest.mark.parametrize(
  "text, axes, devices, want",
  [
    ("data=8", None, None, {"data": 8}),
    ("data=4,model=2", [("x", 3)], None, {"data": 4, "model": 2}),
    ("data=4,model=2", None, 8, {"data": 4, "model": 2}),
    (None, None, 16, {"data": 16}),
    (None, [("replica", 2), ("fsdp", -1)], 16, {"replica": 2, "fsdp": 8}),
    (None, [("data", 4)], None, {"data": 4}),
  ],
)
def test_mesh(text, axes, devices, want):
  assert plan.parse_mesh(text, axes, devices) == want


@pytest.mark.parametrize(
  "text, axes, devices, message",
  [
    ("2048", None, None, "--mesh='2048'.*--mesh data=2048"),
    ("data=8;model=2", None, None, "--mesh=.*comma-separated"),
    ("data=8,data=2", None, None, "distinct axes"),
    ("data=0", None, None, "--mesh='data=0'"),
    (None, None, None, "all devices.*--devices, or use --mesh"),
    (None, [("a", 3), ("b", -1)], 8, "--devices=8.*a multiple of 3"),
    ("data=4", None, 8, "--devices=8 does not fit .* it must be 4"),
  ],
)
def test_bad_meshes(text, axes, devices, message):
  with pytest.raises(ValueError, match=message):
    plan.parse_mesh(text, axes, devices)


@pytest.mark.parametrize(
  "pp, want",
  [
    ("decode|resize(256)|central_crop(224)|value_range(-1, 1)", (224, 224)),
    ("decode_jpeg_and_inception_crop(160, area_min=5)|flip_lr", (160, 160)),
    ("decode|resize(size=(64, 32))", (64, 32)),
    ("decode|resize(64)|central_crop", (64, 64)),
    ("decode|random_crop(crop_size=(48, 40, 3))", (48, 40)),
  ],
)
def test_image_size(pp, want):
  config = mlc.ConfigDict(dict(input=dict(pp=pp)))
  assert plan.image_size(config) == want
  assert plan.image_size(config, 99) == (99, 99)


def test_unknown_image_size():
  config = mlc.ConfigDict(dict(input=dict(pp="decode|flip_lr")))
  with pytest.raises(ValueError, match="config.input.pp.*--image_size"):
    plan.image_size(config)


def test_trainer_of_a_config():
  uvim = "big_vision.trainers.proj.uvim"
  for keys, want in (
    ({}, "big_vision.train"),
    (dict(mixup={}, num_classes=3), "big_vision.train"),
    (dict(eval_repeats=1), "big_vision.train"),
    (dict(seed=0, freeze_dict=True), f"{uvim}.vqvae"),
    (dict(oracle=dict(task="x")), f"{uvim}.train"),
  ):
    assert plan.trainer_of(mlc.ConfigDict(keys)) == want


def pairs_config(arg="path=coco_captions", batch_size=32, **kw):
  config = siglip_pretrain.get_config(arg)
  config.model.image = dict(
    width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=(16, 16)
  )
  config.model.text = dict(
    width=16, depth=1, mlp_dim=16, num_heads=2, vocab_size=50
  )
  config.model.out_dim = (None, 16)
  config.input.batch_size = batch_size
  config.loss_chunk = 5
  config.update(kw)
  return config


@pytest.mark.parametrize("loss, products", [("sigmoid", 3), ("softmax", 1 + 3)])
def test_pairs_of_image_and_text(loss, products):
  config = pairs_config(loss_fn=loss)
  size = plan.image_size(config)
  assert plan.trainer_of(config) == siglip.__name__ and size == (224, 224)
  one, got = report.plan(siglip.build, config, {"data": 1}, size)
  assert got["bytes"]["batch"] == 4 * 32 * (224**2 * 3 + 64)
  # With 4 devices each has a quarter of the towers, and compares its images with
  # all texts; blocks of 5 columns cover 8 texts in 2, and 32 in 7.
  four, got = report.plan(siglip.build, config, {"data": 4}, size)
  assert got["bytes"]["batch"] == 4 * 8 * (224**2 * 3 + 64)
  pairs = lambda rows, columns: products * rows * columns * 2 * 16
  towers = one.product_flops - pairs(32, 7 * 5)
  assert four.product_flops == towers / 4 + pairs(8, 4 * 2 * 5)
  # Gradients of all parameters are summed once.
  (sums,) = got["collectives"]
  assert sums["kind"] == "all-reduce" and sums["devices"] == 4
  assert sums["payload"] == pytest.approx(4 * got["num_params"], rel=0.01)


def test_micro_batches_of_pairs_embed_twice():
  size = (224, 224)
  one, _ = report.plan(siglip.build, pairs_config(), {"data": 2}, size)
  config = pairs_config(grad_accum_steps=4)
  four, got = report.plan(siglip.build, config, {"data": 2}, size)
  # A step is three times the forward pass, without a gradient of the pixels.
  pairs = 3 * 16 * 2 * 4 * 5 * 2 * 16
  pixels = 16 * 14**2 * (16**2 * 3) * 2 * 16
  forward = (one.product_flops - pairs + pixels) / 3
  more = four.product_flops - one.product_flops
  assert more == pytest.approx(forward, rel=0.01)
  (sums,) = got["collectives"]
  assert sums["payload"] == pytest.approx(4 * got["num_params"], rel=0.01)


def test_pairs_that_are_not_planned():
  clippo = train_clippo.get_config()
  shapes = siglip.batch_shapes(clippo, 4, (224, 224))
  assert shapes["labels"] == shapes["image"]  # Texts are pictures.
  assert plan.trainer_of(clippo).endswith("image_text.contrastive")
  for config, message in (
    (pairs_config("path=coco_captions,captioning"), "config.captioning is not"),
    (pairs_config(self_distill=dict()), "config.self_distill is not planned"),
    (pairs_config(input=dict(pp="decode|resize(8)")), "the length of texts"),
  ):
    with pytest.raises(ValueError, match=message):
      report.plan(siglip.build, config, {"data": 1}, (224, 224))


def test_stage_1_of_uvim():
  config = vqvae_nyu_depth.get_config("res=32,runlocal")
  size = plan.image_size(config)
  _, got = report.plan(vqvae.build, config, {"data": 4}, size, ["v3"])
  # 4 examples on each device: a picture and a depth map of float32.
  assert got["bytes"]["batch"] == 4 * 4 * 32 * 32 * (3 + 1)
  # The dictionary and how often each codeword is used.
  assert got["bytes"]["state"] == 4 * 4096 * (768 + 1)
  config.task = "proj.uvim.common"
  with pytest.raises(ValueError, match="config.task: unknown task.*_task"):
    report.plan(vqvae.build, config, {"data": 4}, size)


def test_stage_2_of_uvim():
  """Stage I takes memory but no gradients, and is not opened."""
  config = train_nyu_depth_pretrained.get_config()
  small = dict(width=16, mlp_dim=16, num_heads=2, enc_depth=1, dec_depth=1)
  config.oracle.model.update(small, dict_size=7, codeword_dim=3, code_len=4)
  small = dict(emb_dim=16, mlp_dim=16, num_heads=2, num_layers=1)
  config.model.update(small)
  config.input.batch_size = 16
  config.evals = {}
  assert config.oracle.model_init.startswith("gs://")
  assert (plan.trainer_of(config), plan.image_size(config)) == (
    stage_2.__name__, (512, 512)
  )  # fmt: skip
  costs, got = report.plan(stage_2.build, config, {"data": 4}, (512, 512))
  assert got["bytes"]["batch"] == 4 * 4 * 512**2 * (2 * 3 + 1)
  oracle = costs.program.frozen["oracle"]
  assert got["bytes"]["frozen"] == sum(
    4 * x.size for x in jax.tree.leaves(oracle)
  )
  assert oracle["state"]["dictionary"].shape == (7, 3)
  assert (
    got["gradient_bytes"] == got["bytes"]["params"] == 4 * got["num_params"]
  )


@pytest.mark.parametrize(
  "kw, mesh, names, message",
  [
    ({}, {"data": 8}, ["h10"], "--chip: unknown chip 'h10'.*'h100'"),
    ({}, {"data": 48}, [], "batch_size=64 is not divisible by the 48 .*=48"),
    (
      dict(grad_accum_steps=3), {"data": 8}, [],
      "=64 is not divisible by config.grad_accum_steps=3 times the 8 .*=72",
    ),
    ({}, {"model": 8}, [], "sharding_rules: act_batch is on 'data'.*config.mesh"),
    (dict(num_classes=None), {"data": 8}, [], "config.num_classes is required"),
    (dict(model_name="vti"), {"data": 8}, [], "config.model_name.*'vti'"),
  ],
)  # fmt: skip
def test_bad_runs(kw, mesh, names, message):
  with pytest.raises(ValueError, match=message):
    report.plan(train.build, make_config(**kw), mesh, (32, 32), names)


def test_figures_of_data_parallel():
  config = make_config()
  _, got = report.plan(train.build, config, {"data": 8}, (32, 32))
  assert got["examples_per_device"] == 8
  # The parameters of a ViT, from their shapes; adam keeps two copies, a counter
  # and what the schedule and the clipping count.
  w, mlp, tokens = 64, 128, 16
  block = 4 * w * (w + 1) + 2 * w * mlp + mlp + w + 4 * w
  stem, head = (8 * 8 * 3 + 1) * w, (w + 1) * 10
  num = stem + tokens * w + 2 * block + 2 * w + head
  # The pooling is by the mean, the default.
  assert got["num_params"] == num
  assert got["bytes"]["params"] == got["gradient_bytes"] == 4 * num
  assert 8 * num <= got["bytes"]["opt"] <= 8 * num + 100
  assert got["bytes"]["batch"] == 8 * 4 * (32 * 32 * 3 + 10)
  # Products: 2 for each multiplication forward, twice as many backward, but no
  # gradient of the image.
  per_token = 2 * (4 * w * w + 2 * tokens * w + 2 * w * mlp)
  flops = (
    8 * 2 * (3 * (tokens * per_token + w * 10) + 2 * tokens * 8 * 8 * 3 * w)
  )
  assert got["product_flops"] == pytest.approx(flops, rel=0.01)
  assert got["flops_of_all_devices"] == 8 * got["flops"]
  # Gradients and the loss are summed over devices, nothing else.
  (row,) = got["collectives"]
  assert (row["kind"], row["devices"]) == ("all-reduce", 8)
  assert row["payload"] == pytest.approx(4 * num, abs=100)
  assert row["sent"] == pytest.approx(2 * 7 / 8 * row["payload"], abs=200)


def test_figures_of_chips():
  c, got = report.plan(
    train.build, make_config(), {"data": 8}, (32, 32), ["h100", "v3"]
  )
  assert list(got["chips"]) == ["h100", "v3"]
  row = got["chips"]["h100"]
  assert row["fits"]
  assert row["seconds"] == c.seconds(chips.CHIPS["h100"])
  assert row["images_per_second"] == 64 / max(row["seconds"].values())
  assert row["bound"] == max(row["seconds"], key=row["seconds"].get)
  assert (row["chips"], got["chips"]["v3"]["chips"]) == (8, 4)
  text = report.show(got)
  assert "yes" in text and "does not fit" not in text
  assert report.show_advice(got) == ""


def test_what_does_not_fit_and_what_helps(monkeypatch):
  """The text; tests/planning/test_advice.py has how changes are found."""
  small = dict(hbm=1e-3, kind="TPU", tflops=1, hbm_speed=1, link_speed=1)
  for name in ("small", "tiny"):
    chip = chips.Chip(name, group=1, **small)
    monkeypatch.setitem(chips.CHIPS, name, chip)
  wanted = ["small", "tiny", "v4"]
  now, got = report.plan(
    train.build, make_config(), {"data": 4}, (32, 32), wanted
  )
  text = report.show(got)
  assert "small: does not fit in 0.001 GiB less 10%. The largest part: " in text
  assert "small: more devices than a pod has." in text

  def find(build, config, mesh, size, too_small, costs):
    assert (mesh, size, costs) == ({"data": 4}, [32, 32], now)
    assert [c.name for c in too_small] == ["small", "tiny"]
    rows = [("config.grad_accum_steps = 2", 2**19), ("--mesh data=8", 2**18)]
    return {"small": rows, "tiny": []}

  monkeypatch.setattr(report.advice, "find", find)
  report.advise(train.build, make_config(), now, got)
  assert "would_fit" not in got["chips"]["v4"]
  assert report.show_advice(got).splitlines() == [
    "It would fit on small with any of",
    "  config.grad_accum_steps = 2: 0.00 GiB",
    "  --mesh data=8: 0.00 GiB",
    "No single change that was tried makes it fit on tiny.",
  ]


def test_command_line(tmp_path):
  out = tmp_path / "plan.json"
  done = subprocess.run(
    [
      sys.executable, "-m", "big_vision.tools.plan",
      "--config", "big_vision/configs/vit_i1k.py:variant=Ti/16",
      "--config.input.batch_size=256", "--config.model.variant=mu/16",
      "--mesh=data=32", "--chip=v4,h100", f"--json={out}",
    ],
    capture_output=True,
    text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  figures = json.loads(out.read_text())
  assert figures["batch_size"] == 256 and figures["image_size"] == [224, 224]
  assert list(figures["chips"]) == ["v4", "h100"]
  text = done.stdout
  assert f"{figures['num_params']:,} parameters, batch 256 of 224x224" in text
  assert "32 devices (data=32)" in text


def test_errors_on_the_command_line(monkeypatch, capsys):
  """One message, without a traceback."""

  def run(**kw):
    default = dict(
      config=make_config(), mesh="data=8", devices=None, image_size=None,
      trainer="big_vision.train", chip=[], advice=True, json=None,
      suggest=False, chips=None,
    )  # fmt: skip
    args = types.SimpleNamespace(**{**default, **kw})
    monkeypatch.setattr(plan.flags, "FLAGS", args)
    with pytest.raises(SystemExit) as e:
      plan.main([])
    assert capsys.readouterr().out == ""
    return e.value.code

  assert "--config is required" in run(config=None)
  assert "config.input is required" in run(config=mlc.ConfigDict())
  assert "--config.input.batch_size=" in run(mesh="data=33")
  assert "--mesh='8'" in run(mesh="8")
  assert "unknown chip 'h10'" in run(chip=["h10"])
  assert "--chips v5p=256" in run(suggest=True)
  assert "unknown chip 'h10'" in run(suggest=True, chips="h10=8")
  text = run(suggest=True, chips="h100=48")
  assert "=64 is not divisible by the 48 devices of --chips=h100=48" in text
