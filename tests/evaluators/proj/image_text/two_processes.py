"""One of two processes that evaluate together; started by the test beside."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from big_vision import devices as bv_devices
from big_vision.evaluators.proj.image_text import (
  contrastive,
  discriminative_classifier,
  retrieval,
)
from big_vision.pp import ops_general, ops_image, registry  # noqa: F401
from big_vision.tf import tf

LENGTH = 24


def get_letters():
  """Op: a text to its bytes, padded with 0."""

  def letters(data):
    x = tf.io.decode_raw(data["texts"], tf.uint8)[:LENGTH]
    x = tf.pad(tf.cast(x, tf.int32), [[0, LENGTH - tf.size(x)]])
    data["labels"] = tf.ensure_shape(x, [LENGTH])
    return data

  return letters


def predict(state, batch):
  """Random projections of pixels and letters."""
  zimg = ztxt = None
  if "image" in batch:
    x = batch["image"].reshape(len(batch["image"]), -1)
    zimg = x @ state["w"]
  if "labels" in batch:
    ztxt = jnp.sin(batch["labels"].astype(jnp.float32)) @ state["v"]
  return zimg, ztxt, {"t": jnp.ones(1)}


def main(folder):
  """Writes what every evaluator gives to `<folder>/result<process>.json`."""
  devices = np.asarray(jax.devices())
  mesh = Mesh(devices, ("data",))
  rng = np.random.RandomState(0)
  state = {
    "w": rng.randn(32 * 32 * 3, 8).astype(np.float32) / 50,
    "v": rng.randn(LENGTH, 8).astype(np.float32),
  }
  state = bv_devices.reshard(state, NamedSharding(mesh, PartitionSpec()))
  kw = dict(batch_size=8, devices=devices)
  image = "value_range(-1, 1)"
  ret = retrieval.Evaluator(
    predict,
    dataset="shapes/tiny",
    pp_img=image,
    pp_txt="letters",
    txt_name="captions",
    split="test[:21]",
    **kw,
  )
  zero_shot = lambda **own: discriminative_classifier.Evaluator(
    predict,
    dataset_names=("shapes/tiny",),
    split="test[:21]",
    pp_img=image,
    pp_txt="letters",
    prompt_templates="clip_best",
    **own,
    **kw,
  )
  con = contrastive.Evaluator(
    predict,
    {"name": "shapes/tiny", "split": "test[:21]"},
    f"decode|resize(32)|{image}|copy('id', 'texts')|letters|keep('image', 'labels')",
    use_global_batch=True,
    **kw,
  )
  with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
    result = dict(ret.run(state)) | dict(ret.run(state))
    texts = ret.evaluate(state)["texts"]
    result["texts"] = texts["embeddings"].tolist()
    result["captions"] = texts["caption_i"].tolist()
    got = zero_shot().evaluate(state, "shapes/tiny", return_embeddings=True)
    result["correct"], result["count"] = got["correct"], got["count"]
    result["labels"] = got["images"]["label"].tolist()
    result["images"] = got["images"]["embedding"].tolist()
    result["prompts"] = got["texts"]["label"].tolist()
    result["classes"] = got["texts"]["average_embedding"].tolist()
    few = zero_shot(
      pre_filter_fn=lambda e: e["num_objects"] == 1, class_names=["a"]
    )
    result["few"] = few.evaluate(state, "shapes/tiny")["count"]
    result |= {f"contrastive/{k}": v for k, v in con.run(state)}
  name = f"result{jax.process_index()}.json"
  with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
    json.dump(result, f)


if __name__ == "__main__":
  index, count, address, where = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", 4 // int(count))
  if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
  with registry.temporary_ops(letters=get_letters):
    main(where)
