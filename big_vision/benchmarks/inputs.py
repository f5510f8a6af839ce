"""Measures preprocessing and kinds of files, as parts of `tools/benchmark.py`."""

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import tempfile
import time
from typing import Any

import numpy as np

from big_vision.benchmarks.measure import num_cpus, peak_memory, timed_rounds


def make_jpegs(num: int, height: int = 375, width: int = 500) -> list[bytes]:
  """Makes synthetic photographs: noise of all scales, JPEGs of about 110 kB.

  Args:
    num: number of images.
    height: in pixels.
    width: in pixels.

  Returns:
    List of bytes.
  """
  from big_vision.tf import tf

  rng = np.random.default_rng(0)
  jpegs = []
  for _ in range(num):
    image = np.full((height, width, 3), 128.0, np.float32)
    for scale in (1, 2, 4, 16, 64):
      shape = (height // scale + 1, width // scale + 1, 3)
      noise = rng.normal(scale=17 * scale**0.3, size=shape).astype(np.float32)
      image += tf.image.resize(noise, (height, width)).numpy()
    image = np.clip(image, 0, 255).astype(np.uint8)
    jpegs.append(tf.io.encode_jpeg(image, quality=90).numpy())
  return jpegs


def benchmark_input(args: argparse.Namespace) -> dict[str, Any]:
  """Times the training input pipeline, in a process of its own.

  The many threads of the pipeline would wait for each other where memory is kept,
  see `malloc`, which a step is measured with.

  Args:
    args: the arguments of the command line.

  Returns:
    Dict of figures.
  """
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    return pool.apply(_input, (args,))


def _input(args):
  for package in ("torch", "torchvision"):  # After TensorFlow they crash.
    if importlib.util.find_spec(package):
      importlib.import_module(package)
  import_ops()
  jpegs = make_jpegs(args.images)
  return {
    "images": f"{args.images} JPEGs of 500x375",
    "mean_bytes": sum(map(len, jpegs)) / len(jpegs),
    **_pipeline(args, jpegs),
    "loaders": compare_loaders(jpegs, args.res, args.rounds),
    "large": compare_dct_scale(args.res, args.images // 8, args.rounds),
  }


def _pipeline(args, jpegs):
  """Times the pipeline of `--pp`, which is gone afterwards."""
  from big_vision import input_pipeline
  from big_vision.pp import builder
  from big_vision.tf import tf

  pp = args.pp.format(res=args.res, classes=args.classes)
  labels = [i % args.classes for i in range(args.images)]
  data = tf.data.Dataset.from_tensor_slices({"image": jpegs, "label": labels})
  batches = iter(
    input_pipeline.make_for_train(
      data, builder.get_preprocess_fn(pp), args.images // 4
    )
  )
  per_pass = 4 * (args.images // 4)
  run = lambda passes: [next(batches) for _ in range(4 * passes)]
  run(1)  # Fills buffers, and settles the number of threads.
  # Long enough for what was prepared ahead not to count.
  passes = 8
  cpu_start = time.process_time()  # Of all threads.
  seconds = timed_rounds({"input": run}, passes, args.rounds)["input"]
  cpu_seconds = time.process_time() - cpu_start
  return {
    "pp": pp,
    "images_per_second": per_pass / seconds["median"],
    "images_per_second_per_core": per_pass / seconds["median"] / num_cpus(),
    # Also right on a machine with other load.
    "images_per_cpu_second": per_pass * passes * args.rounds / cpu_seconds,
    "peak_memory": peak_memory(),
  }


def compare_loaders(
  jpegs: list[bytes], res: int, rounds: int
) -> dict[str, Any]:
  """Times ways to crop, resize and flip, next to decoding alone.

  Args:
    jpegs: images.
    res: side of the crops.
    rounds: number of rounds, in which they take turns.

  Returns:
    Dict of figures; "not_installed" names what could not be compared.
  """
  from big_vision.benchmarks import loaders

  steps = -(-2 * len(jpegs) // loaders.BATCH)
  pp = loaders.PP.format(res=res)
  fns = {
    "decode_and_crop_jpeg_alone": loaders.decoding_alone(jpegs, 4 * steps),
    "big_vision": loaders.pipeline(jpegs, pp),
    "big_vision_randaug": loaders.pipeline(
      jpegs, loaders.PP_RANDAUG.format(res=res)
    ),
  }
  for store in ("raw", "jpeg"):
    files = loaders.resized(jpegs, store)
    fns[f"big_vision_{store}_{loaders.RESIZED}"] = loaders.pipeline(files, pp)
    if store == "raw":  # Nothing is left to resize.
      fns[f"big_vision_raw_{loaders.RESIZED}_random_crop"] = loaders.pipeline(
        files, loaders.PP_RANDOM_CROP.format(res=res)
      )
  installed = loaders.others()
  fns |= {name: make(jpegs, res) for name, make in installed.items()}
  seconds = loaders.cpu_seconds(fns, steps, rounds)
  alone, own = seconds["decode_and_crop_jpeg_alone"], seconds["big_vision"]
  missing = [name for name in loaders.OTHERS if name not in installed]
  return {
    "images_per_cpu_second": {k: loaders.BATCH / s for k, s in seconds.items()},
    "speed_relative_to_decoding": {k: alone / s for k, s in seconds.items()},
    "speed_relative_to_big_vision": {k: own / s for k, s in seconds.items()},
    "not_installed": ", ".join(missing) or "none",
  }


def compare_dct_scale(res: int, num: int, rounds: int) -> dict[str, float]:
  """Times JPEGs of twice and four times the size with and without `dct_scale`.

  Args:
    res: side of the crops.
    num: images of each size.
    rounds: number of rounds, in which they take turns.

  Returns:
    Images per CPU second.
  """
  from big_vision.benchmarks import loaders

  pps = {"": loaders.PP, "_dct_scale": loaders.PP_DCT_SCALE}
  fns = {}
  for times in (2, 4):
    jpegs = make_jpegs(num, times * res, times * res)
    for name, pp in pps.items():
      fns[f"{times}x{name}"] = loaders.pipeline(jpegs, pp.format(res=res))
  seconds = loaders.cpu_seconds(fns, max(1, 4 * num // loaders.BATCH), rounds)
  return {k: loaders.BATCH / s for k, s in seconds.items()}


def import_ops() -> None:
  """Registers the ops of core configs."""
  for ops in ("ops_general", "ops_image", "archive.randaug"):
    importlib.import_module(f"big_vision.pp.{ops}")


# The part `source` compares these values of `data.random_access`, of `memory_gb` as
# a multiple of the size of the dataset, and of the format to convert files to.
_SOURCES = {
  # As much memory as the config asks for.
  "tfrecord_all_in_memory": (False, 2, None),
  # The same with less memory.
  "tfrecord_limited": (False, 1 / 8, None),
  "tfrecord_index": (None, 1 / 8, "index"),
  "array_record": (None, 1 / 8, "array_record"),
}


def benchmark_source(args: argparse.Namespace) -> dict[str, Any]:
  """Times kinds of files, read as the ImageNet configs read them.

  Writes a dataset of JPEGs in TFRecord files, then reads it with `cache_raw`
  and a shuffle buffer of 250,000 in several ways. Each has its own process, so
  that its memory can be measured.

  Args:
    args: the arguments of the command line.

  Returns:
    Dict of figures.
  """
  results = {"examples": args.examples}
  context = multiprocessing.get_context("spawn")
  with tempfile.TemporaryDirectory(dir=args.dir) as folder:
    results["bytes"] = write_dataset(folder, args.examples, args.classes)
    for name, (random_access, memory, convert_to) in _SOURCES.items():
      if convert_to:
        from big_vision.datasets import conversion

        start = time.perf_counter()
        conversion.convert("jpegs", convert_to, data_dir=folder)
        seconds = time.perf_counter() - start
        results[f"seconds_to_make_{convert_to}"] = seconds
      pp = args.pp.format(res=args.res, classes=args.classes)
      data = dict(name="jpegs", split="train", data_dir=folder)
      config = dict(
        data=dict(data, random_access=random_access),
        batch_size=100,
        cache_raw=True,
        shuffle_buffer_size=250_000,
        memory_gb=memory * results["bytes"] / 2**30,
        pp=pp,
      )
      with context.Pool(1) as pool:
        results[name] = pool.apply(
          _read_source, (json.dumps(config), max(args.examples // 100, 2))
        )
  return results


def write_dataset(folder: str, num_examples: int, num_classes: int) -> int:
  """Writes a TFDS dataset `jpegs` in TFRecord files.

  Args:
    folder: TFDS folder.
    num_examples: number of examples.
    num_classes: number of classes of labels.

  Returns:
    Size of the dataset in bytes.
  """
  from big_vision.datasets import embedded
  from big_vision.tf import tfds

  jpegs = make_jpegs(min(num_examples, 500))

  class Jpegs(embedded.Builder, skip_registration=True):
    name = "jpegs"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
      }
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i in range(num_examples):
        image = jpegs[i % len(jpegs)]
        yield i, {"image": image, "label": i % num_classes}

  builder = embedded.prepare(lambda: Jpegs(data_dir=folder))
  return builder.info.splits["train"].num_bytes


def _read_source(config, num_batches):
  """Reads an epoch, then restarts in the middle of the third one."""
  os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  from big_vision import input_pipeline

  import_ops()
  config = json.loads(config)

  def first_batch(**kw):
    start = time.perf_counter()
    batches = iter(input_pipeline.training(config, **kw)[0])
    next(batches)
    return batches, time.perf_counter() - start

  first_batch()  # Work that happens only once.
  before = peak_memory()["host_bytes"]
  batches, to_start = first_batch()
  start, cpu_start = time.perf_counter(), time.process_time()
  for _ in range(num_batches - 1):
    next(batches)
  seconds = time.perf_counter() - start
  cpu_seconds = time.process_time() - cpu_start
  after = peak_memory()["host_bytes"]
  del batches
  _, to_resume = first_batch(start_step=int(2.5 * num_batches))
  num = 100 * (num_batches - 1)
  return {
    "seconds_to_first_batch": to_start,
    "seconds_to_resume": to_resume,
    "images_per_second": num / seconds,
    "images_per_second_per_core": num / seconds / num_cpus(),
    "images_per_cpu_second": num / cpu_seconds,
    "peak_memory_bytes": after,
    "memory_growth_bytes": after - before,
  }
