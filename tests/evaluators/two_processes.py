"""One of two processes that evaluate together; started by the test beside."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.evaluators import (
  classification,
  classification_with_labelmap,
  common,
  dense_probe,
  fewshot_lsr,
  knn,
  linear_probe,
  mean,
  multilabel,
  regression,
  save,
)
from big_vision.evaluators.proj.distill import cka, distance
from big_vision.pipeline import evaluation

N, CLASSES, BATCH_SIZE = 21, 4, 8
IMAGE = np.random.RandomState(0).randn(N, 6).astype(np.float32)
LABEL = (np.arange(N) % CLASSES).astype(np.int32)
MAP = (IMAGE > 0).astype(np.int32).reshape(N, 2, 3)
ONEHOT = np.eye(CLASSES, dtype=np.float32)[LABEL]
W = np.random.RandomState(1).randn(6, CLASSES).astype(np.float32)


def pipeline(data, pp_fn, batch_size, devices, **kw):
  """Every process reads a contiguous part; NaN as padding."""
  del data, pp_fn, kw
  parts = np.array_split(np.arange(N), jax.process_count())
  mine, local = parts[jax.process_index()], batch_size // jax.process_count()
  steps = -(-max(map(len, parts)) // local)

  def batches():
    for i in range(steps):
      rows = mine[i * local : (i + 1) * local]

      def batch_of(x, rows=rows):
        bad = np.nan if x.dtype == np.float32 else 0
        pad = np.full((local - len(rows), *x.shape[1:]), bad, x.dtype)
        x = np.concatenate([x[rows], pad])
        return bv_devices.make_fsarray_from_local_slice(x, devices)

      yield {
        "image": batch_of(IMAGE),
        "labels": batch_of(ONEHOT),
        "label": batch_of(LABEL),
        "map": batch_of(MAP),
        "_mask": batch_of(np.ones(N, bool)),
      }

  return batches, steps


def predict(state, batch):
  return batch["image"] @ state["w"], {}


def predict_out(state, batch):
  return batch["image"] @ state["w"], {"image": batch["image"]}


def predict_top(state, batch):
  return {"top": predict(state, batch)[0].max(axis=1)}


def predict_both(state, batch):
  """Outputs of a student and of a teacher."""
  x = batch["image"]
  return (None, {"logits": x @ state["w"]}), (None, {"logits": x[:, 1:5]})


def predict_patches(state, batch):
  """Six patches of two features."""
  x = jnp.stack([batch["image"], state["w"][0, 0] * batch["image"]], axis=-1)
  out = dict(stem=x.reshape(-1, 2, 3, 2), encoder=dict(block00={"+mlp": x}))
  return x.mean(axis=1), out


def main(folder):
  """Writes what every evaluator gives to `<folder>/result<process>.json`."""
  evaluation.eval_input_pipeline = pipeline
  fewshot_lsr.Evaluator._num_classes = lambda *args: CLASSES
  devices = np.asarray(jax.devices())
  mesh = Mesh(devices, ("data",))
  w = bv_devices.reshard({"w": W}, NamedSharding(mesh, PartitionSpec()))
  kw = dict(data={}, pp_fn="", batch_size=BATCH_SIZE, devices=devices)
  fewshot = fewshot_lsr.Evaluator(
    predict,
    BATCH_SIZE,
    {"toy": ("toy", "train", "train")},
    shots=(1, 3),
    l2_reg=1.0,
    pp_train="",
    pp_eval="",
    display_first=[],
    devices=devices,
  )
  cls = classification.Evaluator(predict, "softmax_xent", **kw)
  with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
    result = dict(cls.run(w))
    result |= mean.Evaluator(predict_top, **kw).run(w)
    table = os.path.join(folder, "classes.csv")
    several = multilabel.Evaluator(predict, per_class=table, **kw)
    result |= {f"several/{k}": v for k, v in several.run(w)}
    numbers = regression.Evaluator(predict, **kw)
    result |= {f"numbers/{k}": v for k, v in numbers.run(w)}
    result |= fewshot.run(w)
    kw_two = dict(kw, train={})
    neighbors = knn.Evaluator(predict_out, ks=(3,), **kw_two)
    result |= {f"knn/{k}": v for k, v in neighbors.run(w)}
    probe = linear_probe.Evaluator(
      predict_out,
      layers=("zimg",),
      sgd_steps=5,
      costs=(1.0,),
      holdout=0.3,
      **kw_two,
    )
    result |= {f"probe/{k}": v for k, v in probe.run(w)}
    outputs = classification_with_labelmap.Evaluator(
      predict, "softmax_xent", (3, -1, 0, 1), **kw
    )
    result |= {f"map/{k}": v for k, v in outputs.run(w)}
    distances = distance.Evaluator(
      predict_both, distances=[dict(kind="kl", t=2)], **kw
    )
    result |= {
      f"distance/{k}": np.asarray(v).tolist() for k, v in distances.run(w)
    }
    # Which examples are compared depends on the number of processes.
    result["cka"] = bool(
      0 < dict(cka.Evaluator(predict_both, **kw).run(w))["cka"]
    )
    dense = dense_probe.Evaluator(
      predict_patches, task="segmentation", num_classes=2, steps=5, **kw_two
    )
    vit = {**w, "params": {"Transformer": {}}}
    result |= {f"dense/{k}": v for k, v in dense.run(vit)}
    key = ("toy", "train", "")
    result["labels"] = fewshot._features(w, key, None)[1].tolist()
    path = os.path.join(folder, "saved.npz")
    list(save.Evaluator(predict, outfile=path, **kw).run(w))
    mine = jax.process_index() + 1
    total = common.process_sum({"a": mine, "b": np.arange(3)})
    result["sum"] = [int(total["a"]), total["b"].tolist()]
    result["json"] = common.multiprocess_write_json(
      os.path.join(folder, "merged.json"), [mine]
    )
  name = f"result{jax.process_index()}.json"
  with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
    json.dump(result, f)


if __name__ == "__main__":
  index, count, address, where = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", 4 // int(count))
  if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
  main(where)
