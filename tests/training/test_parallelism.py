"""A step that is split over eight devices in any way equals that of one device."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import toy
from big_vision import devices, losses, sharding, trees
from big_vision.evaluators import outputs
from big_vision.models import vit
from big_vision.models.proj.cappa import cappa
from big_vision.models.proj.flaxformer import bert
from big_vision.models.proj.flexi import vit as flexi
from big_vision.models.proj.image_text import captioner, naflex_vit
from big_vision.models.proj.jet import jet
from big_vision.models.proj.mae import mae
from big_vision.models.proj.paligemma import paligemma
from big_vision.models.proj.uvim import vit as uvim_vit
from big_vision.models.proj.uvim import vtt
from big_vision.trainers.proj.image_text import siglip
from big_vision.trainers.proj.jet import train as jet_train
from big_vision.training import recipe as recipe_lib
from big_vision.training import state as state_lib
from big_vision.training import step as step_lib

pytestmark = [
  pytest.mark.multidevice,
  pytest.mark.usefixtures("quick_compilation"),
]

B, CLASSES, T = 16, 8, 16  # Examples, classes, patches of an image.
SIZE = dict(width=32, num_heads=4, mlp_dim=64)

BATCH = ("act_batch", "data")
TENSOR = [("act_mlp", "model"), ("act_heads", "model")]
FSDP = "fsdp('data', min_size_to_shard_mb=0.001)"
LAYOUTS = {
  "data": dict(mesh=[("data", 8)]),
  "fsdp": dict(mesh=[("data", 8)], sharding_strategy=[(".*", FSDP)]),
  "tensor": dict(
    mesh=[("data", 4), ("model", 2)],
    sharding_strategy=[(".*", "tensor_parallel('model')")],
  ),
  "tensor_and_tokens": dict(  # Tokens are split where features are whole.
    mesh=[("data", 4), ("model", 2)],
    sharding_strategy=[(".*", "tensor_parallel('model')")],
    sharding_rules=[BATCH, *TENSOR, ("act_len", "model")],
  ),
  "sequence": dict(
    mesh=[("data", 2), ("seq", 4)],
    sharding_rules=[BATCH, ("act_len", "seq")],
  ),
  "all": dict(
    mesh=[("data", 2), ("seq", 2), ("model", 2)],
    sharding_strategy=[(".*", f"tensor_parallel('model')|{FSDP}")],
    sharding_rules=[BATCH, *TENSOR, ("act_len", "seq")],
  ),
}


# Shape of the weights of attention on a device, but for the last dimension.
WEIGHTS = {
  "data": (2, 4, 16),
  "fsdp": (2, 4, 16),
  "tensor": (4, 2, 16),
  "tensor_and_tokens": (4, 2, 16),
  "sequence": (8, 4, 4),
  "all": (8, 2, 8),
}


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ints(high, *shape):
  x = np.random.default_rng(1).integers(high, size=shape)
  return x.astype(np.int32)


IMAGE = normal(B, 16, 16, 3)
LABELS = np.eye(CLASSES, dtype=np.float32)[ints(CLASSES, B)]


def xent(logits, labels):
  return losses.softmax_xent(logits=logits, labels=labels)


def classifier(model, image=IMAGE, **kw):
  """(init, loss_fn, batch) of a model of images or texts."""

  def loss_fn(params, batch, rng, state):
    logits, _ = model.apply({"params": params}, batch["image"], **kw)
    return xent(logits, batch["labels"]), {}

  init = lambda rng, batch: model.init(rng, batch["image"], **kw)["params"]
  return init, loss_fn, {"image": image, "labels": LABELS}


def of_vit(**kw):
  kw = dict(patch_size=(4, 4), depth=1, pool_type="map") | SIZE | kw
  return classifier(vit.Model(CLASSES, **kw))


def of_scan():
  policy = "dots_with_no_batch_dims_saveable"
  return of_vit(scan=True, depth=2, remat_policy=policy, pool_type="tok")


def of_naflex():
  y, x = np.mgrid[:4, :4].reshape(2, 1, T).repeat(B, axis=1).astype(np.int32)
  exists = np.ones([B, T], np.int32)
  exists[::2, 12:] = 0
  model = naflex_vit.Model(CLASSES, depth=1, nposemb=4, **SIZE)
  return classifier(model, (normal(B, T, 48), exists, y, x))


def of_flexi():
  kw = dict(patch_size=(4, 4), posemb_size=(4, 4), depth=1, **SIZE)
  return classifier(flexi.Model(CLASSES, **kw), seqhw=4)


def of_bert():
  text = 1 + ints(30, B, 8)
  return classifier(bert.Model("tiny", CLASSES, head_zeroinit=False), text)


def of_vtt():
  model = vtt.Model(
    {"size": (4, 4)},
    num_heads=4,
    num_layers=1,
    mlp_dim=64,
    emb_dim=32,
    vocab_size=16,
    seq_len=8,
    input_size=(16, 16),
  )
  apply = lambda p, b: model.apply({"params": p}, b["image"], b["labels"])
  text = 1 + ints(15, B, 8)

  def loss_fn(params, batch, rng, state):
    one_hot = jax.nn.one_hot(batch["labels"], 16)
    return xent(apply(params, batch), one_hot), {}

  init = lambda rng, b: model.init(rng, b["image"], b["labels"])["params"]
  return init, loss_fn, {"image": IMAGE, "labels": text}


def of_cappa():
  """With blocks that are stacked along the second axis."""
  model = cappa.Model(
    patches=(4, 4), num_layers=1, vocab_size=16, seq_len=8, emb_dim=32,
    num_heads=4, mlp_dim=64, scan=True,
  )  # fmt: skip
  apply = lambda p, b: model.apply({"params": p}, b["image"], b["labels"])
  text = 1 + ints(15, B, 8)

  def loss_fn(params, batch, rng, state):
    one_hot = jax.nn.one_hot(batch["labels"], 16)
    return xent(apply(params, batch), one_hot), {}

  init = lambda rng, b: model.init(rng, b["image"], b["labels"])["params"]
  return init, loss_fn, {"image": IMAGE, "labels": text}


def of_paligemma():
  """Heads of queries are split, keys and values, of one head, are not."""
  size = dict(width=32, depth=1, mlp_dim=64, num_heads=4)
  model = paligemma.Model(
    img=dict(patch_size=(4, 4), pool_type="none", head_zeroinit=False, **size),
    llm=dict(vocab_size=16, num_kv_heads=1, head_dim=8, **size),
  )
  text = 1 + ints(15, B, 8)
  mask_ar = np.tile(np.arange(8) >= 3, (B, 1)).astype(np.int32)
  args = lambda b: (b["image"], b["labels"], b["mask_ar"])

  def loss_fn(params, batch, rng, state):
    logits, _ = model.apply({"params": params}, *args(batch))
    one_hot = jax.nn.one_hot(batch["labels"], 16)
    return xent(logits, one_hot), {}

  init = lambda rng, b: model.init(rng, *args(b))["params"]
  batch = {"image": IMAGE, "labels": text, "mask_ar": mask_ar}
  return init, loss_fn, batch


def of_vqvae():
  """Without codewords: which is nearest may hang on the last bit."""
  channels = {"color": (3, 16)}
  model = uvim_vit.Model(
    channels,
    channels,
    input_size=(16, 16),
    patch_size=(4, 4),
    code_len=8,
    enc_depth=1,
    dec_depth=1,
    codeword_dim=8,
    quantize=False,
    with_encoder_ctx=True,
    with_decoder_ctx=True,
    **SIZE,
  )
  batch = {"image": IMAGE, "labels": normal(B, T, 3, 16)}
  args = lambda b: dict(x={"color": b["labels"]}, ctx=b["image"])

  def variables(rng, b):
    return model.init({"params": rng, "dropout": rng}, **args(b))

  dictionary = jax.eval_shape(variables, jax.random.key(0), batch)["state"]
  dictionary = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), dictionary)

  def loss_fn(params, batch, rng, state):
    of_model = {"params": params, "state": dictionary}
    logits, _ = model.apply(of_model, **args(batch))
    square = jnp.square(logits["color"] - batch["labels"])
    return square.mean(axis=(1, 2, 3)).mean(), {}

  return lambda rng, b: variables(rng, b)["params"], loss_fn, batch


def of_jet():
  model = jet.Model(
    depth=2, emb_dim=32, num_heads=4, ps=4, kinds=("channels", "spatial")
  )

  def loss_fn(params, batch, rng, state):
    out = model.apply({"params": params}, batch["image"])
    return jet_train.bits_per_dim(*out)["bits"].mean(), {}

  init = lambda rng, b: model.init(rng, b["image"])["params"]
  return init, loss_fn, {"image": IMAGE}


def of_captioner():
  model = captioner.Model(16, depth=1, **SIZE)
  batch = {"image": normal(B, T, 24), "labels": ints(16, B, 8)}
  args = lambda b: (
    b["image"],
    b["labels"],
    jnp.ones([len(b["labels"]), 8]),
  )

  def loss_fn(params, batch, rng, state):
    logits = model.apply({"params": params}, *args(batch))
    return xent(logits, jax.nn.one_hot(batch["labels"], 16)), {}

  return lambda rng, b: model.init(rng, *args(b))["params"], loss_fn, batch


def of_mae():
  decoder = {f"decoder_{k}": v for k, v in SIZE.items()}
  model = mae.Model(
    patch_size=(4, 4), depth=1, decoder_depth=1, **SIZE, **decoder
  )
  noise = normal(B, T)

  def loss_fn(params, batch, rng, state):
    pred, out = model.apply(
      {"params": params}, batch["image"], noise=batch["noise"]
    )
    return mae.loss(pred, out), {}

  init = lambda rng, b: model.init(rng, b["image"], noise=b["noise"])["params"]
  return init, loss_fn, {"image": IMAGE, "noise": noise}


FAMILIES = {
  "vit": of_vit,
  "scan": of_scan,
  "naflex": of_naflex,
  "vtt": of_vtt,
  "cappa": of_cappa,
  "paligemma": of_paligemma,
  "flexi": of_flexi,
  "vqvae": of_vqvae,
  "captioner": of_captioner,
  "jet": of_jet,
  "bert": of_bert,
  "mae": of_mae,
}
TOWERS = dict(
  model_name="proj.image_text.two_towers",
  model=dict(
    image=dict(patch_size=(4, 4), depth=1, pool_type="map", **SIZE),
    text=dict(depth=1, vocab_size=16, **SIZE),
    out_dim=16,
    bias_init=-2.0,
  ),
)


@dataclasses.dataclass
class Step:
  """What a step has computed, on the host, and how it was split."""

  loss: float
  grads: dict
  params: dict
  shapes: dict  # Of the parameters, on the first device.
  hlo: str


def config_of(layout, **kw):
  default = dict(wd=0.0, lr=0.1, grad_clip_norm=None)
  # The state of this optimizer after a step is the gradient.
  optimizer = dict(optax_name="trace", optax=dict(decay=0.9))
  schedule = dict(schedule=dict(decay_type="linear", warmup_steps=0))
  config = toy.config(**default, **optimizer, **schedule, **kw)
  config.update(LAYOUTS.get(layout, {}))
  return config


@functools.cache
def step(family, layout=None, accum=1):
  """The first step of a family; without a layout, on one device."""
  towers = TOWERS if family == "siglip" else {}
  config = config_of(layout, grad_accum_steps=accum, **towers)
  if layout:
    mesh = devices.mesh_of(config)
  else:
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
  batch = {"image": IMAGE, "labels": ints(16, B, 8)}
  if not towers:
    init, loss_fn, batch = FAMILIES[family]()
  setup = dataclasses.replace(
    toy.setup(config), mesh=mesh, batch_shapes=jax.eval_shape(lambda: batch)
  )
  recipe = (
    siglip.build(setup)
    if towers
    else recipe_lib.Recipe(init=init, loss_fn=loss_fn)
  )
  return _run(setup, recipe, batch)


def _run(setup, recipe, batch):
  plan = state_lib.plan(recipe, setup)
  update = step_lib.make_update(
    recipe, plan.tx, setup.config, plan.shardings, plan.replicated
  )
  # Without compiling the initialization; no two values are the same.
  rng = np.random.default_rng(0)
  fill = lambda x: (0.2 * rng.standard_normal(x.shape)).astype(x.dtype)
  zeros = lambda x: np.zeros(x.shape, x.dtype)
  state = {
    "params": jax.tree.map(fill, plan.shapes["params"]),
    "opt": jax.tree.map(zeros, plan.shapes["opt"]),
  }
  state = devices.reshard(state, plan.shardings)
  key = devices.reshard(state_lib.seed_keys(0)[1], plan.replicated)
  split = lambda x: devices.make_fsarray_from_local_slice(x, setup.devices)
  with setup.context():
    args = (state, jax.tree.map(split, batch), {}, key)
    compiled = update.lower(*args).compile()
    state, measured = compiled(*args)
  named = dict(trees.tree_flatten_with_names(state)[0])
  local = lambda x: x.addressable_shards[0].data.shape
  host = jax.device_get(named)
  params = {k: v for k, v in host.items() if k.startswith("params/")}
  grads = {
    re.sub(r"opt/(\d+/)*", "params/", k): v
    for k, v in host.items()
    if k.startswith("opt/")
  }
  return Step(
    loss=float(measured["training_loss"]),
    grads={k: grads[k] for k in params},
    params=params,
    shapes={k: local(named[k]) for k in params},
    hlo=compiled.as_text(),
  )


def distance(a, b):
  """‖a - b‖ / ‖b‖ of two trees."""
  assert a.keys() == b.keys() and a
  square = lambda x: float(np.sum(np.square(np.float64(x))))
  above = sum(square(a[k] - b[k]) for k in a)
  return (above / sum(map(square, b.values()))) ** 0.5


def check(got, want):
  assert got.loss == pytest.approx(want.loss, rel=1e-6)
  assert distance(got.grads, want.grads) < 1e-6
  assert distance(got.params, want.params) < 1e-6
  assert distance(want.grads, want.params) > 1e-3  # It has a gradient.


@pytest.mark.parametrize(
  "layout",
  [
    pytest.param(x, marks=[pytest.mark.slow] * (x in ("data", "fsdp")))
    for x in LAYOUTS
  ],
)
def test_vit(layout):
  got = step("vit", layout)
  check(got, step("vit"))
  block = "params/Transformer/encoderblock_0/"
  names = [
    f"{block}MlpBlock_0/Dense_0/kernel",
    f"{block}MlpBlock_0/Dense_1/kernel",
    f"{block}MultiHeadDotProductAttention_0/query/kernel",
    f"{block}MultiHeadDotProductAttention_0/out/kernel",
    f"{block}MlpBlock_0/Dense_0/bias",
    f"{block}MlpBlock_0/Dense_1/bias",
    "params/MAPHead_0/MultiHeadDotProductAttention_0/key/bias",
  ]
  whole = [(32, 64), (64, 32), (32, 4, 8), (4, 8, 32), (64,), (32,), (4, 8)]
  halves = [(32, 32), (32, 32), (32, 2, 8), (2, 8, 32), (32,), (32,), (2, 8)]
  want = {
    "fsdp": [(32, 8), (8, 32), (4, 4, 8), (4, 8, 4), *whole[4:]],
    "tensor": halves,
    "tensor_and_tokens": halves,
    "all": [(16, 32), (32, 16), (16, 2, 8), (2, 8, 16), *halves[4:]],
  }
  assert [got.shapes[name] for name in names] == want.get(layout, whole)
  # Of attention, a device has its examples, heads and queries only.
  b, h, t = WEIGHTS[layout]
  assert f"f32[{b},{h},{t},{T}]" in got.hlo
  assert (h, t) == (4, T) or f"f32[{b},4,{T},{T}]" not in got.hlo


@pytest.mark.parametrize(
  "family", ["naflex", "vtt", "cappa", "paligemma", "siglip"]
)
def test_families(family):
  got = step(family, "all")
  check(got, step(family))
  split = [
    k
    for k, shape in got.shapes.items()
    if np.prod(shape) <= step(family).params[k].size / 4
  ]
  # Over both axes: two kernels of MLPs and four of attention, in each block; of
  # Gemma two of attention.
  assert len(split) >= {"naflex": 6, "paligemma": 10}.get(family, 12)


def test_micro_batches_scan_and_rematerialization():
  check(step("scan", "all", accum=2), step("scan"))


def test_evaluators_see_the_rows_of_one_device():
  """They have a mesh of their own, on which batches are split over all."""
  apply = lambda state, batch: vit.Model(
    CLASSES, patch_size=(4, 4), depth=1, pool_type="map", **SIZE
  ).apply({"params": state["params"]}, batch["image"])
  flat = step("vit").params
  params = trees.recover_tree(
    [k.removeprefix("params/") for k in flat], list(flat.values())
  )

  def rows(layout, mesh):
    config = config_of(layout)
    setup = dataclasses.replace(toy.setup(config), mesh=mesh)
    where = sharding.infer_sharding(
      {"params": params}, config.get("sharding_strategy"), mesh
    )
    state = devices.reshard({"params": params}, where)
    fn = outputs.get_rows_fn(
      apply, "softmax_xent", Mesh(setup.devices, ("devices",))
    )
    batch = {"image": IMAGE, "labels": LABELS, "_mask": np.arange(B) < 13}
    batch = {
      k: devices.make_fsarray_from_local_slice(v, setup.devices)
      for k, v in batch.items()
    }
    with setup.context():
      found = fn(state, batch, batch["labels"], batch["_mask"])
    assert all(x.is_fully_replicated for x in jax.tree.leaves(found))
    return jax.device_get(found)

  mesh = devices.mesh_of(LAYOUTS["tensor"])
  one = Mesh(np.asarray(jax.devices()[:1]), ("data",))
  (logits, labels, loss), mask = rows("tensor", mesh)
  (want, _, want_loss), _ = rows(None, one)
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
  np.testing.assert_array_equal(labels, LABELS)
  assert mask.sum() == 13


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", [*FAMILIES, "siglip"])
def test_all_families_in_all_ways(family, layout):
  check(step(family, layout), step(family))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_families_in_micro_batches(family, layout):
  check(step(family, layout, accum=2), step(family, accum=2))


@pytest.mark.parametrize(
  "layout",
  [pytest.param(x, marks=[pytest.mark.slow] * (x != "all")) for x in LAYOUTS],
)
def test_micro_batches_of_pairs(layout):
  """A convolution that was split by rows and features had twice its gradient."""
  check(step("siglip", layout, accum=2), step("siglip"))
