"""Workdirs of both stages of UViM with random parameters, for three tasks."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from big_vision import checkpoints, models

SIZE, PATCH, NUM_CODES, NUM_WORDS = 16, 4, 4, 8
PIXELS = PATCH * PATCH
INPUTS = {
  "panoptic": {"semantics": (7, PIXELS), "instances": (5, PIXELS)},
  "depth": {"depth": (20, PIXELS)},
  "colorization": {"color": (3, PIXELS)},
}
_IMAGE = f"resize({SIZE})|value_range(-1, 1)"
PP = {
  "panoptic": 'coco_panoptic|concat(["semantics","instances"], "labels")|'
  f'resize({SIZE},key="labels",method="nearest")|make_canonical|{_IMAGE}|'
  'copy("image", "image_ctx")|keep("image","image_ctx","labels")',
  "depth": f'nyu_depth|{_IMAGE}|resize({SIZE},key="labels",method="nearest")|'
  'copy("image", "image_ctx")|keep("image","image_ctx","labels")',
  "colorization": f'resize({SIZE})|copy("image", "labels")|'
  'value_range(-1,1,key="labels")|rgb_to_grayscale_to_rgb|value_range(-1,1)|'
  'copy("image", "image_ctx")|keep("image","image_ctx","labels")',
}


def stage_one_config(task):
  config = dict(
    task=f"proj.uvim.{task}_task",
    model_name="proj.uvim.vit",
    model=dict(
      input_size=(SIZE, SIZE),
      patch_size=(PATCH, PATCH),
      code_len=NUM_CODES,
      width=16,
      enc_depth=1,
      dec_depth=1,
      mlp_dim=16,
      num_heads=2,
      dict_size=NUM_WORDS,
      codeword_dim=16,
      with_encoder_ctx=True,
      with_decoder_ctx=True,
      code_dropout="random",
      bottleneck_resize=True,
      head_zeroinit=False,
      inputs=INPUTS[task],
      outputs=INPUTS[task],
    ),
    evals=dict(
      val=dict(pred="validation", pp_fn="decode|none"),
      one=dict(type="proj.uvim.psnr", pp_fn=PP[task], dataset="shapes/tiny"),
    ),
    input=dict(pp=f"decode|{PP[task]}"),
  )
  if task == "depth":
    config |= dict(min_depth=0.001, max_depth=10)
  return config


def stage_two_config(task, oracle):
  one = stage_one_config(task)
  names = ("task", "model_name", "model", "min_depth", "max_depth")
  return dict(
    oracle={k: one[k] for k in names if k in one}
    | dict(model_init=str(oracle)),
    model_name="proj.uvim.vtt",
    model=dict(
      patches=dict(size=(PATCH, PATCH)),
      num_heads=2,
      num_layers=1,
      mlp_dim=16,
      emb_dim=16,
      vocab_size=NUM_WORDS + 1,
      seq_len=NUM_CODES,
      input_size=(SIZE, SIZE),
      posemb_type="learn",
    ),
    evals=one["evals"],
    input=one["input"],
  )


def _random(fn, *args, **kw):
  """Draws variables of the shapes that a function returns, without compiling."""
  rng = np.random.default_rng(0)
  draw = lambda x: np.float32(0.3 * rng.normal(size=x.shape))
  return jax.tree.map(draw, jax.eval_shape(fn, *args, **kw))


def _write(folder, config, state):
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(config))
  manager = checkpoints.CheckpointManager()
  path = str(folder / "checkpoint.bv")
  checkpoints.save_checkpoint_ts(manager, state, path, 3, keep=False)
  manager.wait_until_finished()
  return folder


def stage_one(folder, task):
  """Writes a run of stage I."""
  config = stage_one_config(task)
  model, _ = models.build(ConfigDict(config))
  x = {
    k: jnp.zeros([1, (SIZE // PATCH) ** 2, *shape])
    for k, shape in INPUTS[task].items()
  }
  keys = {"params": jax.random.key(0), "state": jax.random.key(1)}
  state = _random(model.init, keys, x, ctx=jnp.zeros([1, SIZE, SIZE, 3]))
  state["state"]["counts"] = np.ones(NUM_WORDS, np.float32)
  return _write(folder, config, {**state, "opt": {"count": np.int32(3)}})


def stage_two(folder, task, oracle):
  """Writes a run of stage II."""
  config = stage_two_config(task, oracle)
  model, _ = models.build(ConfigDict(config))
  image = jnp.zeros([1, SIZE, SIZE, 3])
  codes = jnp.zeros([1, NUM_CODES], jnp.int32)
  state = _random(model.init, jax.random.key(0), image, codes)
  return _write(folder, config, state)


def images(num=3, seed=0):
  """Pictures of different sizes."""
  rng = np.random.default_rng(seed)
  sizes = [(20, 31), (16, 16), (40, 25)][:num]
  return [rng.integers(0, 256, [*s, 3]).astype(np.uint8) for s in sizes]


def labels(task, pictures, seed=0):
  """Ground truth of pictures."""
  rng = np.random.default_rng(seed)
  sizes = [p.shape[:2] for p in pictures]
  if task == "depth":
    return [rng.uniform(0.5, 9, s).astype(np.float32) for s in sizes]
  if task == "panoptic":
    return [rng.integers(0, 5, [*s, 2]) for s in sizes]
  return pictures
