"""Rewards of captions against the CIDEr-D of evaluation."""

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.evaluators.proj.paligemma.transfers import caption_scores
from big_vision.trainers.proj.reward_tune import captioning_reward

B, N, R, L = 12, 3, 4, 9
PLACES = 2**22  # So many that no two runs share one.


def draw(rng, *shape):
  """Captions of few words, so that runs recur; 1 ends them, 0 follows."""
  words = rng.integers(2, 6, (*shape, L))
  length = rng.integers(1, L + 1, shape)[..., None]
  at = np.arange(L)
  return np.where(at < length, words, np.where(at == length, 1, 0)).astype(
    np.int32
  )


def words(tokens):
  """A caption as evaluation has it."""
  out = []
  for token in tokens:
    if token < 2:
      break
    out.append(f"w{token}")
  return out


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(0)
  references = draw(rng, B, R)
  references[:4, -1] = 0  # Fewer captions.
  samples = draw(rng, B, N)
  samples[:, 0] = references[:, 0]
  return samples, references


def test_same_as_evaluation(data):
  samples, references = data
  counts = captioning_reward.count_images(references, PLACES)
  got = jax.jit(captioning_reward.get_reward(dict(counts=counts)))(
    samples, references
  )
  assert got.shape == (B, N)
  real = [[words(r) for r in image if r.any()] for image in references]
  for j in range(N):
    captions = [words(s) for s in samples[:, j]]
    # The score of an image is what changes without it in the sum.
    every = caption_scores.cider(captions, real) * B
    for i in range(B):
      others = [c if k != i else ["unknown"] for k, c in enumerate(captions)]
      want = every - caption_scores.cider(others, real) * B
      assert got[i, j] == pytest.approx(want, abs=1e-4)
  assert (got[:, 1:].mean(1) < got[:, 0]).mean() > 0.7


def test_counts(data, tmp_path):
  _, references = data
  counts = captioning_reward.count_images(references, PLACES)
  assert counts["num_images"] == B
  found = [
    {tuple(w[i : i + n])
     for r in image for w in [words(r)] for n in (1, 2, 3, 4)
     for i in range(len(w) - n + 1)}
    for image in references
  ]  # fmt: skip
  assert counts["counts"].sum() == sum(map(len, found))
  path = f"{tmp_path}/counts.npz"
  np.savez(path, **counts)
  samples = references[:, :2]
  a, b = (
    captioning_reward.get_reward(dict(counts=c))(samples, references)
    for c in (path, counts)
  )
  np.testing.assert_array_equal(a, b)


def test_short_captions():
  references = np.array([[[5, 1]], [[6, 1]]], np.int32)
  counts = captioning_reward.count_images(references, 64)
  reward = captioning_reward.get_reward(dict(counts=counts))
  got = reward(np.array([[[5, 1, 0], [6, 1, 0], [1, 0, 0]]] * 2), references)
  # Of the four lengths of runs one has something in common.
  np.testing.assert_allclose(got, [[2.5, 0, 0], [0, 2.5, 0]], rtol=1e-5)


def test_without_counts():
  with pytest.raises(lookup.ConfigError, match=r"config\.reward\.counts"):
    captioning_reward.get_reward({})
