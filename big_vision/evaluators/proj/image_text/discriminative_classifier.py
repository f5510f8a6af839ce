"""Classifies zero-shot: finds the class with the most similar text.

The weights of the classifier are embeddings of texts: for each class the mean
over all its names and all prompts around them.

Shapes: B global batch size, C classes, P prompts of all classes, E size of the
embeddings.

References: Radford et al. 2021, section 3.1.4, Prompt engineering and
  ensembling, https://arxiv.org/abs/2103.00020.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import NamedSharding

from big_vision import devices as bv_devices
from big_vision.evaluators import iteration
from big_vision.evaluators.proj.image_text import (
  classes,
  embedding,
  overrides,
  prompt_engineering,
)
from big_vision.lookup import ConfigError
from big_vision.types import (
  AnyArray,
  Array,
  Batch,
  Devices,
  PredictFn,
  TrainState,
)

API = "jit"

DATASET_NAMES = ("imagenet2012", "cifar100", "oxford_iiit_pet")
PP_IMG = "resize(224)|value_range(-1,1)"
PP_TXT = (
  "tokenize(max_len=16, eos='sticky', pad_value=1, inkey='texts', "
  "outkey='labels')"
)


def _get_dataset_info(builder: Any) -> Any:
  """Returns the TFDS info of a dataset; tests replace it."""
  return builder.info


def prepare_datasets(
  img_dataset: Any,
  class_names: Sequence[str],
  *,
  prompt_templates: Sequence[str],
  pp_img: str,
  pp_txt: str,
  cache_final: bool = False,
  pre_filter_fn: Callable[[Any], Any] | None = None,
  class_name_offset: int = 0,
) -> tuple[Any, Any]:
  """Prepares images to classify, and the texts that describe the classes.

  Args:
    img_dataset: tf.data.Dataset of dicts with `image` and `label`.
    class_names: names of the classes; a class may have several names, separated by
      commas.
    prompt_templates: sentences, each with one "{}" for the name.
    pp_img: preprocessing of examples to `image` and `label`.
    pp_txt: preprocessing of `texts`, a string scalar, to `labels`.
    cache_final: whether to keep the results in memory.
    pre_filter_fn: raw example -> bool tensor, keeps those that give True.
    class_name_offset: the label of the first of `class_names`.

  Returns:
    (images, texts), finite tf.data.Datasets of single examples: images with
    `image` and `label`; texts with `labels` and `label` (int32 scalar), ordered
    by class, its names, and the templates.

  Raises:
    ConfigError: no templates, or not one "{}" in one of them.
    ValueError: `pp_img` or `pp_txt` does not give what it should.
  """
  from big_vision.tf import tf

  images = img_dataset
  if pre_filter_fn is not None:
    images = images.filter(pre_filter_fn)
  images = embedding.preprocess(images, pp_img, ("label", "image"))

  prompts = prompt_engineering.prompts(class_names, prompt_templates)
  labels = [class_name_offset + c for c, _ in prompts]
  # The types have to be given for the case without classes.
  entries: Any = {
    "label": tf.constant(labels, tf.int32),
    "texts": tf.constant([text for _, text in prompts], tf.string),
  }
  texts = tf.data.Dataset.from_tensor_slices(entries)
  texts = embedding.preprocess(texts, pp_txt, ("label", "labels"))
  if cache_final:
    images, texts = images.cache(), texts.cache()
  return images, texts


def _average_embeddings(
  embeddings: AnyArray,
  *,
  labels: Any,
  num_classes: int,
  normalize: bool,
) -> np.ndarray:
  """Averages the embeddings of each class.

  Args:
    embeddings: [P, E] array.
    labels: [P] ints, the class of each.
    num_classes: C.
    normalize: whether to divide the means by their norm.

  Returns:
    [C, E] float32 array.

  Raises:
    ConfigError: shapes do not fit, or a class has no embedding.
  """
  embeddings, labels = np.asarray(embeddings), np.asarray(labels)
  if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
    raise ConfigError(
      "Expected embeddings [P, E] and labels [P], got "
      f"{embeddings.shape} and {labels.shape}."
    )
  counts = np.bincount(labels, minlength=num_classes)
  if len(counts) != num_classes:
    raise ConfigError(
      f"Labels are up to {labels.max()}, but there are {num_classes} classes."
    )
  missing = np.flatnonzero(counts == 0)
  if len(missing):
    raise ConfigError(f"Classes without any text: {missing.tolist()}.")
  order = np.argsort(labels, kind="stable")
  starts = np.cumsum(counts) - counts
  sums = np.add.reduceat(embeddings[order], starts, axis=0, dtype=np.float64)
  means = sums / counts[:, None]
  if normalize:
    means /= 1e-8 + np.linalg.norm(means, axis=1, keepdims=True)
  return means.astype(np.float32)


@functools.cache  # One compilation for all evaluators of a predict function.
def get_classify_fn(
  predict_fn: PredictFn, return_embeddings: bool, sharding: NamedSharding
) -> Callable[[TrainState, Batch, Array], tuple[Any, Any]]:
  """Compiles the classification of one batch.

  Args:
    predict_fn: `(train_state, {"image": x}) -> (zimg [B, E], ...)`.
    return_embeddings: whether to return them.
    sharding: where the result should be.

  Returns:
    `fn(train_state, batch, ztxt [C, E]) -> ((number correct, number of
    examples, number without label), examples)`, three int32 scalars and, if
    `return_embeddings`, a dict of `label` and `embedding` with the mask, else
    None. Labels are [B] or [B, K]: any of the K is right. Without label are
    those whose label [B] is none of the C classes.
  """

  def fn(train_state, batch, ztxt):
    zimg = embedding.embed(predict_fn, "image", train_state, batch["image"])
    label, mask = batch["label"], batch["_mask"]
    best = jnp.argmax(jnp.dot(zimg, ztxt.T), axis=1)  # [B]
    correct = best[:, None] == label.reshape(len(best), -1)
    correct = jnp.any(correct, axis=1) & mask
    examples = {"label": label, "embedding": zimg}, mask
    none = jnp.zeros_like(mask)
    if label.ndim == 1:  # Sets of labels, such as ReaL's, may be empty.
      none = ((label < 0) | (label >= len(ztxt))) & mask
    sums = [x.sum(dtype=jnp.int32) for x in (correct, mask, none)]
    return sums, examples if return_embeddings else None

  return jax.jit(fn, out_shardings=sharding)


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Lists the datasets of a config.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Pairs of a config key and the arguments of `datasets.core.get`.

  Raises:
    ConfigError: wrong `dataset_overrides`.
  """
  return [
    (f"dataset_names.{name}", _data(s)) for name, s in _settings(cfg).items()
  ]


def _settings(cfg: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns what tells data and preprocessing of each of the datasets."""
  names = cfg.get("dataset_names", DATASET_NAMES)
  own = cfg.get("dataset_overrides", overrides.DEFAULT_OVERRIDES)
  defaults = dict(split="test", data_dir=None, pp_img=PP_IMG, pp_txt=PP_TXT)
  defaults = {k: cfg.get(k, v) for k, v in defaults.items()}
  return overrides.resolve(defaults, names, own)


def _data(s: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments of `datasets.core.get`, given the settings."""
  split, data_dir = s["split"], s["data_dir"]
  # `pp_img` gets pixels.
  data = {"name": s["dataset_name"], "split": split, "data_dir": data_dir}
  return {**data, "skip_decode": ()}


def inputs(
  cfg: Mapping[str, Any],
) -> list[tuple[str, Any, str, tuple[str, ...]]]:
  """Lists what is preprocessed, of the first dataset.

  Args:
    cfg: arguments of the evaluator.

  Returns:
    Tuples of a config key, data, preprocessing string, and the features that
    the predict function gets.
  """
  first = [*_settings(cfg).values()][:1]
  images = [("pp_img", _data(s), s["pp_img"], ("image",)) for s in first]
  spec = embedding.text_spec()
  return images + [("pp_txt", spec, s["pp_txt"], ("labels",)) for s in first]


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


def check_labels(cfg: Mapping[str, Any]) -> None:
  """Checks that there are enough names of classes, before data is opened.

  Args:
    cfg: arguments of the evaluator.

  Raises:
    ConfigError: a dataset can have labels without a name; begins with the key.
  """
  names = tuple(cfg.get("dataset_names", DATASET_NAMES))
  own = cfg.get("dataset_overrides", overrides.DEFAULT_OVERRIDES)
  signature = inspect.signature(Evaluator).parameters
  defaults = {
    k: cfg.get(k, signature[k].default)
    for k in overrides.OVERRIDE_KEYS
    if k in signature
  }
  for name, s in overrides.resolve(defaults, names, own).items():
    key = "class_names"
    if isinstance(own, Mapping) and key in own.get(name, {}):
      key = f"dataset_overrides.{name}.class_names"
    builder = embedding.get_builder(s["dataset_name"], s["data_dir"])
    classes.check_names(s, classes.names(s), builder, key)


class Evaluator:
  """Gives `<name>_accuracy` for each of `dataset_names`, in [0, 1]."""

  def __init__(
    self,
    predict_fn: PredictFn,
    *,
    batch_size: int,
    devices: Devices,
    dataset_names: Sequence[str] = DATASET_NAMES,
    data_dir: str | None = None,
    class_names: str | Sequence[str] = "dataset_info:label",
    split: str = "test",
    prompt_templates: str | Sequence[str] = "clip_paper",
    canonicalize: bool = True,
    pp_img: str = PP_IMG,
    pp_txt: str = PP_TXT,
    cache_final: bool = False,
    pre_filter_fn: Callable[[Any], Any] | None = None,
    first_class_name_only: bool = True,
    dataset_overrides: Any = overrides.DEFAULT_OVERRIDES,
    async_delay: int = 1,
  ) -> None:
    """Opens the data.

    Args:
      predict_fn: `(train_state, batch) -> (zimg, ztxt, ...)`; the batch has
        either `image` or `labels`, and only that embedding [B, E] is used.
      batch_size: global batch size, of images and of texts.
      devices: flat array of devices in the order of the mesh.
      dataset_names: what to evaluate: TFDS names, unless
        `dataset_overrides` has a `dataset_name`.
      data_dir: the TFDS folder.
      class_names: see `prompt_engineering.get_class_names`.
      split: name of the split, of all datasets.
      prompt_templates: see `prompt_engineering.get_prompt_templates`.
      canonicalize: whether to spell names and prompts in a uniform way.
      pp_img: preprocessing of (decoded) examples to `image` and `label`:
        [] or [K] ints, any of which is right, such as those of ReaL with -1 in
        place of none.
      pp_txt: preprocessing of `texts`, a string scalar, to `labels`.
      cache_final: whether to keep preprocessed images in memory; texts
        always are.
      pre_filter_fn: raw example -> bool tensor, keeps those that give True. The
        first run reads all images twice, to count them.
      first_class_name_only: use only the first of the names of a class, which
        commas separate.
      dataset_overrides: dict: name -> dict of `overrides.OVERRIDE_KEYS`, the
        arguments of this name; or pairs in place of any of these dicts.
      async_delay: how many batches are computed before the oldest is
        waited for.

    Raises:
      ConfigError: wrong `dataset_overrides` or `async_delay`.
      KeyError: unknown class names or templates.
      ValueError: no such dataset or split, or bad batch size.
    """
    if async_delay <= 0:
      raise ConfigError(f"async_delay={async_delay} should be positive.")
    self.async_delay = async_delay
    self.batch_size = batch_size
    self.devices = devices
    self.first_class_name_only = first_class_name_only
    self._predict_fn = predict_fn
    self._everywhere = embedding.replicated(devices)
    self._warned: set[str] = set()  # Datasets with labels that are no class.
    defaults = {
      "data_dir": data_dir,
      "class_names": class_names,
      "pp_img": pp_img,
      "pp_txt": pp_txt,
      "cache_final": cache_final,
      "split": split,
      "pre_filter_fn": pre_filter_fn,
      "prompt_templates": prompt_templates,
      "canonicalize": canonicalize,
    }
    self.datasets: dict[str, dict[str, Any]] = {}
    self._batches: dict[str, list[embedding.Batches]] = {}
    settings = overrides.resolve(defaults, dataset_names, dataset_overrides)
    for name, s in settings.items():
      self.datasets[name] = self._open(s)
      self._batches[name] = [
        embedding.Batches(self.datasets[name][k], batch_size, devices, cache)
        for k, cache in (("images", s["cache_final"]), ("texts", True))
      ]

  def _open(self, s: dict[str, Any]) -> dict[str, Any]:
    """Makes the entry of `datasets`, given the settings."""
    names = classes.names(s)
    if self.first_class_name_only:
      names = [name.split(",")[0] for name in names]
    builder, examples = embedding.open_split(
      s["dataset_name"], s["split"], s["data_dir"]
    )
    classes.check_names(s, names, builder)
    # Each process embeds the texts of some of the classes.
    part = np.array_split(np.arange(len(names)), jax.process_count())
    part = part[jax.process_index()]
    images, texts = prepare_datasets(
      examples,
      [names[c] for c in part],
      prompt_templates=prompt_engineering.get_prompt_templates(
        s["prompt_templates"], canonicalize=s["canonicalize"]
      ),
      pp_img=s["pp_img"],
      pp_txt=s["pp_txt"],
      pre_filter_fn=s["pre_filter_fn"],
      class_name_offset=int(part[0]) if len(part) else 0,
    )
    return {
      "images": images,
      "texts": texts,
      "class_names": names,
      "dataset_name": s["dataset_name"],
      "split": s["split"],
    }

  def _embed_texts(
    self, train_state: TrainState, name: str
  ) -> dict[str, np.ndarray]:
    """Returns `label` [P], `embedding` [P, E], `average_embedding` [C, E]."""
    embed_fn = embedding.get_embed_fn(
      self._predict_fn, "labels", self._everywhere
    )
    images, batches = self._batches[name]
    followed = iteration.followed_by(batches, images.start)
    texts = iteration.rows(
      (embed_fn(train_state, batch) for batch in followed),
      batches,
      self.async_delay,
    )
    embeddings = texts["embeddings"].astype(np.float32)
    average = _average_embeddings(
      embeddings,
      labels=texts["label"],
      num_classes=len(self.datasets[name]["class_names"]),
      normalize=True,
    )
    return {
      "label": texts["label"],
      "embedding": embeddings,
      "average_embedding": average,
    }

  def evaluate(
    self,
    train_state: TrainState,
    dataset_name: str,
    *,
    return_embeddings: bool = False,
    after: str | None = None,
  ) -> dict[str, Any]:
    """Classifies the images of one dataset.

    Args:
      train_state: first argument of the predict function.
      dataset_name: one of `dataset_names`.
      return_embeddings: whether to return them too.
      after: the dataset of the next call, which is begun to be read.

    Returns:
      Dict of `accuracy` (float), `correct` and `count` (int). If
      `return_embeddings`, also `images`, a dict of `label` and `embedding` of
      each, and `texts`, a dict of `label` and `embedding` of each prompt, and
      `average_embedding` [C, E].
    """
    texts = self._embed_texts(train_state, dataset_name)
    with jax.transfer_guard("allow"):  # It takes this for an accident.
      ztxt = bv_devices.reshard(texts["average_embedding"], self._everywhere)
    classify_fn = get_classify_fn(
      self._predict_fn, return_embeddings, self._everywhere
    )
    batches = self._batches[dataset_name][0]
    start = self._batches[after][1].start if after else None
    followed = iteration.followed_by(batches, start)
    results = (classify_fn(train_state, batch, ztxt) for batch in followed)
    on_host = list(iteration.fetch(results, self.async_delay))
    sums = iteration.totals(sums for sums, _ in on_host)
    correct, count, without = map(int, sums)
    if without and dataset_name not in self._warned:
      self._warned.add(dataset_name)
      logging.warning(
        "%d of %d examples of %s have a label that is none of the %d classes: "
        "they count as wrong.", without, count, dataset_name, len(ztxt)
      )  # fmt: skip
    result: dict[str, Any] = {
      "accuracy": correct / count,
      "correct": correct,
      "count": count,
    }
    logging.info("Zero-shot classification of %s: %s", dataset_name, result)
    if return_embeddings:
      examples = (examples for _, examples in on_host)
      result["images"] = iteration.rows(examples, batches)
      result["texts"] = texts
    return result

  def run(self, train_state: TrainState) -> list[tuple[str, float]]:
    """Evaluates all datasets.

    Args:
      train_state: first argument of the predict function.

    Returns:
      List of (name, float).
    """
    return [
      (f"{name}_accuracy", result["accuracy"])
      for name, result in self._evaluate_all(train_state)
    ]

  def _evaluate_all(
    self, train_state: TrainState
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and the result of each dataset."""
    for name, after in itertools.pairwise([*self.datasets, None]):
      assert name is not None  # That is the end.
      yield name, self.evaluate(train_state, name, after=after)
