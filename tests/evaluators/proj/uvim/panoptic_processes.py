"""One of two processes that evaluate together; started by the test beside."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.evaluators.proj.uvim import coco_panoptic
from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)
from big_vision.pp.proj.uvim import pp_ops  # noqa: F401

PP = 'coco_panoptic|concat(["semantics","instances"], "labels")|keep("labels")'


def predict(state, batch):
  """The truth without some rows, and with some classes changed."""
  labels = jnp.where(batch["labels"][..., :1] == 2, 3, batch["labels"])
  return labels * state["keep"]


def main(folder):
  """Writes the metrics to `<folder>/result<process>.json`."""
  devices = np.asarray(jax.devices())
  mesh = Mesh(devices, ("data",))
  keep = (np.arange(32) % 9 > 2).astype(np.int32)[None, :, None, None]
  replicated = NamedSharding(mesh, PartitionSpec())
  state = bv_devices.reshard({"keep": keep}, replicated)
  evaluator = coco_panoptic.Evaluator(
    predict, PP, 8, dataset="shapes/tiny", split="validation[:13]",
    save_dir=os.path.join(folder, "saved"), per_class=True, devices=devices,
  )  # fmt: skip
  with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
    result = dict(evaluator.run(state))
  name = f"result{jax.process_index()}.json"
  with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
    json.dump(result, f)


if __name__ == "__main__":
  index, count, address, where = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", 4 // int(count))
  if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
  main(where)
