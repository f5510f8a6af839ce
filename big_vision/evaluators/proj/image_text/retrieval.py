"""Measures retrieval of the texts of an image, and of the image of a text.

Each image has one or more texts; similarity is the inner product of embeddings,
which the model normalizes if only directions should count.

Shapes: I images, T texts, E size of the embeddings.

References: Karpathy and Fei-Fei 2015, section 4.1, Image-sentence alignment
  evaluation, https://arxiv.org/abs/1412.2306.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from big_vision import lookup
from big_vision.evaluators import iteration
from big_vision.evaluators.proj.image_text import (
  embedding,
  image_text_retrieval,
)
from big_vision.types import Batch, ConfigLike, Devices, PredictFn, TrainState

API = "jit"


def _get_dataset_info(builder: Any) -> Any:
  """Returns the TFDS info of a dataset; tests replace it."""
  return builder.info


def prepare_datasets(
  dataset: Any,
  *,
  pp_img: str,
  pp_txt: str,
  txt_name: str | Sequence[str],
  offset: int = 0,
  cache_final: bool = False,
  max_texts: int | None = None,
) -> tuple[Any, Any]:
  """Separates images and texts.

  Args:
    dataset: tf.data.Dataset of dicts with `image`.
    pp_img: preprocessing of examples to `image`.
    pp_txt: preprocessing of `texts`, a string scalar, to `labels`.
    txt_name: the feature with the texts of an image, any number or one; a
      sequence of str for a feature in a feature.
    offset: id of the first image.
    cache_final: whether to keep the results in memory.
    max_texts: only the first so many texts of an image; None for all.

  Returns:
    (images, texts), finite tf.data.Datasets of single examples. Images have
    `id` (int64) and `image`; texts the `id` of their image, `caption_i` (int32,
    the position among its texts) and `labels`.

  Raises:
    ValueError: there is no such `txt_name`; or `pp_img` or `pp_txt` does not
      give what it should.
  """
  images = _images(dataset, pp_img, offset)
  texts = _texts(dataset, pp_txt, txt_name, offset, max_texts)
  if cache_final:
    images, texts = images.cache(), texts.cache()
  return images, texts


def _images(dataset: Any, pp_img: str, offset: int) -> Any:
  """See `prepare_datasets`."""
  numbered = dataset.enumerate(offset).map(
    lambda number, example: {**example, "id": number}
  )
  return embedding.preprocess(numbered, pp_img, ("id", "image"))


def _texts(
  dataset: Any,
  pp_txt: str,
  txt_name: str | Sequence[str],
  offset: int,
  max_texts: int | None,
) -> Any:
  """See `prepare_datasets`."""
  from big_vision.tf import tf

  keys = (txt_name,) if isinstance(txt_name, str) else tuple(txt_name)
  _nested(dataset.element_spec, keys)  # Errors before tf.data adds to them.

  def unroll(number, example):
    texts = tf.reshape(_nested(example, keys), [-1])[:max_texts]
    size = tf.size(texts)
    return {
      "id": tf.repeat(number, size),
      "caption_i": tf.range(size),
      "texts": texts,
    }

  texts = dataset.enumerate(offset).map(unroll, tf.data.AUTOTUNE).unbatch()
  return embedding.preprocess(texts, pp_txt, ("id", "caption_i", "labels"))


def _nested(example: Any, keys: Sequence[str]) -> Any:
  """Returns the feature at a path; ValueError if there is none."""
  for key in keys:
    if not isinstance(example, dict) or key not in example:
      has = ", ".join(sorted(example)) if isinstance(example, dict) else "none"
      raise ValueError(
        f"txt_name={'/'.join(keys)!r}: no feature {key!r}; there are {has}."
      )
    example = example[key]
  return example


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Lists the datasets of a config.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Pairs of a config key and the arguments of `datasets.core.get`.
  """
  if cfg.get("data"):
    return [("data", cfg["data"])]
  if "dataset" not in cfg:
    return []
  data = {"name": cfg["dataset"], "split": cfg.get("split", "test")}
  # `pp_img` gets pixels.
  more = {"data_dir": cfg.get("data_dir"), "skip_decode": ()}
  return [("dataset", {**data, **more})]


def inputs(
  cfg: Mapping[str, Any],
) -> list[tuple[str, Any, str, tuple[str, ...]]]:
  """Lists what is preprocessed: images and their texts.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Tuples of a config key, data, preprocessing string, and the features that
    the predict function gets.
  """
  images = [
    ("pp_img", data, cfg["pp_img"], ("image",)) for _, data in data_sources(cfg)
  ]
  return [
    *images,
    ("pp_txt", embedding.text_spec(), cfg["pp_txt"], ("labels",)),
  ]


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Computes what `run` computes of one batch, see `evaluators.trial`."""
  fn = embedding.get_embed_fn(
    predict_fn,
    "image" if "image" in batch else "labels",
    embedding.replicated(cfg["devices"]),
  )
  return fn(train_state, batch)


class Evaluator:
  """Returns `img2txt_recall@<k>` and `txt2img_recall@<k>` for k = 1, 5, 10.

  The recall of images to texts is the fraction of images with any of their
  texts among the k most similar ones, that of texts to images the fraction of
  texts with their image among the k most similar.
  """

  def __init__(
    self,
    predict_fn: PredictFn,
    *,
    dataset: str | None = None,
    data: ConfigLike | None = None,
    pp_img: str,
    pp_txt: str,
    txt_name: str | Sequence[str],
    batch_size: int,
    devices: Devices,
    data_dir: str | None = None,
    split: str = "test",
    cache_final: bool = True,
    max_texts: int | None = None,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (zimg, ztxt, ...)`; the batch has
        either `image` or `labels`, and only that embedding [B, E] is used.
      dataset: TFDS name.
      data: arguments of any data source, in the place of `dataset`, `data_dir`
        and `split`; its images are encoded, so `pp_img` begins with `decode`.
      pp_img: preprocessing of (decoded) examples to `image`.
      pp_txt: preprocessing of `texts`, a string scalar, to `labels`.
      txt_name: see `prepare_datasets`.
      batch_size: global batch size.
      devices: flat array of devices in the order of the mesh.
      data_dir: the TFDS folder.
      split: name of the split, or a slice such as "test[:10]".
      cache_final: whether to keep preprocessed images in memory; texts
        always are.
      max_texts: only the first so many texts of each image, such as 5 of
        COCO, where some images have more; None for all.

    Raises:
      ValueError: no such dataset, split or `txt_name`; bad batch size; neither
        or both of `dataset` and `data`.
    """
    # Distinct ids, in the order of processes.
    offset = jax.process_index()
    if data and not dataset:
      from big_vision.datasets import core  # The TensorFlow wing.

      source = core.get(**data)
      examples = encoded = source.get_tfdata(ordered=True, allow_cache=False)
      offset *= source.total_examples
    elif dataset and not data:
      builder, examples = embedding.open_split(dataset, split, data_dir)
      # The texts do not need the pixels.
      _, encoded = embedding.open_split(dataset, split, data_dir, ("image",))
      if offset:
        splits = _get_dataset_info(builder).splits
        offset *= splits[split].num_examples
    else:
      raise lookup.ConfigError(
        "retrieval needs one of dataset= (a TFDS name) and data= (a dict with "
        f"the name of a data source): found {dataset=}, {data=}."
      )
    images = _images(examples, pp_img, offset)
    texts = _texts(encoded, pp_txt, txt_name, offset, max_texts)
    self._images = embedding.Batches(images, batch_size, devices, cache_final)
    self._texts = embedding.Batches(texts, batch_size, devices, True)
    everywhere = embedding.replicated(devices)
    self._embed_images = embedding.get_embed_fn(predict_fn, "image", everywhere)
    self._embed_texts = embedding.get_embed_fn(predict_fn, "labels", everywhere)

  def _embed(
    self,
    train_state: TrainState,
    embed_fn: Callable,
    batches: embedding.Batches,
    after: embedding.Batches | None = None,
  ) -> dict[str, np.ndarray]:
    """Embeds a whole dataset; returns the embeddings with ids."""
    followed = iteration.followed_by(batches, after and after.start)
    results = (embed_fn(train_state, batch) for batch in followed)
    result = iteration.rows(results, batches)
    result["embeddings"] = result["embeddings"].astype(np.float32)
    return result

  def evaluate(self, train_state: TrainState) -> dict[str, Any]:
    """Embeds all images and texts and ranks them.

    Args:
      train_state: first argument of the predict function.

    Returns:
      Dict of `images` (`embeddings` [I, E] and `id` [I]), `texts` (`embeddings`
      [T, E], the `id` [T] of their image and `caption_i` [T]), `img2txt` and
      `txt2img` (dicts of recalls, see `image_text_retrieval`).
    """
    images = self._embed(
      train_state, self._embed_images, self._images, self._texts
    )
    logging.info("Retrieval: %d images", len(images["id"]))
    texts = self._embed(train_state, self._embed_texts, self._texts)
    logging.info("Retrieval: %d texts", len(texts["id"]))
    distances = -(images["embeddings"] @ texts["embeddings"].T)
    image_of_text = np.searchsorted(images["id"], texts["id"])  # Ids ascend.
    return {
      "images": images,
      "texts": texts,
      "img2txt": image_text_retrieval.image_to_text_retrieval_eval(
        distances, image_of_text
      ),
      "txt2img": image_text_retrieval.text_to_image_retrieval_eval(
        distances, image_of_text
      ),
    }

  def run(self, train_state: TrainState) -> list[tuple[str, float]]:
    """Evaluates once over the whole dataset.

    Args:
      train_state: first argument of the predict function.

    Returns:
      List of (name, float), images to texts first, the smallest k first.
    """
    results = self.evaluate(train_state)
    return [
      (f"{direction}_{name.lower()}", value)
      for direction in ("img2txt", "txt2img")
      for name, value in results[direction].items()
    ]
