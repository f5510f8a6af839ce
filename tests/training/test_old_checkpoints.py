"""Checkpoints that earlier versions of this package have written.

`golden/checkpoints` has workdirs of one small run, trained by the code of the
day in their names: a ViT, four steps of Adam. Each has its checkpoint, the config and the metrics.

  2026-11-21  arrays without checksums
  2026-11-29  arrays with checksums
  2026-11-30  with their number
"""

import dataclasses
import json
import pathlib
import tarfile

import jax
import ml_collections as mlc
import numpy as np
import pytest

import toy
from big_vision import checkpoints, train
from big_vision.training import resuming
from big_vision.training import state as state_lib

FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "checkpoints"
DAYS = ("2026-11-21", "2026-11-29", "2026-11-30")


def archive(day):
  return tarfile.open(FOLDER / f"{day}.tar.xz")


@pytest.fixture(scope="module", params=DAYS)
def workdir(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  with archive(request.param) as f:
    f.extractall(folder, filter="data")
  return folder


@pytest.fixture(scope="module")
def plan_and_setup():
  """What the run has today."""
  with archive(DAYS[0]) as f:
    config = mlc.ConfigDict(json.load(f.extractfile("config.json")))
  config.model.patch_size = tuple(config.model.patch_size)
  shape = lambda *s: jax.ShapeDtypeStruct(s, np.float32)
  setup = dataclasses.replace(
    toy.setup(config),
    batch_shapes={"image": shape(16, 8, 8, 1), "labels": shape(16, 10)},
  )
  return state_lib.plan(train.build(setup), setup), setup


def test_parameters(workdir):
  params = checkpoints.load_params(f"{workdir}/checkpoint.bv")
  # As the code of that day has measured them.
  norm = np.sqrt(sum(np.square(np.float64(x)).sum() for x in _leaves(params)))
  row = toy.rows(workdir)[4]
  np.testing.assert_allclose(norm, row["l2_params"], rtol=1e-6)
  bias = checkpoints.load_params(f"{workdir}/checkpoint.bv:head/bias")
  np.testing.assert_array_equal(bias, params["head"]["bias"])


def test_the_run_goes_on(workdir, plan_and_setup):
  plan, setup = plan_and_setup
  path = checkpoints.latest(f"{workdir}/checkpoint.bv")
  state = resuming.resume(path, plan.shapes, plan.shardings, setup)
  assert int(state_lib.bv_optax.get_count(state["opt"])) == 4
  assert setup.chrono.accum_examples_seen == 64
  mu = [n for n in checkpoints.leaf_names(path) if n.endswith("head/kernel")]
  assert len(mu) == 3  # The parameter and Adam's two moments.
  names = checkpoints.leaf_names(path)
  of_clock = [name for name in names if name.startswith("chrono/")]
  assert len(_leaves(state)) == len(names) - len(of_clock)


def _leaves(tree):
  return jax.tree.leaves(tree)
