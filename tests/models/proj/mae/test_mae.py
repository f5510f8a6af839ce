"""MAE's pre-training model against transformers, see golden/make_weights.py."""

import pathlib

import jax
import numpy as np
import pytest

from big_vision import models, pretrained
from big_vision.models.proj.mae import mae
from big_vision.models.weights import families, sources

pytestmark = pytest.mark.usefixtures("quick_compilation")
FOLDER = pathlib.Path(__file__).parents[3] / "golden" / "mae"


@pytest.mark.parametrize("scan", [False, True])
def test_same_as_the_library_and_back(scan):
  want = np.load(FOLDER / "expected.npz")
  found = sources.Checkpoint(str(FOLDER), "proj.mae.mae").found
  config = dict(
    model_name="proj.mae.mae",
    model={**found.model, "scan": scan},
    model_init=str(FOLDER),
  )
  model, load = models.build(config)
  image, noise = want["image"], want["noise"]
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), image, noise=noise)
  )["params"]
  params = load(shapes)
  pred, out = jax.jit(lambda p: model.apply({"params": p}, image, noise=noise))(
    params
  )
  np.testing.assert_allclose(pred, want["output"], atol=1e-5)
  np.testing.assert_array_equal(out["mask"], want["mask"])
  np.testing.assert_allclose(mae.loss(pred, out), want["loss"], rtol=1e-5)

  tensors, settings = families.write("transformers", params, found)
  family = families.find(settings, tensors, "proj.mae.mae")
  again = family.read(settings, {k: x.shape for k, x in tensors.items()})
  assert again.model == found.model
  whole = sources.Checkpoint(str(FOLDER), "proj.mae.mae").params()
  jax.tree.map(
    np.testing.assert_array_equal, family.to_params(tensors, again), whole
  )


def test_the_encoder_alone():
  """By default the encoder is loaded, whose parameters are the same."""
  m = pretrained.load(str(FOLDER))
  assert m.config.model_name == "vit"
  whole = sources.Checkpoint(str(FOLDER), "proj.mae.mae").params()
  jax.tree.map(
    np.testing.assert_array_equal,
    m.params["Transformer"],
    whole["Transformer"],
  )


def test_patches_and_loss():
  image = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
  patches = mae.patchify(image, (2, 3))
  assert patches.shape == (2, 4, 18)
  np.testing.assert_array_equal(patches[1, 3], image[1, 2:, 3:].ravel())
  mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0]], np.float32)
  out = dict(target=patches, mask=mask)
  got = mae.loss(patches + mask[..., None] * 2, out, normalize=False)
  np.testing.assert_allclose(got, 4.0)
