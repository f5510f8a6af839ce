"""Loaders of images next to each other: what decoding alone takes, and others.

All crop, resize to the same size and flip, and give batches of uint8. CPU seconds
count, since other load does not change them.
"""

from __future__ import annotations

import importlib.util
import io
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision.benchmarks import measure

BATCH = 64
PP = 'decode_jpeg_and_inception_crop({res})|flip_lr|keep("image")'
PP_RANDAUG = (
  'decode_jpeg_and_inception_crop({res})|flip_lr|randaug(2, 10)|keep("image")'
)
PP_RANDOM_CROP = 'decode|random_crop({res})|flip_lr|keep("image")'
PP_DCT_SCALE = (
  'decode_jpeg_and_inception_crop({res}, dct_scale=True)|flip_lr|keep("image")'
)
RESIZED = 256  # Shorter side of images that are stored already resized.

# Makes what runs so many batches.
Run = Callable[[int], object]


def cpu_seconds(
  fns: Mapping[str, Run], steps: int, rounds: int
) -> dict[str, float]:
  """Measures CPU time of functions in turns.

  Args:
    fns: name -> function of the number of steps.
    steps: per round.
    rounds: number of rounds.

  Returns:
    name -> CPU seconds of a step, the median over the rounds.
  """
  seconds: dict[str, list[float]] = {name: [] for name in fns}
  for fn in fns.values():
    measure.cpu_seconds(lambda fn=fn: fn(steps))  # Fills buffers.
  for _ in range(rounds):
    for name, fn in fns.items():
      taken = measure.cpu_seconds(lambda fn=fn: fn(steps))
      seconds[name].append(taken / steps)
  return {name: statistics.median(s) for name, s in seconds.items()}


def pipeline(images: Sequence[bytes], pp: str) -> Run:
  """Makes the training pipeline.

  Args:
    images: files.
    pp: preprocessing string.

  Returns:
    What takes so many batches of `BATCH`.
  """
  from big_vision.pp import builder

  return _taking(_train(images, builder.get_preprocess_fn(pp, log_data=False)))


def decoding_alone(images: Sequence[bytes], num_steps: int) -> Run:
  """Makes `tf.image.decode_and_crop_jpeg` of the boxes of `pipeline`.

  Args:
    images: JPEGs, the same as those of `pipeline`.
    num_steps: batches for which to draw boxes; they repeat.

  Returns:
    What decodes so many batches.
  """
  return _taking(decoded_sizes(images, num_steps))


def decoded_sizes(images: Sequence[bytes], num_steps: int) -> Any:
  """Makes the dataset of `decoding_alone`, see there.

  Args:
    images: JPEGs.
    num_steps: batches for which to draw boxes.

  Returns:
    Endless tf.data.Dataset of int32 [`BATCH`], the number of values of each crop.
  """
  from big_vision.pp import ops_crop, rng
  from big_vision.tf import tf

  def box(example):
    with rng.op_scope(0):  # The first op of the string draws them.
      shape = tf.image.extract_jpeg_shape(example["image"])
      begin, size = ops_crop.inception_box(
        shape, 5, 100, rng.next_seed(), aspect_ratio_range=(0.75, 1.33)
      )
    window = tf.concat([begin[:2], size[:2]], 0)
    return {"image": example["image"], "window": window}

  drawn = _train(images, box).take(num_steps).unbatch().batch(1 << 20)
  # The files are read from memory, as by the pipeline.
  ds = tf.data.Dataset.from_tensor_slices(drawn.get_single_element()).repeat()

  def decode(x):
    return tf.size(
      tf.image.decode_and_crop_jpeg(x["image"], x["window"], channels=3)
    )

  return ds.map(decode, 16, deterministic=True).batch(BATCH)


def _train(images, preprocess_fn):
  from big_vision import input_pipeline
  from big_vision.tf import tf

  data = tf.data.Dataset.from_tensor_slices({"image": list(images)})
  return input_pipeline.make_for_train(
    data, preprocess_fn, BATCH, num_parallel_calls=16
  )


def _taking(batches: Any) -> Run:
  it: Iterator[Any] = iter(batches)

  def run(steps):
    for _ in range(steps):
      next(it)

  return run


def resized(images: Sequence[bytes], store: str) -> list[bytes]:
  """Makes files as `tools/convert_dataset.py --resize` does.

  Args:
    images: files.
    store: see `datasets.resized`.

  Returns:
    List of bytes.
  """
  from big_vision.datasets import resized as lib

  resize = lib.Resizing(RESIZED, store)
  return [resize(image).numpy() for image in images]


def torch_dataloader(images: Sequence[bytes], res: int) -> Run:
  """Makes a DataLoader with transforms of torchvision, which Pillow decodes for.

  It works in this process, without workers and what they cost.

  Args:
    images: JPEGs.
    res: side of the crops.

  Returns:
    What takes so many batches of `BATCH`.
  """
  import torch
  from PIL import Image
  from torchvision import transforms

  torch.set_num_threads(1)
  transform = transforms.Compose(
    [
      transforms.RandomResizedCrop(res, scale=(0.05, 1.0)),
      transforms.RandomHorizontalFlip(),
      transforms.PILToTensor(),
    ]
  )

  class Images(torch.utils.data.Dataset):
    def __len__(self):
      return len(images)

    def __getitem__(self, i):
      return transform(Image.open(io.BytesIO(images[i])).convert("RGB"))

  loader = torch.utils.data.DataLoader(
    Images(), BATCH, shuffle=True, drop_last=len(images) >= BATCH
  )
  return _taking(_for_ever(loader))


def grain_dataset(images: Sequence[bytes], res: int) -> Run:
  """Makes a dataset of grain, in threads, with Pillow for the images.

  Args:
    images: JPEGs.
    res: side of the crops.

  Returns:
    What takes so many batches of `BATCH`.
  """
  import grain
  from PIL import Image

  def load(data, rng):
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    for _ in range(10):
      area = width * height * rng.uniform(0.05, 1)
      ratio = np.exp(rng.uniform(np.log(0.75), np.log(1.33)))
      w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
      if 0 < w <= width and 0 < h <= height:
        break
    else:
      w, h = width, height
    x, y = rng.integers(width - w + 1), rng.integers(height - h + 1)
    box, bilinear = (x, y, x + w, y + h), Image.Resampling.BILINEAR
    crop = np.asarray(image.resize((res, res), bilinear, box=box))
    return crop[:, ::-1] if rng.integers(2) else crop

  ds = grain.MapDataset.source(list(images)).seed(0).shuffle().repeat()
  ds = ds.random_map(load).batch(BATCH)
  threads = grain.ReadOptions(num_threads=os.cpu_count() or 1)
  return _taking(ds.to_iter_dataset(threads))


def _for_ever(loader):
  while True:
    yield from loader


# Loaders of other projects: name -> (packages, function of JPEGs and side).
OTHERS = {
  "torch_dataloader": (("torch", "torchvision"), torch_dataloader),
  "grain": (("grain",), grain_dataset),
}


def others() -> dict[str, Callable[[Sequence[bytes], int], Run]]:
  """Lists the loaders of `OTHERS` that are installed.

  Returns:
    name -> function of (JPEGs, side) that makes one.
  """
  return {
    name: make
    for name, (packages, make) in OTHERS.items()
    if all(map(importlib.util.find_spec, packages))
  }
