"""The trainer on random pictures, with a model of one layer and few tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import toy
from big_vision import trees
from big_vision.models.proj.uvim import decode, vtt
from big_vision.trainers.proj.reward_tune import detection_reward as dr
from big_vision.trainers.proj.reward_tune import reinforce, train
from big_vision.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

B, N, L, SIZE = 8, 4, 12, 8
REWARD = dict(
  name="detection_reward", max_level=4, num_cls=2, reward_thr=(0.3, 0.5, 0.7)
)
V = dr.Settings.of(REWARD).vocab_size
MODEL = dict(
  patches=dict(size=(4, 4)),
  num_heads=2,
  num_layers=1,
  mlp_dim=16,
  emb_dim=16,
  vocab_size=V,
  seq_len=L,
  input_size=(SIZE, SIZE),
  dropout_rate=0.1,
)


def batch_fn(step, size=B):
  """A large box whose class is the sign of the pictures, and maybe no other."""
  r = np.random.default_rng([3, step])
  label = r.integers(0, 2, size)
  image = r.normal(size=(size, SIZE, SIZE, 3)) + 2 * label[:, None, None, None]
  labels = np.zeros([size, L], np.int32)
  labels[:, :6] = np.array([3, 3, 7, 7, 8, 1]) + np.outer(label, np.eye(6)[4])
  labels[:, 5] += r.integers(0, 2, size)
  return {"image": image.astype(np.float32), "labels": labels}


def make_setup(workdir=None, reward=(), on=None, **kw):
  default = dict(
    model_name="proj.uvim.vtt",
    model=MODEL,
    reward={**REWARD, **dict(reward)},
    lr=0.01,
    input=dict(batch_size=B),
  )
  config = toy.config(**default | kw)
  setup = toy.setup(config, workdir, on, batch_fn=batch_fn)
  return dataclasses.replace(
    setup, batch_shapes=jax.eval_shape(lambda: batch_fn(0))
  )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  """The workdir of the first phase."""
  workdir = tmp_path_factory.mktemp("first") / "w"
  loop.run(s := make_setup(workdir, total_steps=50), train.build(s))
  return workdir


@functools.cache
def made(**reward):
  """(recipe of the second phase, parameters that are not neutral)."""
  recipe = train.build(make_setup(reward=reward, model_init="not read"))
  shapes = jax.eval_shape(recipe.init, jax.random.key(0), batch_fn(0))
  rng = np.random.default_rng(0)
  draw = lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32)
  return recipe, jax.tree.map(draw, shapes)


def log_p(params, image, tokens):
  """Of all tokens in float64, [B, L, V], by the whole model."""
  model = vtt.Model(**MODEL)
  logits = jax.jit(model.apply)({"params": params}, image, tokens)
  return scipy.special.log_softmax(np.asarray(logits, np.float64), -1)


def test_first_phase():
  _, params = made(num_samples=N)
  recipe = train.build(make_setup(model=MODEL | dict(dropout_rate=0.0)))
  batch = batch_fn(0)
  loss, measured = jax.jit(recipe.loss_fn)(params, batch, jax.random.key(0), {})
  labels = batch["labels"]
  picked = np.take_along_axis(
    log_p(params, batch["image"], labels), labels[..., None], -1
  )[..., 0]
  assert loss == pytest.approx(-picked.mean(), rel=1e-5) and not measured
  each = recipe.predict_fns["validation"]({"params": params}, batch)
  np.testing.assert_allclose(each["loss"], -picked.mean(1), rtol=1e-5)


@pytest.mark.parametrize("num_grads", [1, N])
def test_second_phase(num_grads):
  """The loss, from what was drawn."""
  recipe, params = made(num_samples=N, num_grads=num_grads, conf_w=0.7)
  batch, key = batch_fn(0), jax.random.key(5)
  samples = np.asarray(
    reinforce.draw(vtt.Model(**MODEL), params, batch["image"], key, N)
  )
  assert samples.shape == (B, N, L) and len(np.unique(samples)) == V
  assert (samples[:, 0] != samples[:, 1]).any()
  config = {**REWARD, "conf_w": 0.7}
  rewards = np.asarray(dr.reward_fn(samples, batch["labels"], config)[0], float)
  assert len(np.unique(rewards)) > 2

  policy, confidences = [], []
  for j in range(num_grads):
    baseline = np.delete(rewards, j, axis=1).mean(axis=1)
    p = log_p(params, batch["image"], samples[:, j])
    picked = np.take_along_axis(p, samples[:, j, :, None], -1)[..., 0]
    policy.append(-(rewards[:, j] - baseline)[:, None] * picked)
    more = dr.reward_fn(samples[:, j : j + 1], batch["labels"], config)[1]
    iou = np.asarray(more["match_iou"][:, 0], float)
    empty = np.asarray(more["correct"][:, 0]) == 0
    of_conf = scipy.special.log_softmax(p[:, 5::6, :3], -1)
    target = np.stack([empty, (1 - iou) * ~empty, iou], -1)
    confidences.append(-(target * of_conf).sum(-1))
  want = np.mean(policy) + 0.7 * np.mean(confidences)

  grad_fn = jax.jit(jax.value_and_grad(recipe.loss_fn, has_aux=True))
  (loss, measured), grads = grad_fn(params, batch, key, {})
  assert loss == pytest.approx(want, rel=1e-4)
  assert measured["reward"] == pytest.approx(rewards.mean(), rel=1e-5)
  best = rewards.max(axis=1).mean()
  assert measured["reward_of_best"] == pytest.approx(best, rel=1e-5)
  assert 0 < measured["entropy"] < np.log(V)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_drawn_from_the_model_that_learns():
  _, params = made(num_samples=N)
  image, model = batch_fn(0)["image"], vtt.Model(**MODEL)
  samples, _, logprobs = decode.temperature_sampling(
    {"params": params}, image, np.zeros([B, L], np.int32), 3, model=model,
    num_samples=N, eos_token=-1,
  )  # fmt: skip
  logits = reinforce.of_samples(model, params, image, samples)
  of_tokens = jnp.take_along_axis(
    jax.nn.log_softmax(logits), samples[..., None], axis=-1
  )
  np.testing.assert_allclose(of_tokens[..., 0], logprobs, atol=1e-4)


def test_rewards_rise(first, tmp_path):
  kw = dict(
    reward=dict(num_samples=N, num_grads=N, conf_w=0.0),
    model_init=f"{first}/checkpoint.bv",
  )
  s = make_setup(tmp_path / "w", total_steps=40, **kw)
  loop.run(s, train.build(s))
  rows = toy.rows(tmp_path / "w")
  rewards = [rows[i]["reward"] for i in range(1, 41)]
  assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1


def test_goes_on_with_the_same_numbers(first, tmp_path):
  kw = dict(
    reward=dict(num_samples=N), model_init=f"{first}/checkpoint.bv",
    total_steps=4,
    ckpt_steps=2, keep_ckpt_steps=2,
  )  # fmt: skip
  whole = loop.run(s := make_setup(tmp_path / "a", **kw), train.build(s))
  kw["resume"] = str(tmp_path / "a" / "checkpoint.bv-000000002")
  again = loop.run(s := make_setup(tmp_path / "b", **kw), train.build(s))
  for (name, x), (_, y) in zip(
    *(trees.tree_flatten_with_names(t)[0] for t in (whole, again)), strict=True
  ):
    np.testing.assert_array_equal(x, y, err_msg=name)
  numbers = [
    toy.numbers(tmp_path / d, ("training_loss", "reward")) for d in "ab"
  ]
  assert numbers[0][4] == numbers[1][4] and 1 not in numbers[1]


@pytest.mark.multidevice
def test_on_several_devices(first, tmp_path):
  kw = dict(
    reward=dict(num_samples=N),
    model_init=f"{first}/checkpoint.bv",
    total_steps=3,
  )
  for name, devices in (("a", jax.devices()[:1]), ("b", jax.devices())):
    s = make_setup(tmp_path / name, on=devices, **kw)
    loop.run(s, train.build(s))
  a, b = (toy.numbers(tmp_path / d, ("training_loss", "reward")) for d in "ab")
  np.testing.assert_allclose(a[1], b[1], rtol=1e-4)


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    (dict(reward=dict(num_samples=N)), r"config\.model_init is empty"),
    (
      dict(reward=dict(name="detecton_reward")),
      r"reward\.name.*detection_reward",
    ),
    (
      dict(reward=dict(num_cls=3)),
      rf"vocab_size={V} is too small.* {V + 1} tokens",
    ),
    (
      dict(model={**MODEL, "seq_len": 18}),
      r"seq_len=18, but `labels`.* 12 tokens",
    ),
    (dict(mixup=dict(p=0.1)), r"config\.mixup"),
    (dict(reward=dict(num_samples=1), model_init="x"), "2 samples or more"),
  ],
)
def test_what_does_not_fit(changes, match):
  with pytest.raises(ValueError, match=match):
    train.build(make_setup(**changes))


def test_a_reward_of_ones_own(first, tmp_path, monkeypatch):
  """How many tokens are the last one, of any module."""
  module = tmp_path / "my_reward.py"
  module.write_text(
    "def get_reward(config):\n"
    "  return lambda predicted, truth: (predicted == config.token).mean(-1)\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  reward = dict(name="my_reward", num_samples=N, num_grads=N, token=V - 1)
  s = make_setup(
    tmp_path / "w",
    reward=reward,
    model_init=f"{first}/checkpoint.bv",
    total_steps=30,
  )
  recipe = train.build(s)
  assert sorted(recipe.predict_fns) == ["sample", "validation"]
  loop.run(s, recipe)
  rows = toy.rows(tmp_path / "w")
  assert rows[30]["reward"] > rows[1]["reward"] + 0.2
  assert "further_loss" not in rows[30]


def test_shapes_to_plan():
  shapes = train.batch_shapes(make_setup().config, 5, (SIZE, SIZE))
  got = {k: (v.shape, v.dtype) for k, v in shapes.items()}
  real = {k: ((5, *v.shape[1:]), v.dtype) for k, v in batch_fn(0).items()}
  assert got == real
