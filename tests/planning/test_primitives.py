"""The table of operations: complete for what this package traces."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from big_vision import losses, mixup, train
from big_vision import optax as bv_optax
from big_vision.models import bit, bit_paper, mlp_mixer, nfnet, vit
from big_vision.models.proj.flexi import vit as flexi
from big_vision.planning import costs, flops, jaxpr, primitives, report
from plans import make_config, trace

IMAGES = np.zeros((2, 32, 32, 3), np.float32)
VIT = dict(variant="mu/16", head_zeroinit=False)
MODELS = {
  "vit": vit.Model(5, **VIT, pool_type="map", dropout=0.1, rep_size=True),
  "vit, scan": vit.Model(
    5, **VIT, pool_type="tok", scan=True, dtype_mm="bfloat16"
  ),
  "vit, fixed positions": vit.Model(5, **VIT, posemb="sincos2d"),
  "flexi": flexi.Model(5, variant="mu/16", patch_size=(8, 8), seqhw=2),
  "mixer": mlp_mixer.Model(
    5, patch_size=(16, 16), num_blocks=1, hidden_dim=8, tokens_mlp_dim=8,
    channels_mlp_dim=8, stoch_depth=0.1,
  ),
  "bit": bit.Model(5, depth=(1, 1), width=1),
  "bit_paper": bit_paper.Model(5, depth=(1, 1), width=1),
  "nfnet": nfnet.Model(5, width=(256,), depth=(1,)),
}  # fmt: skip


def check(fn, *args):
  """All operations of a function have a row in the table."""
  assert primitives.assumed(jaxpr.from_function(fn, *args)) == {}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
  model = MODELS[name]
  init = lambda key: model.init(key, IMAGES)
  params = jax.eval_shape(init, jax.random.key(0))

  def loss(params, key):
    logits, _ = model.apply(params, IMAGES, train=True, rngs={"dropout": key})
    return losses.softmax_xent(logits=logits, labels=jnp.ones_like(logits))

  check(init, jax.random.key(0))
  check(jax.value_and_grad(loss), params, jax.random.key(0))


@pytest.mark.parametrize("name", ["softmax_xent", "sigmoid_xent"])
def test_losses(name):
  loss = lambda x: getattr(losses, name)(logits=x, labels=jnp.ones_like(x))
  check(jax.grad(loss), np.zeros((3, 5), np.float32))


TRANSFORMS = {
  "adam": optax.scale_by_adam(),
  "adafactor": bv_optax.scale_by_adafactor(),
  "momentum": bv_optax.momentum_hp(),
  "lion": optax.scale_by_lion(),
  "adan": optax.scale_by_adan(),
  "amsgrad": optax.scale_by_amsgrad(),
  "radam": optax.scale_by_radam(),
  "rms": optax.scale_by_rms(),
  "clipping": optax.clip_by_global_norm(1.0),
  "agc": optax.adaptive_grad_clip(1.0),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_optimizers(name):
  tx = TRANSFORMS[name]
  params = {
    "kernel": np.zeros((256, 256), np.float32),
    "bias": np.zeros(3, np.float32),
  }
  check(tx.update, params, tx.init(params), params)


def test_mixup():
  fn = lambda key, *batch: mixup.mixup(key, *batch, p=0.5)
  check(fn, jax.random.PRNGKey(0), IMAGES, np.zeros((2, 5), np.float32))


def test_rules_of_the_table_exist():
  rules = {
    r.flops for r in primitives.KNOWN.values() if isinstance(r.flops, str)
  }
  assert rules == set(flops.RULES)


def test_names_are_there_once():
  listed = [n for names, _ in primitives._TABLE for n in names.split()]
  assert len(listed) == len(set(listed)) == len(primitives.KNOWN)


@pytest.fixture
def unknown(monkeypatch):
  """The planner as if some operations were new in JAX."""
  return lambda *names: [
    monkeypatch.delitem(primitives.KNOWN, name) for name in names
  ]


def test_unknown_elementwise_operations_are_assumed_to_be_so(unknown):
  unknown("sin", "sub")
  g = trace(lambda x, y: jnp.sin(jnp.sin(x)) - 2 * y, (3,), (3,))
  assert primitives.assumed(g) == {"sin": 2, "sub": 1}
  assert flops.count(g)[0] == 4 * 3


def test_they_are_found_in_loops(unknown):
  unknown("sin")
  g = trace(
    lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, length=3)[0], (3,)
  )
  assert primitives.assumed(g) == {"sin": 1}


@pytest.mark.parametrize(
  "name, fn",
  [
    (
      "sort",
      lambda x: jnp.sort(x)[:1],
    ),  # One of its results is of another shape.
    ("dot_general", lambda x: x @ x),
    ("reduce_max", lambda x: x.max(0)),
    ("transpose", lambda x: x.T),
    ("iota", lambda x: x + jnp.arange(4.0)[:, None]),
  ],
)
def test_others_are_errors(unknown, name, fn):
  unknown(name)
  g = trace(fn, (4, 3) if name != "dot_general" else (4, 4))
  if name in ("dot_general", "sort"):  # Its shapes are those of a sum.
    assert primitives.assumed(g) == {name: 1}
    return
  for use in (primitives.assumed, flops.count):
    with pytest.raises(ValueError, match=f"'{name}' of JAX from .* to "):
      use(g)


def test_plans_name_what_they_assume(unknown):
  config = make_config(8, dict(depth=1))
  run = lambda: report.plan(
    train.build, config, {"data": 1}, (64, 64), ["h100"]
  )
  known, figures = run()
  assert figures["assumed_elementwise"] == {}
  assert "does not know" not in report.show(figures)
  unknown("tanh")
  again, figures = run()
  assert set(figures["assumed_elementwise"]) == {"tanh"}
  assert "does not know these operations" in report.show(figures)
  assert "tanh (" in report.show(figures)
  # It is named, and not far off.
  for kind in ("TPU", "GPU"):
    assert again.bytes(kind) == pytest.approx(known.bytes(kind), rel=0.15)
  unknown("reduce_sum")
  with pytest.raises(ValueError, match="does not know .* 'reduce_sum'"):
    costs.estimate(train.build, config, {"data": 1}, (64, 64))
