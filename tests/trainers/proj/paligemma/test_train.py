"""The trainer of PaliGemma, with a tiny model on random texts."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import toy
from big_vision import lookup, losses, trees
from big_vision.configs.proj.paligemma.transfers import common
from big_vision.models.proj.paligemma import paligemma
from big_vision.trainers.proj.paligemma import predict_fns, shapes, train
from big_vision.training import loop
from big_vision.training import state as state_lib

pytestmark = pytest.mark.usefixtures("quick_compilation")
V, T, B = 11, 6, 8
IMG = dict(
  width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=(2, 2), pool_type="none",
  head_zeroinit=False,
)  # fmt: skip
LLM = dict(
  variant="gemma_2b", width=8, depth=2, mlp_dim=16, num_heads=2, num_kv_heads=1,
  head_dim=4, vocab_size=V, remat_policy="none",
)  # fmt: skip
MODEL = dict(img=IMG, llm=LLM)


def example(rng, *images):
  """Prefix and suffix of any length, of which the suffix is predicted."""
  prefix, suffix = rng.integers(1, 4, size=2)
  num = prefix + suffix
  each = lambda a, b: np.repeat([a, b], [prefix, suffix]).astype(np.int32)
  return {
    "image": rng.normal(size=(*images, 4, 4, 3)).astype(np.float32),
    "text": rng.integers(1, V, size=num).astype(np.int32),
    "mask_ar": each(0, 1),
    "mask_loss": each(0, 1),
  }


def batch_of(examples):
  """Pads them as `combine_and_keep_train` does."""
  pad = {"text": 0, "mask_ar": 1, "mask_loss": 0}
  fill = lambda k, x: (
    np.pad(x, (0, T + 1 - len(x)), constant_values=pad[k]) if k in pad else x
  )
  return {k: np.stack([fill(k, e[k]) for e in examples]) for k in examples[0]}


def batch_fn(step, size=B):
  rng = np.random.default_rng([3, step])
  return batch_of([example(rng) for _ in range(size)])


def make_setup(workdir=None, **kw):
  default = dict(
    model_name="proj.paligemma.paligemma",
    model=MODEL,
    lr=0.01,
    input=dict(batch_size=B),
  )
  setup = toy.setup(toy.config(**default | kw), workdir, batch_fn=batch_fn)
  return dataclasses.replace(
    setup, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


@functools.cache
def random(**llm):
  """A model and parameters far from the initial ones."""
  model = paligemma.Model(img=IMG, llm={**LLM, **llm})
  init = lambda: model.init(jax.random.key(0), *predict_fns.inputs(batch_fn(0)))
  rng = np.random.default_rng(0)
  fill = lambda x: (0.5 * rng.standard_normal(x.shape)).astype(x.dtype)
  return model, jax.tree.map(fill, jax.eval_shape(init)["params"])


def make_loss(gradient=False, **kw):
  """`(params, batch) -> (loss, measured)`, and their gradient."""
  recipe = train.build(make_setup(**kw))
  loss = lambda p, batch: recipe.loss_fn(p, batch, jax.random.key(0), {})
  return jax.jit(jax.value_and_grad(loss, has_aux=True) if gradient else loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss(smoothing):
  """In NumPy, and by the loss of the specification."""
  model, params = random()
  batch = batch_fn(0)
  got, measured = make_loss(label_smoothing=smoothing)(params, batch)
  logits, _ = jax.jit(model.apply)(
    {"params": params}, *predict_fns.inputs(batch)
  )
  labels, weights = batch["text"][:, 1:], batch["mask_loss"][:, 1:]
  log_p = scipy.special.log_softmax(np.asarray(logits, np.float64), -1)
  target = np.full(log_p.shape, smoothing / (V - 1))
  np.put_along_axis(target, labels[..., None], 1 - smoothing, -1)
  nats = (-(target * log_p).sum(-1) * weights).sum(1)
  want = np.mean(nats / np.maximum(weights.sum(1), 1))
  assert got == pytest.approx(want, rel=1e-5)
  other = losses.weighted_softmax_xent(
    logits=logits, labels=jnp.asarray(labels), weights=jnp.asarray(weights),
    label_smoothing=smoothing,
  )  # fmt: skip
  assert got == pytest.approx(float(other), rel=1e-5)
  assert measured["avg_sup_seqlen"] == pytest.approx(weights.sum(1).mean())
  assert measured["max_sup_seqlen"] == weights.sum(1).max() == 3


def packed(examples, images, length):
  """What `config.input.pack` makes of them: one batch of all packs."""
  from big_vision.pipeline import packing
  from big_vision.tf import tf

  several = lambda x: x.reshape(-1, *x.shape[-3:])
  examples = [{**e, "image": several(e["image"])} for e in examples]
  spec = {
    k: tf.TensorSpec([None, *x.shape[1:]], x.dtype)
    for k, x in examples[0].items()
  }
  data = tf.data.Dataset.from_generator(
    lambda: iter(examples), output_signature=spec
  )
  lengths = dict.fromkeys(("text", "mask_ar", "mask_loss"), length)
  packs = packing.pack_dataset(data, None, {"image": images, **lengths})
  packs = list(packs.as_numpy_iterator())
  return {k: np.stack([p[k] for p in packs]) for k in packs[0]}


@pytest.mark.tf
@pytest.mark.parametrize(
  "images, llm", [((), {}), ((2,), dict(sliding_window=5))]
)
def test_packed_examples_are_those_that_are_not(images, llm):
  """Their loss, what is measured, and their gradients."""
  rng = np.random.default_rng(1)
  examples = [example(rng, *images) for _ in range(B)]
  batch = packed(examples, 6 if images else 4, 13)
  num = train.is_example(batch).sum(1)
  assert num.sum() == B and len(set(num.tolist())) > 1  # Some room is left.
  _, params = random(**llm)
  kw = dict(model=dict(img=IMG, llm={**LLM, **llm}), label_smoothing=0.1)
  run = make_loss(gradient=not images, **kw)
  want, got = run(params, batch_of(examples)), run(params, batch)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, got, want)
  if not images:
    assert np.abs(got[1]["img"]["embedding"]["kernel"]).max() > 0.01


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp("runs")


def trained(workdir, name, **kw):
  """(recipe, final state); the image model is loaded and frozen."""
  path = workdir / "it.npz"
  if not path.exists():
    flat = trees.tree_flatten_with_names(random()[1]["img"])[0]
    np.savez(path, **{f"params/img/{k}": x for k, x in flat})
  setup = make_setup(
    workdir / name,
    model=dict(img=IMG, llm={**LLM, "dropout": 0.1}),
    model_init={"img": f"{path}:img"},
    schedule=[("img/.*", None), ("llm/.*", dict(decay_type="cosine"))],
    total_steps=4,
    ckpt_steps=2,
    keep_ckpt_steps=2,
    wd=0.1,
    **kw,
  )
  recipe = train.build(setup)
  return recipe, loop.run(setup, recipe)


@pytest.fixture(scope="module")
def whole(workdir):
  return trained(workdir, "a")


def test_goes_on_with_the_same_numbers(whole, workdir):
  path = workdir / "a" / "checkpoint.bv-000000002"
  _, again = trained(workdir, "b", resume=str(path))
  assert sorted(again) == ["opt", "params"]
  for (name, x), (_, y) in zip(
    *(trees.tree_flatten_with_names(t)[0] for t in (whole[1], again)),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y, err_msg=name)
  first, then = (toy.numbers(workdir / d) for d in "ab")
  assert sorted(then) == [3, 4] and all(first[i] == then[i] for i in then)


def test_a_part_that_is_loaded_and_frozen(whole, workdir):
  """The language model begins with random values and learns."""
  recipe, state = whole
  img, params = random()[1]["img"], state["params"]
  jax.tree.map(np.testing.assert_array_equal, params["img"], img)
  rng_init, rng = state_lib.seed_keys(0)
  start = jax.jit(recipe.init)(rng_init, batch_fn(0))
  for (name, x), y in zip(
    trees.tree_flatten_with_names(params["llm"])[0],
    jax.tree.leaves(start["llm"]),
    strict=True,
  ):
    assert 1e-4 < np.abs(x - y).max() < 0.05, name
  # As specified: dropout by the second key of the step's.
  key = jax.random.split(jax.random.fold_in(rng, 0))[1]
  loss = jax.jit(lambda p, key: recipe.loss_fn(p, batch_fn(0), key, {}))
  total, measured = loss({**start, "img": img}, key)
  row = toy.rows(workdir / "a")[1]
  assert row["training_loss"] == pytest.approx(float(total), rel=1e-5)
  for name, x in measured.items():
    assert row[name] == pytest.approx(float(x))
  other, _ = loss({**start, "img": img}, jax.random.key(1))
  assert abs(other - total) > 1e-4


def test_without_any_predicted_token():
  """The loss of such an example is 0, and it counts."""
  _, params = random()
  batch = batch_fn(0)
  run = make_loss()
  before, _ = run(params, batch)
  mask = np.array(batch["mask_loss"])
  mask[1:] = 0
  one, measured = run(params, {**batch, "mask_loss": mask})
  first = {k: np.repeat(x[:1], B, axis=0) for k, x in batch.items()}
  want, _ = run(params, first)
  assert one == pytest.approx(float(want) / B, rel=1e-5) and one < before
  assert measured["max_sup_seqlen"] == mask[0, 1:].sum()


def test_bad_configs():
  with pytest.raises(lookup.ConfigError, match=r"config\.mixup"):
    train.build(make_setup(mixup=dict(p=0.1)))
  for name in ("image", "text", "mask_ar", "mask_loss"):
    setup = make_setup()
    del setup.batch_shapes[name]
    with pytest.raises(
      lookup.ConfigError, match=rf"input\.pp makes no '{name}'"
    ):
      train.build(setup)
  with pytest.raises(ValueError, match=r"config\.model.*'llm_modell'"):
    train.build(make_setup(model={**MODEL, "llm_modell": "x"}))


def config_of(pp, **kw):
  return toy.config(input=dict(pp=pp, batch_size=B, **kw))


def test_shapes_of_batches():
  pp = common.combine_and_keep_train(T)
  got = shapes.batch_shapes(config_of(pp), B, (8, 6))
  want = {k: (x.shape, x.dtype) for k, x in batch_fn(0).items()}
  want["image"] = ((B, 8, 6, 3), np.dtype("float32"))
  assert {k: (x.shape, x.dtype) for k, x in got.items()} == want
  assert train.batch_shapes is shapes.batch_shapes
  with pytest.raises(ValueError, match=r"config\.input\.pp = 'decode'.*tolen"):
    shapes.batch_shapes(config_of("decode"), B, (8, 6))
  with pytest.raises(ValueError, match=r"config\.input\.pp"):
    shapes.batch_shapes(config_of(dict(a="decode")), B, (8, 6))
  with pytest.raises(ValueError, match=r"config\.input\.pack"):
    shapes.batch_shapes(config_of(pp, pack=dict(text=9)), B, (8, 6))


def test_the_trainer_is_short():
  assert len(pathlib.Path(train.__file__).read_text().splitlines()) <= 200
