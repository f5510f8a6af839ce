"""Tests for the optimizer factory, against formulas in NumPy."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from big_vision import lookup, trees
from big_vision import optax as bv_optax

SCHED_KW = dict(total_steps=20, batch_size=32, data_size=100)
SHAPES = {
  "a": {"kernel": (4, 3), "bias": (3,)},
  "b": {"kernel": (3, 2), "bias": (2,)},
  "kernel": (5,),
}


def random_tree(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  is_shape = lambda s: isinstance(s, tuple)
  draw = lambda s: (scale * rng.standard_normal(s)).astype(np.float32)
  return jax.tree.map(draw, SHAPES, is_leaf=is_shape)


def named(tree):
  return dict(trees.tree_flatten_with_names(tree)[0])


def make(params=None, **config):
  config = {"optax_name": "scale_by_adam", "lr": 0.1, **config}
  params = random_tree(0) if params is None else params
  config = ml_collections.ConfigDict(config)
  return bv_optax.make(config, params, sched_kw=SCHED_KW)


def run(steps=4, grad_scale=1.0, jit=True, **config):
  """Parameters and gradients by step, and the last state."""
  params = random_tree(0)
  tx, _ = make(params, **config)
  state = tx.init(params)
  update = jax.jit(tx.update) if jit else tx.update
  history, grads = [params], []
  for i in range(steps):
    grads.append(random_tree(100 + i, grad_scale))
    updates, state = update(grads[-1], state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  history = [{k: np.asarray(v) for k, v in named(p).items()} for p in history]
  return history, [named(g) for g in grads], state


def adam(b1=0.9, b2=0.999, eps=1e-8):
  state = {"mu": 0.0, "nu": 0.0, "t": 0}

  def update(g):
    state["t"] += 1
    state["mu"] = b1 * state["mu"] + (1 - b1) * g
    state["nu"] = b2 * state["nu"] + (1 - b2) * g**2
    mu = state["mu"] / (1 - b1 ** state["t"])
    nu = state["nu"] / (1 - b2 ** state["t"])
    return mu / (np.sqrt(nu) + eps)

  return update


def heavy_ball(momentum=0.9, nesterov=False, dtype=np.float64):
  trace = [0.0]

  def update(g):
    t = g + momentum * np.asarray(trace[0], np.float64)
    trace[0] = t.astype(dtype)
    # What is stored is rounded, what is applied is not.
    return g + momentum * t if nesterov else t

  return update


def adafactor(min_dim=32, rate=0.8, cap=0.999, clip=None, momentum=0.9,
              dtype=jnp.bfloat16, eps=1e-30):  # fmt: skip
  """Shazeer and Stern, Algorithm 4; factored over the last two dims if large."""
  state = {"i": 0, "m": 0.0, "r": 0.0, "c": 0.0, "v": 0.0}

  def update(g):
    beta = min(cap, 1 - (state["i"] + 1) ** -rate)
    state["i"] += 1
    sq = g.astype(np.float64) ** 2 + eps
    if g.ndim == 2 and min(g.shape) >= min_dim:
      state["r"] = beta * state["r"] + (1 - beta) * sq.mean(1)
      state["c"] = beta * state["c"] + (1 - beta) * sq.mean(0)
      v = np.outer(state["r"], state["c"]) / state["r"].mean()
    else:
      v = state["v"] = beta * state["v"] + (1 - beta) * sq
    u = g / np.sqrt(v)
    if clip:
      u = u / max(1.0, np.sqrt(np.mean(u**2)) / clip)
    if not momentum:
      return u
    u = (1 - momentum) * u + momentum * np.asarray(state["m"], np.float64)
    state["m"] = u.astype(dtype)
    return u

  return update


# One rounding to bfloat16 is 2^-9 relative. Which intermediates of the product
# with the accumulator are rounded is up to the compiler.
BF16 = dict(rtol=2e-5, atol=1e-3)


def assert_follows(history, grads, factory, rule, rtol=2e-5, atol=2e-6):
  """The parameters follow `rule(name, step, O(g), p)` = the update."""
  for name in history[0]:
    optimizer = factory()
    p = history[0][name].astype(np.float64)
    for i, g in enumerate(grads):
      p = p + rule(name, i, optimizer(g[name].astype(np.float64)), p)
      np.testing.assert_allclose(
        history[i + 1][name], p, rtol=rtol, atol=atol, err_msg=f"{name} {i}"
      )


def test_adam_with_everything():
  history, grads, _ = run(
    optax=dict(b2=0.95, eps=1e-6),
    lr_mults=[("a/.*", 0.5), (".*kernel", 2.0)],
    wd=0.2,
    wd_mults=[("b/.*", 0.5), (".*kernel", 1.0)],
    schedule=[
      (".*bias", dict(decay_type="linear", mult=3.0)),
      (".*", dict(decay_type="cosine", warmup_steps=2)),
    ],
  )

  def rule(name, step, o, p):
    m = 0.5 if name.startswith("a/") else 2.0 if "kernel" in name else 1.0
    w = 0.5 if name.startswith("b/") else 1.0 if "kernel" in name else 0.0
    if name.endswith("bias"):
      s = 3 * (1 - step / 20)
    else:
      q = max(step - 2, 0) / 18
      s = 0.5 * (1 + np.cos(np.pi * q)) * min(1, step / 2)
    return -s * (0.1 * m * o + 0.2 * w * p)

  assert_follows(history, grads, lambda: adam(b2=0.95, eps=1e-6), rule)


def test_clipping_by_global_norm():
  for limit, clipped in ((0.5, True), (100.0, False)):
    history, grads, _ = run(
      optax_name="big_vision.sgd", grad_clip_norm=limit,
      schedule=[("kernel", None), (".*", {})],
    )  # fmt: skip
    for i, g in enumerate(grads):
      live = {k: v for k, v in g.items() if k != "kernel"}
      norm = np.sqrt(sum(np.sum(v**2) for v in live.values()))
      assert (norm > limit) == clipped
      for k, v in live.items():
        expected = history[i][k] - 0.1 * v * min(1, limit / norm)
        np.testing.assert_allclose(history[i + 1][k], expected, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_momentum_hp(nesterov, dtype):
  kw = {"dtype": dtype} if dtype else {}
  history, grads, state = run(
    optax_name="big_vision.momentum_hp",
    optax=dict(momentum=0.7, nesterov=nesterov, **kw),
  )
  store = jnp.dtype(dtype or "bfloat16")
  assert named(state)["1/0/0/kernel"].dtype == store
  reference = lambda: heavy_ball(0.7, nesterov, store)
  rule = lambda name, step, o, p: -0.1 * o
  tol = BF16 if store == jnp.bfloat16 else {}
  assert_follows(history, grads, reference, rule, **tol)


@pytest.mark.parametrize(
  "kw",
  [
    {},
    dict(dtype_momentum="float32", momentum=0.5, decay_rate=0.6),
    dict(momentum=None, clipping_threshold=0.3, eps=1e-3),
    dict(min_dim_size_to_factor=3, beta2_cap=0.4, momentum=0),
  ],
)
def test_adafactor(kw):
  history, grads, _ = run(
    optax_name="big_vision.scale_by_adafactor", optax=kw, steps=5
  )
  names = dict(dtype_momentum="dtype", min_dim_size_to_factor="min_dim",
               decay_rate="rate", beta2_cap="cap", clipping_threshold="clip")  # fmt: skip
  ref = {names.get(k, k): v for k, v in kw.items()}
  if "dtype" in ref:
    ref["dtype"] = jnp.dtype(ref["dtype"])
  rule = lambda name, step, o, p: -0.1 * o
  assert_follows(
    history, grads, lambda: adafactor(**ref), rule, **({} if kw else BF16)
  )


def test_adafactor_decay_offset():
  # The decay is that of a run which has done 10 000 updates: at its cap.
  kw = dict(decay_offset=-10_000, momentum=None)
  history, grads, _ = run(
    optax_name="big_vision.scale_by_adafactor", optax=kw, steps=1
  )
  g = grads[0]["kernel"]
  expected = history[0]["kernel"] - 0.1 * g / np.sqrt(1e-3 * g**2)
  np.testing.assert_allclose(history[1]["kernel"], expected, rtol=1e-4)


def test_frozen():
  history, _, state = run(
    wd=0.3, schedule=[("a/.*", None), (".*", dict(decay_type="cosine"))]
  )
  for k, v in history[-1].items():
    assert np.array_equal(v, history[0][k]) == k.startswith("a/")
  assert not [n for n in named(state) if "/a/" in n]
  tx, fns = make(schedule=[("a/.*", None), (".*", {})])
  params = random_tree(0)
  updates, _ = tx.update(random_tree(1), tx.init(params), params)
  assert not updates["a"]["kernel"].any() and len(fns) == 1


@pytest.mark.parametrize("schedule", [None, [(".*", None)],
                                      [("a/.*", None), (".*", None)]])  # fmt: skip
def test_all_frozen(schedule):
  history, _, state = run(steps=3, wd=0.1, schedule=schedule, grad_clip_norm=1)
  for k, v in history[-1].items():
    np.testing.assert_array_equal(v, history[0][k])
  assert bv_optax.get_count(state) == 3
  assert int(bv_optax.get_count(state, jittable=True)) == 3
  # Adam's own counter is a scalar, there are no moments.
  assert {k: v.shape for k, v in named(state).items()} == {
    "1/0/0": (), "4/0/0": ()}  # fmt: skip
  assert make(schedule=schedule)[1] == []


def test_state_names():
  """Checkpoints depend on them."""
  params = list(named(random_tree(0)))
  names = lambda **kw: set(named(make(**kw)[0].init(random_tree(0))))
  adam = {"1/0/0"} | {f"1/0/{i}/{p}" for i in (1, 2) for p in params}
  assert names() == adam | {"3/0/0"}
  assert names(wd=0.1) == adam | {"4/0/0"}
  assert names(wd=0.1, wd_mults=[]) == adam | {"3/0/0"}
  assert names(grad_clip_norm=1.0, wd=0) == adam | {"3/0/0"}
  assert names(
    wd=0.1, wd_mults=[("a/.*", 1), ("b/.*", 2)], lr_mults=[("a/.*", 2)],
    schedule=[("a/.*", {}), ("b/.*", {}), (".*", {})],
  ) == adam | {"6/0/0", "7/0/0", "8/0/0"}  # fmt: skip
  factors = {f"1/0/0/{i}/{p}" for i in (1, 2, 3) for p in params}
  ema = {"1/0/2/0"} | {f"1/0/2/1/{p}" for p in params}
  name = "big_vision.scale_by_adafactor"
  assert names(optax_name=name) == factors | ema | {"1/0/0/0", "3/0/0"}
  without = names(optax_name=name, optax=dict(momentum=None))
  assert without == factors | {"1/0/0/0", "3/0/0"}
  trace = {f"1/0/0/{p}" for p in params}
  assert names(optax_name="big_vision.momentum_hp") == trace | {"3/0/0"}
  assert names(optax_name="big_vision.sgd") == {"3/0/0"}


def test_default_decay_is_of_kernels_at_any_level():
  history, _, _ = run(steps=1, lr=0.0, wd=0.5)
  for k, v in history[1].items():
    factor = 0.5 if k.endswith("kernel") else 1.0
    np.testing.assert_allclose(v, factor * history[0][k], rtol=1e-6)


def test_schedule_fns():
  _, (f, g) = make(
    schedule=[
      ("a/.*", dict(decay_type="linear", mult=2.0)),
      ("b/.*", None),
      (".*", dict(warmup_epochs=1)),
    ]
  )
  np.testing.assert_allclose([f(0), f(10), f(20)], [2, 1, 0])
  np.testing.assert_allclose([g(0), g(1), g(3), g(9)], [0, 1 / 3, 1, 1])
  # What trainers hand over besides is ignored.
  config = dict(optax_name="identity", lr=1.0)
  params = {"w": np.ones(2)}
  more = dict(SCHED_KW, something="else")
  _, (f,) = bv_optax.make(config, params, sched_kw=more)
  assert f(5) == 1


def test_shapes_and_boxed_params():
  boxed = jax.tree.map(
    lambda x: nn.LogicallyPartitioned(jnp.asarray(x), names=("x",) * x.ndim),
    random_tree(0),
  )
  shapes = jax.eval_shape(lambda: random_tree(0))
  tx, _ = make(shapes, wd=0.1, schedule=[("a/.*", None), (".*", {})])
  state = jax.eval_shape(tx.init, boxed)
  is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)
  boxes = [x for x in jax.tree.leaves(state, is_leaf=is_box) if is_box(x)]
  assert len(boxes) == 6  # Two moments of three parameters.
  plain = jax.eval_shape(tx.init, random_tree(0))
  assert jax.tree.structure(nn.unbox(state)) == jax.tree.structure(plain)


@pytest.mark.parametrize(
  "config, message",
  [
    (dict(schedule=[("a/.*", {})]), "All params must be covered.*b/kernel"),
    (dict(schedule=[]), "All params must be covered.*a/kernel"),
    (dict(lr_mults=[("a/.*", 0.0)]), "None"),
    (dict(lr_mults=[("a/.*", -1.0)]), "must be positive"),
    (dict(lr_mults=[("a/.*", None)]), "'a/.*' = None must be a number"),
    (dict(optim=dict(b1=0.9)), "deprecated"),
    (dict(weight_decay=0.1), "config.wd"),
    (dict(weight_decay_decouple=False), "coupled"),
    (dict(schedule=dict(base=2.0)), "config.lr"),
    (dict(wd=0.1, wd_mults=[("/a/.*", 1.0)]), "/"),
  ],
)
def test_assertion_errors(config, message):
  with pytest.raises(AssertionError, match=message):
    make(**config)


@pytest.mark.parametrize(
  "config, message",
  [
    (dict(optax_name="scale_by_adm"), "config.optax_name.*scale_by_adam"),
    (dict(optax_name="big_vision.scale_by_adafac"),
     "optax_name.*big_vision.scale_by_adafactor"),
    (dict(optax_name="big_vision"), "config.optax_name"),
    (dict(optax_name="no_such_module.optimizer"), "config.optax_name"),
    (dict(optax=dict(beta2=0.9)), "config.optax.*beta2"),
    (dict(schedule=dict(decay_tpye="cosine")), "decay_type"),
    (dict(schedule=[(".*", dict(decay_type="cosin"))]), "cosine"),
    (dict(schedule=dict(warmup_step=3)), "warmup_steps"),
  ],
)  # fmt: skip
def test_value_errors(config, message):
  with pytest.raises(ValueError, match=message):
    make(**config)


def test_empty_lists_and_params():
  history, grads, _ = run(steps=1, lr_mults=[], wd=0.1, wd_mults=[])
  rule = lambda name, step, o, p: -0.1 * o
  assert_follows(history, grads, adam, rule)
  tx, _ = make({}, grad_clip_norm=1.0, wd=0.1)
  assert tx.update({}, tx.init({}), {})[0] == {}


def test_names_of_optimizers(monkeypatch):
  assert optax.big_vision.sgd is optax.identity
  assert optax.big_vision.momentum_hp is bv_optax.momentum_hp
  assert optax.big_vision.scale_by_adafactor is bv_optax.scale_by_adafactor
  make(optax_name="scale", optax=dict(step_size=2.0))
  make(optax_name="contrib.scale_by_schedule_free" if hasattr(
    optax.contrib, "scale_by_schedule_free") else "scale_by_lion")  # fmt: skip
  module = types.ModuleType("my_optimizers")
  module.double = lambda factor=2.0: optax.scale(factor)
  monkeypatch.setitem(__import__("sys").modules, "my_optimizers", module)
  history, grads, _ = run(
    steps=1, optax_name="my_optimizers.double", optax=dict(factor=3.0)
  )
  assert_follows(
    history, grads, lambda: lambda g: 3 * g, lambda n, i, o, p: -0.1 * o
  )


def test_find_states_and_count():
  tx, _ = make(schedule=[("a/.*", {}), (".*", {})])
  params = random_tree(0)
  state = tx.init(params)
  assert bv_optax.get_count(state) == 0
  for _ in range(2):
    _, state = tx.update(params, state, params)
  assert bv_optax.get_count(state) == 2
  count = jax.jit(lambda s: bv_optax.get_count(s, jittable=True))(state)
  assert count == 2 and count.dtype == jnp.int32
  assert len(bv_optax.find_states(state, optax.ScaleByScheduleState)) == 2
  assert len(bv_optax.find_states(state, optax.ScaleByAdamState)) == 1
  assert bv_optax.find_states(state, optax.TraceState) == []
  counter = optax.ScaleByScheduleState
  for bad in ((), (counter(jnp.int32(1)), counter(jnp.int32(2)))):
    with pytest.raises(AssertionError, match="Expected exactly 1"):
      bv_optax.get_count(bad)


def test_replace_frozen():
  tree = random_tree(0)
  out = bv_optax.replace_frozen([("a/.*", None), (".*", {})], tree, 0.0)
  assert out["a"] == {"kernel": 0.0, "bias": 0.0}
  assert out["b"]["kernel"] is tree["b"]["kernel"]
  for schedule in ({}, None, dict(decay_type="cosine")):
    assert bv_optax.replace_frozen(schedule, tree, 0.0) is tree
  with pytest.raises(AssertionError, match="must be covered.*b/bias"):
    bv_optax.replace_frozen([("a/.*", None)], tree, 0.0)
  with pytest.raises(AssertionError, match="must be covered"):
    bv_optax.replace_frozen([], tree, 0.0)


def per_example(seed, batch=4):
  parts = [random_tree(seed + i) for i in range(batch)]
  return parts, jax.tree.map(lambda *x: np.stack(x), *parts)


def test_clip_by_per_example_global_norm():
  parts, grads = per_example(0)
  parts[1] = jax.tree.map(np.zeros_like, parts[1])  # No division by zero.
  grads = jax.tree.map(lambda *x: np.stack(x), *parts)
  tx = bv_optax.clip_by_per_example_global_norm(5.0)
  state = tx.init(random_tree(0))
  assert not jax.tree.leaves(state)
  out = named(tx.update(grads, state)[0])
  norms = [np.sqrt(sum(np.sum(v**2) for v in named(p).values())) for p in parts]
  assert min(norms) < 5 < max(norms)
  for name, value in out.items():
    each = [
      named(p)[name] * (min(1, 5 / n) if n else 1)
      for p, n in zip(parts, norms, strict=True)
    ]
    np.testing.assert_allclose(value, np.mean(each, axis=0), rtol=1e-5)


def test_per_example_clipping_in_a_chain():
  _, grads = per_example(0)
  params = random_tree(0)
  kw = dict(optax_name="big_vision.sgd", lr=1.0, grad_clip_norm=0.5,
            grad_clip_per_example=True, schedule=[("a/.*", None), (".*", {})])  # fmt: skip
  tx, _ = make(**kw)
  state = tx.init(params)
  updates, _ = jax.jit(tx.update)(grads, state, params)
  assert jax.tree.map(np.shape, updates) == jax.tree.map(np.shape, params)
  assert not updates["a"]["kernel"].any()
  norm = np.sqrt(sum(np.sum(v**2) for v in jax.tree.leaves(updates)))
  assert 0 < norm <= 0.5
  with pytest.raises(ValueError, match=r"config\.grad_clip_per_example"):
    tx.update(params, state, params)


def test_private_helpers():
  masks, values = bv_optax._make_mask_trees(
    random_tree(0), [("a/.*", None), (".*kernel", 1), (".*", 2)], "log"
  )
  assert values == (None, 1, 2)
  assert [sorted(k for k, m in named(t).items() if m) for t in masks] == [
    ["a/bias", "a/kernel"], ["b/kernel", "kernel"], ["b/bias"]]  # fmt: skip
  frozen, rest, scheds = bv_optax._split_frozen(masks, values)
  assert scheds == (1, 2) and rest == tuple(masks[1:])
  assert [k for k, m in named(frozen).items() if m] == ["a/bias", "a/kernel"]
  frozen, rest, scheds = bv_optax._split_frozen(masks, (1, 2, 3))
  assert not any(jax.tree.leaves(frozen)) and len(rest) == 3


def unit_norms(x):
  """One norm per output: of dense layers, convolutions, else of all."""
  axis = tuple(range(x.ndim - 1)) if x.ndim > 1 else None
  return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True))


AGC_SHAPES = {
  "conv": {"kernel": (3, 3, 2, 4), "bias": (4,), "gain": (4,), "skip": ()},
  "dense": {"kernel": (5, 3)},
  "head": {"kernel": (5, 3), "bias": (3,)},
}


def agc_update(grad_scale, shapes=AGC_SHAPES, **config):
  """Parameters, gradients and what is left of these, by name."""
  rng = np.random.default_rng(0)
  draw = lambda s: rng.standard_normal(s).astype(np.float32)
  is_shape = lambda s: isinstance(s, tuple)
  params, grads = (
    jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in range(2)
  )
  grads = jax.tree.map(lambda g: grad_scale * g, grads)
  params["conv"]["skip"] = np.zeros((), np.float32)
  config = dict(optax_name="big_vision.sgd", lr=1.0, **config)
  tx, _ = bv_optax.make(
    ml_collections.ConfigDict(config), params, sched_kw=SCHED_KW
  )
  state = tx.init(params)
  updates, _ = jax.jit(tx.update)(grads, state, params)
  updates = jax.tree.map(jnp.negative, updates)  # Updates go downhill.
  return named(params), named(grads), named(updates), state


@pytest.mark.parametrize("mults", [None, [], [("conv/.*", 0.5), (".*ad/k.*", 0),
                                              ("dense/.*", 2.0)]])  # fmt: skip
@pytest.mark.parametrize("eps", [None, 2.0])
def test_adaptive_clipping(mults, eps):
  """Brock et al. 2021, equation 3."""
  config = dict(grad_clip_agc=0.1)
  if mults is not None:
    config["grad_clip_agc_mults"] = mults
  if eps is not None:
    config["grad_clip_agc_eps"] = eps

  def limit(name):
    if mults is None:
      return np.inf if name.startswith("head/") else 0.1
    if not mults:
      return 0.1
    if name == "head/kernel":
      return np.inf
    return dict(conv=0.05, dense=0.2, head=0.1)[name.split("/")[0]]

  num_clipped = 0
  params, grads, updates, state = agc_update(0.12, **config)
  for name, g in grads.items():
    norm = unit_norms(g)
    limits = limit(name) * np.maximum(unit_norms(params[name]), eps or 1e-3)
    expected = g * np.minimum(1, limits / norm)
    np.testing.assert_allclose(updates[name], expected, rtol=1e-5, err_msg=name)
    num_clipped += np.sum(norm > limits)
  assert 0 < num_clipped < sum(np.size(unit_norms(g)) for g in grads.values())
  # Names of states, and with them checkpoints, do not change.
  assert set(named(state)) == {"3/0/0"}


def test_adaptive_clipping_after_the_global_norm():
  kw = dict(grad_clip_agc=0.1, schedule=[("dense/.*", None), (".*", {})])
  params, grads, updates, _ = agc_update(3.0, grad_clip_norm=1.0, **kw)
  live = {k: g for k, g in grads.items() if not k.startswith("dense/")}
  norm = np.sqrt(sum(np.sum(g**2) for g in live.values()))
  for name, g in live.items():
    expected = g / norm
    if not name.startswith("head/"):
      limits = 0.1 * np.maximum(unit_norms(params[name]), 1e-3)
      expected = expected * np.minimum(1, limits / unit_norms(expected))
    np.testing.assert_allclose(updates[name], expected, rtol=1e-5)
  assert not updates["dense/kernel"].any()


def test_adaptive_clipping_of_averages_over_examples():
  params = {"a": np.full((2, 3), 2.0, np.float32), "b": np.ones(3, np.float32)}
  grads = jax.tree.map(lambda p: np.stack([p, 3 * p]), params)
  config = dict(optax_name="big_vision.sgd", lr=1.0, grad_clip_agc=0.1,
                grad_clip_norm=1e3, grad_clip_per_example=True)  # fmt: skip
  tx, _ = bv_optax.make(config, params, sched_kw=SCHED_KW)
  updates, _ = tx.update(grads, tx.init(params), params)
  for k, p in params.items():
    np.testing.assert_allclose(updates[k], -0.1 * p, rtol=1e-5)


@pytest.mark.parametrize(
  "config, message",
  [
    (dict(grad_clip_agc=-0.1), "config.grad_clip_agc = -0.1"),
    (dict(grad_clip_agc=0.1, grad_clip_agc_eps=-1), "grad_clip_agc_eps"),
    (dict(grad_clip_agc=0.1, grad_clip_agc_mults=[("a", -2)]), "agc_mults.*-2"),
  ],
)
def test_adaptive_clipping_errors(config, message):
  with pytest.raises(ValueError, match=message):
    make(**config)


def test_no_adaptive_clipping_by_default():
  for kw in ({}, dict(grad_clip_agc=None), dict(grad_clip_agc=0)):
    _, grads, updates, _ = agc_update(100.0, **kw)
    jax.tree.map(np.testing.assert_array_equal, updates, grads)


@pytest.mark.parametrize(
  "config, message",
  [
    # The names that are nearest; the tree has a/, b/, kernel.
    (dict(schedule=[("hed/.*", {}), (".*", None)]),
     r"^config.schedule: 'hed/\.\*' matches .* no parameter.*start with 'a'"),
    (dict(schedule=[("a/kernl", None), (".*", {})]), "nearest.*'a/kernel'"),
    (dict(lr_mults=[("b/bais", 0.1)]), "^config.lr_mults: .*nearest.*'b/bias'"),
    # Also without decay: one who turns it on would not get what is said.
    (dict(wd_mults=[("a/kernle", 1.0)]), "^config.wd_mults: .*'a/kernel'"),
    (dict(lr_mults=[("bias", 2.0)]), "only a part of 'a/bias', 'b/bias'.*first"),
    (dict(grad_clip_agc=0.1, grad_clip_agc_mults=[("x/.*", 0)]), "agc_mults"),
    (dict(lr_mults=[("(", 1.0)]), "config.lr_mults: .*regular expression"),
    (dict(lr_mults=["a/.*"]), "config.lr_mults is a list of pairs.*'a/.*'"),
    (dict(schedule=[("a/.*", None), (".*",)]), "config.schedule.*pairs"),
    (dict(schedule=[(".*", 0.1)]), "config.schedule: 0.1 must be a dict"),
  ],
)  # fmt: skip
def test_rules_without_a_match(config, message):
  with pytest.raises(lookup.ConfigError, match=message) as e:
    make(**config)
  assert "\n" not in str(e.value)


def test_rules_that_need_no_match():
  make(schedule=[(".*FREEZE_ME.*", None), (".*", {})])
  # What another rule is before, or what only stands for the rest.
  make(lr_mults=[("a/.*", 0.1), ("a/kernel", 2.0), ("b/.*", 1), (".*", 3.0)])
  make({"head": jnp.zeros(3)}, wd=0.1)  # The default: kernels.
  mults = [("(.*/)?head/.*", 0.0), ("a/.*", 2.0)]  # The default spelt out.
  make(grad_clip_agc=0.1, grad_clip_agc_mults=mults)
  make({}, lr_mults=[("a/.*", 0.1)])  # Nothing could match.


@pytest.mark.parametrize(
  "name, kw, hint",
  [
    ("adamw", dict(learning_rate=1e-3), "'scale_by_adam'"),
    ("adam", dict(learning_rate=1e-3), "'scale_by_adam'"),
    ("sgd", dict(learning_rate=0.1, momentum=0.9), "'big_vision.sgd'"),
    ("lion", dict(learning_rate=1e-4), "'scale_by_lion'"),
    ("adafactor", dict(learning_rate=1e-3), "'big_vision.scale_by_adafactor'"),
    ("scale", dict(step_size=-2.0), "scale_by_adam"),
    ("contrib.muon", dict(learning_rate=1e-3), "'big_vision.muon'"),
  ],
)
def test_optimizers_that_step_themselves(name, kw, hint):
  with pytest.raises(lookup.ConfigError, match=f"optax_name='{name}'.*{hint}"):
    make(optax_name=name, optax=kw)


def test_optimizers_that_need_the_loss():
  message = "optax_name='polyak_sgd' needs more than gradients.*'value'"
  with pytest.raises(lookup.ConfigError, match=message):
    make(optax_name="polyak_sgd")


def warming_up():
  """Nothing at first, then a step downhill."""
  return optax.sgd(lambda step: 0.1 * (step > 2))


def test_steps_after_a_warmup_and_within_a_trace():
  with pytest.raises(lookup.ConfigError, match="uphill"):
    make(optax_name=f"{__name__}:warming_up")
  with (
    pytest.raises(lookup.ConfigError, match="uphill"),
    jax.transfer_guard("disallow"),
  ):
    jax.eval_shape(
      lambda: make(optax_name="adam", optax=dict(learning_rate=1.0))[0].init({})
    )


@pytest.mark.parametrize(
  "name, kw",
  [
    ("identity", {}),
    ("set_to_zero", {}),
    ("trace", dict(decay=0.9)),
    ("scale_by_adam", dict(mu_dtype="bfloat16", b2=0.95)),
    ("scale_by_lion", {}),
    ("scale_by_adamax", {}),
    ("scale_by_rms", {}),
    ("scale_by_yogi", {}),
    ("scale_by_sm3", {}),
    ("apply_every", dict(k=4)),
    ("contrib.scale_by_muon", {}),
    ("big_vision.sgd", {}),
    ("big_vision.momentum_hp", dict(nesterov=True)),
    ("big_vision.muon", dict(consistent_rms=0.2, mu_dtype="bfloat16")),
    ("big_vision.scale_by_adafactor", dict(beta2_cap=0.95)),
    # Needs the loss at its updates: not for this chain to tell.
  ],
)
def test_optimizers_that_only_rescale(name, kw):
  make(optax_name=name, optax=kw)


@pytest.mark.parametrize(
  "config, message",
  [
    (dict(lr=-0.1), "config.lr = -0.1 must be .* at least 0"),
    (dict(lr="1e-3"), "config.lr = '1e-3' must be a number"),
    (dict(lr=float("nan")), "config.lr = nan"),
    (dict(wd=-1e-4), "config.wd = -0.0001"),
    (dict(grad_clip_norm=-1.0), "config.grad_clip_norm = -1.0"),
    (dict(wd=0.1, wd_mults=[("a/.*", -1.0)]), "config.wd_mults.*'a/.*' = -1.0"),
    (dict(schedule=dict(mult=-1.0)), "config.schedule.mult = -1.0"),
    (dict(schedule=[(".*", dict(decay_type="linear", linear_end=-1e-5))]),
     "config.schedule.linear_end = -1e-05"),
    (dict(schedule=dict(steps=[2], mults=[-0.1])), "config.schedule.mults"),
    (dict(optax=dict(mu_dtype="bfloat17")), "config.optax .*bfloat17"),
    (dict(optax_name="cosine_decay_schedule",
          optax=dict(init_value=1.0, decay_steps=3)), "not an optimizer"),
  ],
)  # fmt: skip
def test_numbers_and_names(config, message):
  with pytest.raises(lookup.ConfigError, match=message) as e:
    make(**config)
  assert "\n" not in str(e.value)
  with pytest.raises(lookup.ConfigError, match=message):  # Without parameters.
    bv_optax.check(dict(optax_name="scale_by_adam", lr=0.1) | config)


def test_zeros_are_fine():
  make(lr=0.0, wd=0.0, grad_clip_norm=0, wd_mults=[("a/.*", 0)])
  bv_optax.check(dict(optax_name="identity", lr=0.0, wd=None))
