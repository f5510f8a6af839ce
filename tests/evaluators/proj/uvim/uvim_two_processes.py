"""One of two processes that evaluate UViM together; see the test beside."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from big_vision.evaluators.proj.uvim import (
  coltran_fid,
  compute_mean,
  nyu_depth,
  psnr,
  save_predictions,
)
from big_vision.models import inception

DATA = dict(dataset="shapes/tiny", split="validation[:13]")
PP_COLOR = 'resize(16)|value_range(-1, 1)|copy("image", "labels")|keep("image", "labels")'
PP_DEPTH = (
  'nyu_depth|copy("labels", "ground_truth")|resize(16)|value_range(-1, 1)'
  '|keep("image", "ground_truth")'
)


def color(state, batch):
  return {"color": state["scale"] * batch["image"]}


def depth(state, batch):
  return {"depth": 2 + state["scale"] * batch["image"][:, ::2, ::2, 0]}


def brightness(state, batch):
  return {"loss": state["scale"] * batch["image"].mean((1, 2, 3))}


def cheap(variables, images):
  part = images.reshape(len(images), 2, 128, 2, 128, 3).mean((2, 4))
  return variables["scale"] * part.reshape(len(images), -1)


def results(path):
  """What all evaluators yield; predictions are saved to `path`."""
  from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)
  from big_vision.pp.proj.uvim import pp_ops  # noqa: F401

  inception.features = cheap
  inception.load = lambda weights: {"scale": np.float32(3)}
  devices = np.asarray(jax.devices())
  kw = dict(batch_size=8, devices=devices)
  data = dict(name="shapes/tiny", split=DATA["split"], skip_decode=())
  evaluators = [
    psnr.Evaluator(color, PP_COLOR, **DATA, **kw),
    nyu_depth.Evaluator(depth, PP_DEPTH, **DATA, **kw),
    compute_mean.Evaluator(brightness, data, PP_COLOR, **kw),
    coltran_fid.Evaluator(
      color, device_batch_size=1, num_images=7, resolution=32,
      dataset="shapes/tiny", devices=devices,
    ),
    save_predictions.Evaluator(
      depth, PP_DEPTH, **DATA, **kw, outfile=path, workdir=""
    ),
  ]  # fmt: skip
  mesh = jax.sharding.Mesh(devices, ("data",))
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  scale = jax.jit(lambda: jnp.float32(0.5), out_shardings=replicated)()
  return {
    name: value
    for evaluator in evaluators
    for name, value in evaluator.run({"scale": scale})
  }


if __name__ == "__main__":
  index, address, folder = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", 2)
  jax.distributed.initialize(address, 2, int(index))
  found = results(f"{folder}/two.npz")
  with open(f"{folder}/{index}.json", "w", encoding="utf-8") as f:
    json.dump(found, f)
