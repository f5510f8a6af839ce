"""Measures an evaluator beside its predict function alone, for `tools.benchmark`."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from big_vision.benchmarks import inputs, steps
from big_vision.evaluators import classification

_CACHES = {"from_memory": "final_data", "from_jpegs": "pipeline"}


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Times passes over images, in turns with as many batches of one on the device.

  Args:
    args: of `tools.benchmark`: those of the model, `images`, `rounds` and `dir`.

  Returns:
    Dict of figures: seconds of time and of CPU time per batch, medians, and these
    relative to inference alone.
  """
  args.devices = args.devices or len(jax.devices())
  trainer, model = steps.make_trainer(args)
  params = trainer.state["params"]
  devices = jax.devices()[: args.devices]

  def predict(train_state, batch):
    logits, out = model.apply({"params": train_state}, batch["image"])
    return logits, out

  inputs.import_ops()
  pp = (
    f"decode|resize({args.res})|value_range(-1, 1)"
    f'|onehot({args.classes}, key="label", key_result="labels")'
    '|keep("image", "labels")'
  )
  with tempfile.TemporaryDirectory(dir=args.dir) as folder:
    inputs.write_dataset(folder, args.images, args.classes)
    data = dict(name="jpegs", split="train", data_dir=folder)
    runs: dict[str, Callable[[], Any]] = {}
    num = 0
    for name, cache in _CACHES.items():
      evaluator = classification.Evaluator(
        predict, "softmax_xent", data=data, cache=cache, pp_fn=pp,
        batch_size=args.batch, devices=devices,
      )  # fmt: skip
      runs[name] = lambda e=evaluator: dict(e.run(params))
      num = evaluator.steps
    jitted = jax.jit(lambda *args: predict(*args)[0])

    def alone():
      for _ in range(num):
        logits = jitted(params, trainer.batch)
      jax.block_until_ready(logits)

    return _in_turns({"inference": alone, **runs}, num, args.rounds)


def _in_turns(
  runs: Mapping[str, Callable[[], Any]], num: int, rounds: int
) -> dict[str, Any]:
  """Times functions that take `num` batches each."""
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  cpu: dict[str, list[float]] = {name: [] for name in runs}
  for i in range(rounds + 1):
    for name, run in runs.items():
      start, cpu_start = time.perf_counter(), time.process_time()
      run()
      if i:  # The first time they compile, and fill caches.
        seconds[name].append((time.perf_counter() - start) / num)
        cpu[name].append((time.process_time() - cpu_start) / num)
  result: dict[str, Any] = {"batches": num}
  for what, found in (("seconds", seconds), ("cpu_seconds", cpu)):
    middle = {k: statistics.median(v) for k, v in found.items()}
    result[f"{what}_per_batch"] = middle
    for name in runs:
      if name != "inference":
        result[f"{what}_relative_to_inference/{name}"] = statistics.median(
          a / b for a, b in zip(found[name], found["inference"], strict=True)
        )
  return result
