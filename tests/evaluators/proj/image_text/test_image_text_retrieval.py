"""Recalls against a sort of every row and column."""

import numpy as np
import pytest

from big_vision.evaluators.proj.image_text import image_text_retrieval as itr


def sorted_recalls(dist, image_of_text):
  """(text to image, image to text) by sorting."""
  by_text = np.argsort(dist, axis=0, kind="stable")
  by_image = np.argsort(dist, axis=1, kind="stable")
  t2i, i2t = {}, {}
  for k in (1, 5, 10):
    hits = [c in by_text[:k, t] for t, c in enumerate(image_of_text)]
    t2i[f"Recall@{k}"] = np.mean(hits)
    hits = [i in image_of_text[row[:k]] for i, row in enumerate(by_image)]
    i2t[f"Recall@{k}"] = np.mean(hits)
  return t2i, i2t


def both(dist, image_of_text):
  return (
    itr.text_to_image_retrieval_eval(dist, image_of_text),
    itr.image_to_text_retrieval_eval(dist, image_of_text),
  )


@pytest.mark.parametrize("levels", [None, 6])  # With and without equal ones.
@pytest.mark.parametrize("num_texts", [20, 47])
def test_against_sorting(num_texts, levels):
  rng = np.random.RandomState(num_texts)
  dist = rng.rand(20, num_texts)
  image_of_text = np.append(np.arange(20), rng.randint(0, 20, num_texts - 20))
  rng.shuffle(image_of_text)
  dist[image_of_text, np.arange(num_texts)] -= 0.4
  if levels:
    dist = np.round(dist * levels).astype(np.int64)
  got = both(dist, image_of_text.tolist())
  assert got == sorted_recalls(dist, image_of_text)
  assert 0 < got[0]["Recall@1"] < 1 and list(got[0]) == list(got[1])


def test_images_without_text_are_not_found():
  dist = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
  t2i, i2t = both(dist, [0, 1])
  assert i2t == dict.fromkeys(i2t, pytest.approx(2 / 3))
  assert t2i["Recall@1"] == 1  # Of equal ones the first.


def test_bad_models_do_not_win():
  image_of_text = np.arange(40)
  for value in (np.nan, 1.0, np.inf):
    for recalls in both(np.full((40, 40), value), image_of_text):
      assert list(recalls.values()) == [1 / 40, 5 / 40, 10 / 40]
  dist = np.where(np.eye(40, dtype=bool), np.nan, 1.0)
  for recalls in both(dist, image_of_text):
    assert set(recalls.values()) == {0}


@pytest.mark.parametrize(
  "shape,image_of_text,words",
  [
    ((2, 3), [0, 1], "2, 3"),
    ((3,), [0, 1, 1], "images, texts"),
    ((2, 2), [0, 2], "0 to 1"),
    ((2, 2), [-1, 1], "-1"),
    ((2, 0), [], "nothing to retrieve"),
  ],
)
def test_bad_arguments(shape, image_of_text, words):
  for fn in (
    itr.text_to_image_retrieval_eval,
    itr.image_to_text_retrieval_eval,
  ):
    with pytest.raises(ValueError, match=words):
      fn(np.zeros(shape), image_of_text)
