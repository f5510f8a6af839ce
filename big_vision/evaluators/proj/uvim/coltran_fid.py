"""Measures colorization by the Fréchet inception distance, as ColTran does.

The protocol is that of https://arxiv.org/abs/2102.04432, which UViM follows
(https://arxiv.org/abs/2205.10337): the first 5000 validation images of ImageNet
lose their colors and are colored by the model; their features are compared with
those of 5000 other validation images. Pictures are their largest central square,
resized by averaging areas. Only distances of the same number of images, which the
name of the metric tells, of the same dataset and size can be compared.

Weights of the network are not part of this package, see `models/inception.py`.

Shapes: B global batch size, R side of what the model gets, D features.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision import fs, lookup
from big_vision.evaluators import frechet, iteration
from big_vision.evaluators.proj.uvim import common
from big_vision.models import inception
from big_vision.types import Array, Batch, Devices, PredictFn, TrainState

if TYPE_CHECKING:
  from big_vision.datasets.source import DataSource
  from big_vision.tf import tf

API = "jit"

DATASET, SPLIT = "imagenet2012", "validation"
NUM_IMAGES = 5000  # Of the published protocol.
RESOLUTION = 512  # Pixels; sides of the pictures that the model gets,
SIZE = 256  # and of those that are compared.
# Names of the images of the published protocol, in $FID_DATA_DIR.
NAME_LISTS = ("eval_file_names.txt", "reference_file_names.txt")


def data_sources(cfg: Mapping[str, Any]) -> list[tuple[str, Any]]:
  """Lists the dataset; refuses a run that could not be measured when it is due.

  Args:
    cfg: the evaluator's config.

  Returns:
    List of one (config key, arguments of `datasets.core.get`).

  Raises:
    lookup.ConfigError: there are no weights, or too few images; begins with the
      config key.
  """
  try:
    inception.fetch(cfg.get("weights", inception.WEIGHTS))
  except lookup.ConfigError as e:
    raise lookup.ConfigError(
      f"weights: {e} Or leave this evaluator out: set it to None."
    ) from e
  size = cfg.get("device_batch_size", 5)
  if not isinstance(size, int) or size < 1:
    raise lookup.ConfigError(
      f"device_batch_size={size!r} should be a whole number, 1 or more."
    )
  sources = _sources(cfg)
  from big_vision.datasets import core  # The TensorFlow wing.

  try:
    num = core.get(**sources[0][1]).total_examples
  except Exception:  # What is wrong is said by who called.
    num = 0
  if num:
    image_ranges(num, cfg.get("num_images"), cfg.get("coltran_seed", 1))
  return sources


def inputs(cfg: Mapping[str, Any]) -> list[tuple[str, Any, str, None]]:
  """Says what to try out, see `evaluators.trial`."""
  from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)

  side = cfg.get("resolution", RESOLUTION)
  pp_fn = f'decode|resize({side})|value_range(-1, 1)|keep("image")'
  return [("resolution", data, pp_fn, None) for _, data in _sources(cfg)]


def trial(
  predict_fn: PredictFn,
  train_state: TrainState,
  batch: Batch,
  cfg: Mapping[str, Any],
) -> Any:
  """Colors one batch, see `evaluators.trial`."""
  fn = common.bind(predict_fn, cfg.get("predict_kwargs"))
  image = batch["image"]
  return _colored(
    fn, train_state, {**batch, "image_ctx": image, "labels": image}
  )


def _sources(cfg):
  """Lists the dataset, whose images are left encoded."""
  return common.data_sources({**cfg, "pp_fn": "decode"}, DATASET, SPLIT)


def image_ranges(
  total: int, num_images: int | None, seed: int
) -> tuple[range, range]:
  """Chooses the images to color, and those to compare them with.

  Args:
    total: number of images of the dataset.
    num_images: how many to color; None means 5000, or as many as a smaller
      dataset has for both.
    seed: number of the set of images to compare with, at least 0.

  Returns:
    (range of images to color, range of as many others).

  Raises:
    lookup.ConfigError: there are not enough.
  """
  if not isinstance(seed, int) or seed < 0:
    raise lookup.ConfigError(
      f"coltran_seed={seed!r} should be a whole number, 0 or more."
    )
  most = total // (seed + 2)
  num = min(most, NUM_IMAGES) if num_images is None else num_images
  if not isinstance(num, int) or not 2 <= num <= most:
    raise lookup.ConfigError(
      f"num_images={num!r} should be from 2 to {most}: the dataset has {total} "
      f"images, and with coltran_seed={seed} those from {seed + 1} x num_images on "
      "are compared with the first num_images."
    )
  begin = num * (seed + 1)
  return range(num), range(begin, begin + num)


class Evaluator:
  """Yields `FID_5k`, or `FID_<number of images>`, the less the better."""

  def __init__(
    self,
    predict_fn: PredictFn,
    batch_size: int | None = None,
    device_batch_size: int = 5,
    coltran_seed: int = 1,
    predict_kwargs: Mapping[str, Any] | None = None,
    *,
    dataset: str = DATASET,
    split: str = SPLIT,
    dataset_dir: str | None = None,
    num_images: int | None = None,
    resolution: int = RESOLUTION,
    weights: str = inception.WEIGHTS,
    devices: Devices,
  ) -> None:
    """Opens the data and reads the weights.

    Args:
      predict_fn: `(train_state, batch, **predict_kwargs) -> {"color": [B, R, R, 3]
        in [-1, 1]}`; the batch has the gray picture as `image` and `image_ctx`
        [B, R, R, 3], and the colored one as `labels`.
      batch_size: does not matter here.
      device_batch_size: number of images of each device.
      coltran_seed: which images to compare with, see `image_ranges`.
      predict_kwargs: keywords for the predict function.
      dataset: name as in `data.name`.
      split: its split.
      dataset_dir: folder of TFDS; None means the default.
      num_images: number of images to color, see `image_ranges`.
      resolution: R, pixels; what the model takes. 512 is that of the protocol.
      weights: path or URL, see `inception.load`.
      devices: flat array of devices in the order of the mesh.

    Raises:
      lookup.ConfigError: there are no weights, too few images, or other ones
        than the lists in $FID_DATA_DIR say.
    """
    del batch_size
    from big_vision.datasets import core  # The TensorFlow wing.

    source = core.get(**common.data_of(dataset, split, dataset_dir, "decode"))
    ranges = image_ranges(source.total_examples, num_images, coltran_seed)
    published = (dataset.split("/")[0].split(":")[0], len(ranges[0]))
    if published == (DATASET, NUM_IMAGES):
      _check_names(source, ranges)
    batch_size = device_batch_size * len(devices)
    self.colored, self.reference = (
      _open(source, images, batch_size, devices, functools.partial(fn, side))
      for images, fn, side in (
        (ranges[0], _gray_and_colored, resolution),
        (ranges[1], _picture, SIZE),
      )
    )
    num = len(ranges[0])
    self.name = f"FID_{num // 1000}k" if num % 1000 == 0 else f"FID_{num}"
    mesh = Mesh(np.asarray(devices), ("devices",))
    self._eval_fn = get_eval_fn(common.bind(predict_fn, predict_kwargs), mesh)
    self._features_fn = get_features_fn(mesh)
    self._variables = bv_devices.reshard(
      inception.load(weights), NamedSharding(mesh, PartitionSpec())
    )
    self._moments: frechet.Moments | None = None  # Of the reference.

  def run(self, train_state: TrainState) -> Iterator[tuple[str, float]]:
    """Colors all images and compares them.

    Args:
      train_state: first argument of the predict function.

    Yields:
      The distance.
    """
    if self._moments is None:
      self._moments = moments(
        self._features_fn(self._variables, batch)
        for batch in iteration.followed_by(self.reference, self.colored.start)
      )
    colored = moments(
      self._eval_fn(train_state, self._variables, batch)
      for batch in self.colored
    )
    yield self.name, frechet.distance(colored, self._moments)


def moments(batches: Iterator[tuple[Array, Array]]) -> frechet.Moments:
  """Sums up features of a dataset.

  Args:
    batches: features [B, D] and masks [B] on all hosts.

  Returns:
    Their mean and covariance, the same on all hosts.
  """
  parts = (frechet.Moments.of(*x) for x in iteration.fetch(batches))
  return functools.reduce(lambda a, b: a + b, parts)


@functools.cache  # One compilation for all evaluators of a predict function.
def get_eval_fn(
  predict_fn: PredictFn, mesh: Mesh
) -> Callable[..., tuple[Array, Array]]:
  """Compiles the features of what a model colors.

  Args:
    predict_fn: as for `Evaluator`.
    mesh: of the devices to gather on.

  Returns:
    `fn(train_state, variables of the network, batch) -> (features [B, D], mask)`.
  """

  def fn(train_state, variables, batch):
    color = _colored(predict_fn, train_state, batch)
    return inception.features(variables, color), batch["_mask"]

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


@functools.cache
def get_features_fn(mesh: Mesh) -> Callable[..., tuple[Array, Array]]:
  """Compiles the features of pictures.

  Args:
    mesh: of the devices to gather on.

  Returns:
    `fn(variables of the network, batch with `labels`) -> (features, mask)`.
  """

  def fn(variables, batch):
    return inception.features(variables, batch["labels"]), batch["_mask"]

  return jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _colored(predict_fn, train_state, batch):
  """Colors a batch: [B, SIZE, SIZE, 3], values as in files of 8 bits."""
  predicted = predict_fn(train_state, batch)
  color = predicted.get("color") if isinstance(predicted, Mapping) else None
  if color is None or color.ndim != 4 or color.shape[-1] != 3:
    found = jax.tree.map(jnp.shape, predicted)
    raise lookup.ConfigError(
      'The predict function should return {"color": [B, height, width, 3]}, not '
      f"{found}: is it that of a colorization task?"
    )
  color = area_resize(color.astype(jnp.float32), SIZE)
  color = jnp.clip(jnp.round((color + 1) * 128), 0, 255)
  return color / 128 - 1


def area_resize(images: Array, size: int) -> Array:
  """Resizes pictures to squares; each pixel is the mean of the area it covers.

  Args:
    images: float [B, h, w, C].
    size: pixels.

  Returns:
    [B, size, size, C], what `tf.image.resize(…, method="area")` makes of them.
  """
  _, height, width, _ = images.shape
  return jnp.einsum(
    "yh,xw,bhwc->byxc",
    _area_weights(height, size),
    _area_weights(width, size),
    images,
    precision="highest",
  )


def _area_weights(old, new):
  """Makes a matrix [new, old], of how much of each old pixel is in a new one."""
  edges = np.arange(new + 1) * (old / new)
  pixel = np.arange(old)[None]
  end = np.minimum(edges[1:, None], pixel + 1)
  begin = np.maximum(edges[:-1, None], pixel)
  return (np.maximum(end - begin, 0) * (new / old)).astype(np.float32)


def _open(
  source: DataSource,
  images: range,
  batch_size: int,
  devices: Devices,
  preprocess_fn: Callable[[dict[str, Any]], dict[str, Any]],
) -> iteration.Batches:
  """Opens some images; the hosts share them, each of which reads the names."""
  from big_vision.pipeline import evaluation, to_devices
  from big_vision.tf import tf

  bv_devices.check_batch_size(batch_size, devices)
  ds = source.get_tfdata(ordered=True, process_split=False)
  ds = ds.skip(images.start).take(len(images))
  count = jax.process_count()
  ds, steps = evaluation.make_for_inference(
    ds.shard(count, jax.process_index()),
    tf.autograph.experimental.do_not_convert(preprocess_fn),
    batch_size,
    [len(images[i::count]) for i in range(count)],
    source=source,
  )

  def start():
    return to_devices.start_global(ds, devices)

  return iteration.Batches(start, steps, batch_size, devices)


def _picture(side: int, example: dict[str, Any]) -> dict[str, tf.Tensor]:
  """Makes `labels` [side, side, 3] in [-1, 1] of a raw example."""
  from big_vision.pp import decoding
  from big_vision.tf import tf

  image = example["image"]
  if image.dtype == tf.string:
    image = decoding.Decoder(channels=3)(image)
  height, width = tf.unstack(tf.shape(image)[:2])
  short = tf.minimum(height, width)
  y, x = (height - short) // 2, (width - short) // 2
  image = image[y : y + short, x : x + short]
  image = tf.image.resize(image, (side, side), method="area")
  image = tf.ensure_shape(image, (side, side, 3))
  return {"labels": tf.round(image) / 128 - 1}


def _gray_and_colored(side: int, example: dict[str, Any]) -> dict[str, Any]:
  """Makes `labels`, and `image` and `image_ctx` without colors."""
  from big_vision.tf import tf

  labels = _picture(side, example)["labels"]
  gray = tf.repeat(tf.image.rgb_to_grayscale(labels), 3, axis=-1)
  return {"image": gray, "image_ctx": gray, "labels": labels}


def _check_names(source: DataSource, ranges: tuple[range, range]) -> None:
  """Raises ConfigError unless these are the images of the published protocol."""
  folder = os.environ.get("FID_DATA_DIR") or "."
  lists = [fs.join(folder, name) for name in NAME_LISTS]
  if not all(fs.exists(path) for path in lists):
    return
  ds = source.get_tfdata(ordered=True, process_split=False)
  if "file_name" not in ds.element_spec:
    return
  names = ds.take(ranges[1].stop).map(lambda example: example["file_name"])
  read = [os.path.basename(x.decode()) for x in names.as_numpy_iterator()]
  for path, images in zip(lists, ranges, strict=True):
    with fs.open(path) as f:
      expected = {os.path.basename(line.strip()) for line in f} - {""}
    other = sorted(set(read[images.start : images.stop]) - expected)
    if other:
      raise lookup.ConfigError(
        f"{path} does not list {len(other)} of the {len(images)} images that are "
        f"measured, {other[0]} for example: the dataset was prepared in another "
        "order than the published one, or FID_DATA_DIR is the folder of another "
        "protocol. Prepare it again with TFDS, or unset FID_DATA_DIR."
      )
