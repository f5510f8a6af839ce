"""ReaL accuracy: several correct labels per image, or none at all.

References: Beyer et al. 2020, Are we done with ImageNet?, section 2,
https://arxiv.org/abs/2006.07159.
"""

import jax
import numpy as np
import pytest
import scipy.special

from big_vision.configs import common
from big_vision.datasets import embedded
from big_vision.evaluators import classification
from big_vision.pp import ops_general, ops_image  # noqa: F401 (registers ops)
from big_vision.tf import tfds

pytestmark = pytest.mark.tf

N, C = 45, 1000


def truth():
  """(original label, ReaL labels) of each image; every fifth has none."""
  rng = np.random.default_rng(0)
  real = [
    rng.choice(C, 0 if i % 5 == 0 else rng.integers(1, 4), replace=False)
    for i in range(N)
  ]
  original = [
    int(r[0]) if len(r) and i % 2 else int(rng.integers(C))
    for i, r in enumerate(real)
  ]
  return original, real


class Imagenet2012Real(embedded.Builder, skip_registration=True):
  """The features of the TFDS dataset of this name, images that tell who they
  are."""

  name = "imagenet2012_real"
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    label = tfds.features.ClassLabel(num_classes=C)
    features = {
      "image": tfds.features.Image(encoding_format="png"),
      "original_label": label,
      "real_label": tfds.features.Sequence(label),
      "file_name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"validation": self._generate_examples()}

  def _generate_examples(self):
    for i, (original, real) in enumerate(zip(*truth(), strict=True)):
      name = f"ILSVRC2012_val_{i:08d}.JPEG"
      yield (
        name,
        {
          "image": np.full([4, 4, 3], i, np.uint8),
          "original_label": original,
          "real_label": [int(r) for r in real],
          "file_name": name,
        },
      )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("real"))
  embedded.prepare(lambda: Imagenet2012Real(data_dir=path), num_shards=1)
  return path


def predictions():
  """[N, C] logits; half of the images are recognised, as one of their labels."""
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(N, C)).astype(np.float32)
  for i, r in enumerate(truth()[1]):
    if i % 2 and len(r):
      logits[i, r[-1]] = 10
  return logits


LOGITS = predictions()


def predict(state, batch):
  """Images of one value each tell their number; padding gets any row."""
  number = ((batch["image"][:, 0, 0, 0] + 1) * 127.5 + 0.5).astype(int)
  return state["logits"][number], {}


@pytest.mark.parametrize("batch_size", [8, 40])
@pytest.mark.parametrize("label", ["real_label", "original_label"])
def test_accuracy_of_the_paper(data_dir, batch_size, label):
  # As the core configs ask for it.
  config = common.imagenet_evals(loss_name="sigmoid_xent")["real"]
  assert config.pop("type") == "classification"
  config.pop("log_steps", None)
  config["data"]["data_dir"] = data_dir
  config["pp_fn"] = config["pp_fn"].replace("real_label", label)
  evaluator = classification.Evaluator(
    predict, batch_size=batch_size, devices=np.array(jax.devices()), **config
  )
  got = dict(evaluator.run({"logits": LOGITS}))
  original, real = truth()
  labels = real if label == "real_label" else [[k] for k in original]
  top = LOGITS.argmax(axis=1)
  # Images without labels are left out of numerator and denominator.
  hits = [t in r for t, r in zip(top, labels, strict=True) if len(r)]
  assert len(hits) == (36 if label == "real_label" else N)
  assert got["prec@1"] == pytest.approx(np.mean(hits), abs=1e-6)
  losses = []
  for logits, r in zip(LOGITS.astype(np.float64), labels, strict=True):
    if len(r):
      p = scipy.special.expit(
        np.where(np.isin(np.arange(C), r), logits, -logits)
      )
      losses.append(-np.log(p).sum())
  assert got["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
