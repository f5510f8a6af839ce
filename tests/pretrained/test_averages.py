"""The average of parameters, from a run to evaluations and predictions."""

import pathlib

import numpy as np
import pytest

import toy
import trained_run
from big_vision import checkpoints, pretrained, train
from big_vision.tools import average, eval_only, predict
from big_vision.training import cli

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(config, workdir, paths of pictures) of a run with an average."""
  root = tmp_path_factory.mktemp("averages")
  paths = trained_run.pictures(root / "pets")
  c = trained_run.config(root / "pets", ema_decay=0.8, keep_ckpt_steps=2)
  val = {**c.evals.val, "confusion": None}
  c.evals = dict(val=val, val_ema={**val, "params": "ema"})
  cli.train(train.build, c, str(root / "w"))
  return c, root / "w", paths


def accuracy_and_loss(model, paths):
  """Of the pictures, whose folders are their classes."""
  p = model.probabilities(paths)
  labels = [trained_run.CLASSES.index(path.parent.name) for path in paths]
  right = p[np.arange(len(p)), labels]
  return np.mean(p.argmax(axis=1) == labels), -np.mean(np.log(right))


def test_loads_what_was_evaluated(run):
  _, workdir, paths = run
  row = toy.rows(workdir)[6]
  assert row["val/loss"] != row["val_ema/loss"]
  for params, name in (("params", "val"), ("ema", "val_ema")):
    model = pretrained.load(workdir, params=params)
    accuracy, loss = accuracy_and_loss(model, paths)
    assert row[f"{name}/prec@1"] == pytest.approx(accuracy, abs=1e-6)
    assert row[f"{name}/loss"] == pytest.approx(loss, rel=1e-5)
  # As the path of a checkpoint, of an earlier one too.
  init = f"{workdir}/checkpoint.bv-000000002"
  a = pretrained.load(workdir, init=init, params="ema")
  b = pretrained.load(workdir, init=f"{init}:params_ema")
  np.testing.assert_array_equal(a.params["head"]["kernel"], b.params["head"]["kernel"])  # fmt: skip
  assert np.any(a.params["head"]["kernel"] != model.params["head"]["kernel"])


def test_eval_only_measures_it_again(run, tmp_path):
  config, workdir, _ = run
  config = config.copy_and_resolve_references()
  config.init_shapes = [(1, 32, 32, 3)]
  with pytest.raises(
    ValueError, match=r"val_ema\.params .* config\.model_init"
  ):
    eval_only.evaluate(config)
  config.model_init = f"{workdir}/checkpoint.bv"
  eval_only.evaluate(config, str(tmp_path))
  # Everything of the average, also where no evaluator asks for it.
  config.model_init += ":params_ema"
  del config.ema_decay
  eval_only.evaluate(config, str(tmp_path / "ema"))
  want = toy.rows(workdir)[6]
  got, of_path = toy.rows(tmp_path)[0], toy.rows(tmp_path / "ema")[0]
  for metric in ("prec@1", "loss"):
    ema = pytest.approx(want[f"val_ema/{metric}"], rel=1e-5)
    assert got[f"val/{metric}"] == pytest.approx(
      want[f"val/{metric}"], rel=1e-5
    )
    assert got[f"val_ema/{metric}"] == ema
    assert of_path[f"val/{metric}"] == of_path[f"val_ema/{metric}"] == ema


def test_predicts_with_averages(run, tmp_path, capsys):
  _, workdir, paths = run
  w, picture = str(workdir), str(paths[0])
  npz = str(tmp_path / "average.npz")
  assert average.main(["--workdir", w, "--last", "3", "--to", npz]) == 0
  capsys.readouterr()
  kernels = [
    np.float64(
      checkpoints.load_params(f"{w}/checkpoint.bv-{s:09d}:head/kernel")
    )
    for s in (2, 4, 6)
  ]
  for args, kw in (
    (["--params", "ema"], dict(params="ema")),
    (["--init", npz], dict(init=npz)),
  ):
    assert predict.main(["--from", w, *args, "--format", "csv", picture]) == 0
    model = pretrained.load(w, **kw)
    (best,) = model.predict([picture], topk=1)
    assert f"{best[0].probability:.6f}" in capsys.readouterr().out
  np.testing.assert_allclose(
    model.params["head"]["kernel"], np.mean(kernels, axis=0), rtol=1e-6
  )


def test_bad_input(run, tmp_path):
  config, workdir, _ = run
  with pytest.raises(ValueError, match="params='emma'.*Did you mean 'ema'"):
    pretrained.load(workdir, params="emma")
  plain = checkpoints.load_params(f"{workdir}/checkpoint.bv")
  npz = str(tmp_path / "plain.npz")
  checkpoints.save_checkpoint(plain, npz)
  with pytest.raises(ValueError, match="plain.npz' has no average .*ema_decay"):
    pretrained.load(workdir, init=npz, params="ema")
  folder = pathlib.Path(workdir, "checkpoint.bv-000000004")
  for leaf in folder.glob("params_ema~*"):
    leaf.rename(tmp_path / leaf.name)
  with pytest.raises(ValueError, match="000004' has no average of the param"):
    pretrained.load(workdir, init=str(folder), params="ema")
  config = config.copy_and_resolve_references()
  config.evals.val_ema.params = "emma"
  with pytest.raises(ValueError, match=r"val_ema\.params: .*'emma'.*'ema'"):
    cli.train(train.build, config, str(tmp_path / "new"))
