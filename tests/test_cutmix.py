"""CutMix: boxes, areas and labels; how it takes turns with mixup."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import scipy.stats

from big_vision import cutmix, lookup, mixup

pytestmark = pytest.mark.usefixtures("quick_compilation")

H, W = 8, 12


def make(**kw):
  return cutmix.make_augment(ml_collections.ConfigDict(kw))


def batch(size=4):
  """Images whose pixels have the number of the example."""
  image = np.zeros((size, H, W, 2)) + np.arange(size)[:, None, None, None]
  return {"image": jnp.float32(image), "labels": jnp.eye(size), "id": 7}


@pytest.fixture(scope="module")
def many():
  """(images, labels) of 3000 keys; examples mix in two parts of the batch."""
  data, keys = batch(), jax.random.split(jax.random.PRNGKey(0), 3000)
  one = lambda key: cutmix.cutmix(
    key, data["image"], data["labels"], p=1.0, num_shards=2
  )
  return jax.device_get(jax.jit(jax.vmap(one))(keys))


def test_pixels_of_a_box_and_labels_by_its_area(many):
  for image, labels in zip(many[0][:50], many[1][:50], strict=True):
    other = image[1] == 0  # [H, W, C], from example 0.
    np.testing.assert_array_equal(other[..., 0], other[..., 1])
    inside = other[..., 0]
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    np.testing.assert_array_equal(inside, rows[:, None] & columns[None])
    for side in (rows, columns):  # One piece.
      assert np.abs(np.diff(np.concatenate([[0], side, [0]]))).sum() in (0, 2)
    share = inside.mean()
    # The example before, within half of the batch.
    want = (1 - share) * np.eye(4) + share * np.eye(4)[[1, 0, 3, 2]]
    np.testing.assert_allclose(labels, want, atol=1e-6)
    np.testing.assert_array_equal(image[2] == 3, other)


def test_boxes_are_those_of_the_paper(many):
  """The distribution of the area, against the formula drawn with NumPy."""
  r = np.random.default_rng(0)
  side = np.sqrt(1 - r.beta(1, 1, 20000))

  def length(size):
    half = (side * size).astype(int) // 2
    center = r.integers(0, size, side.shape)
    return np.clip(center + half, 0, size) - np.clip(center - half, 0, size)

  want = length(H) * length(W)  # Pixels.
  got = np.round(many[1][:, 0, 1] * (H * W))
  assert scipy.stats.ks_2samp(got, want).pvalue > 1e-3


def test_without_cutmix_nothing_changes():
  key, data = jax.random.PRNGKey(5), batch()
  assert make(mixup=dict(p=0.0)) is None and make() is None
  rng, (image, labels), _ = mixup.get_mixup(key, 0.3)(
    data["image"], data["labels"]
  )
  for kw in (
    dict(mixup=dict(p=0.3)),
    dict(mixup=dict(p=0.3), cutmix=dict(p=0)),
  ):
    got, got_rng = make(**kw)(data, key)
    np.testing.assert_array_equal(got["image"], image)
    np.testing.assert_array_equal(got["labels"], labels)
    np.testing.assert_array_equal(got_rng, rng)
    assert got["id"] == 7


@pytest.mark.parametrize(
  "kw, want",
  [
    (dict(mixup=dict(p=1.0), cutmix=dict(p=1.0)), 0.5),
    (dict(mixup=dict(p=1.0), cutmix=dict(p=1.0, switch_prob=0.2)), 0.2),
    (dict(cutmix=dict(p=1.0)), 1.0),
    (dict(cutmix=dict(p=1.0, switch_prob=0.3)), 0.3),
  ],
)
def test_takes_turns(monkeypatch, kw, want):
  """A batch is cut, or mixed up, or (without mixup) left alone."""
  as_ = lambda value: lambda *x: jax.tree.map(lambda x: 0 * x + value, x)
  monkeypatch.setattr(
    cutmix, "cutmix", lambda key, *x, p, num_shards: as_(2.0)(*x)
  )
  monkeypatch.setattr(
    mixup, "get_mixup", lambda rng, *a: lambda *x: (rng, as_(3.0)(*x), {})
  )
  augment, data = make(**kw), batch(2)
  keys = jax.random.split(jax.random.PRNGKey(1), 2000)
  out = jax.jit(jax.vmap(lambda k: augment(data, k)[0]))(keys)
  first = np.asarray(out["image"])[:, 0, 0, 0, 0]
  np.testing.assert_array_equal(
    np.asarray(out["labels"])[:, 0, 1] == 2, first == 2
  )
  assert set(first) <= {2.0, 3.0 if "mixup" in kw else 0.0}
  assert abs(np.mean(first == 2) - want) < 0.04


@pytest.mark.parametrize(
  "kw, message",
  [
    (dict(p=-1), r"config.cutmix.p = -1 must be"),
    (dict(switch_prob=0.5), r"config.cutmix.p = None must be"),
    (dict(p=1, switch_prob=2), r"config.cutmix.switch_prob = 2 must be"),
    (dict(p=1, alpha=1), r"config.cutmix.alpha is not a known key"),
  ],
)
def test_bad_settings(kw, message):
  with pytest.raises(ValueError, match=message):
    make(cutmix=kw)


def test_refuses_sequences_of_patches():
  data = {"image": jnp.zeros((2, 4, 3)), "labels": jnp.eye(2)}
  with pytest.raises(lookup.ConfigError, match="not for sequences"):
    make(cutmix=dict(p=1.0))(data, jax.random.PRNGKey(0))
