"""Public functions where implicit transfers to devices are disallowed.

Forks disallow them for the whole process; `tests/forks` runs such a one.
"""

import inspect

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import big_vision.optax as bv_optax
import big_vision.utils as u
from big_vision import checkpoints, guards, sharding
from big_vision.models import vit
from big_vision.models.proj.flexi import vit as flexi_vit

pytestmark = pytest.mark.multidevice

HOST = np.arange(32, dtype=np.float32).reshape(8, 4)
PARAMS = {"a": {"kernel": HOST, "bias": np.zeros(4, np.float32)}}
CONFIG = mlc.ConfigDict(
  dict(
    optax_name="scale_by_adam",
    lr=0.1,
    wd=0.01,
    grad_clip_norm=1.0,
    schedule=[("a/bias", None), (".*", dict(decay_type="cosine"))],
  )
)
SIZES = dict(total_steps=10, batch_size=8, data_size=100)
DECAYS = {
  "linear": {},
  "polynomial": {},
  "cosine": dict(warmup_steps=2, cooldown_steps=2),
  "rsqrt": dict(timescale=3),
  "stair": dict(steps=[3], mults=[0.1]),
}


@pytest.fixture
def on_devices():
  mesh = u.create_device_mesh([("data", -1)])
  return {
    "mesh": mesh,
    "replicated": NamedSharding(mesh, PartitionSpec()),
    "x": jnp.asarray(HOST),
    "key": jax.random.PRNGKey(0),
    "labels": jnp.zeros(8, int),
    "one": jnp.ones(()),
    "params": jax.tree.map(jnp.asarray, PARAMS),
  }


def schedules(d, tmp_path):
  for decay, kw in DECAYS.items():
    fn = u.create_learning_rate_schedule(**SIZES, decay_type=decay, **kw)
    step = u.put_cpu(np.asarray(4))
    values = [fn(4), u.jit_cpu()(fn)(step), jax.jit(fn)(step)]
    assert np.ptp(jax.device_get(values)) < 1e-6


def resharding(d, tmp_path):
  split = NamedSharding(d["mesh"], PartitionSpec("data"))
  for x in (HOST, u.put_cpu(HOST), d["x"]):
    for where in (split, d["replicated"]):
      out = u.reshard({"a": x}, where)["a"]
      assert out.sharding.is_equivalent_to(where, 2)
      np.testing.assert_array_equal(jax.device_get(out), HOST)
  u.reshard(d["key"], d["replicated"])


def losses(d, tmp_path):
  x = d["x"]
  for fn in (u.sigmoid_xent, u.softmax_xent):
    fn(logits=x, labels=x)
    jax.jit(lambda x, fn=fn: fn(logits=x, labels=x, reduction=False))(x)
  u.onehot(d["labels"], 4)
  u.bidirectional_contrastive_loss(x, x, d["one"])
  u.weighted_softmax_xent(
    logits=u.reshard(HOST[None], d["replicated"]),
    labels=u.reshard(np.zeros([1, 8], np.int32), d["replicated"]),
  )


def mixing(d, tmp_path):
  u.mixup(d["key"], d["x"], p=0.2)
  u.get_mixup(d["key"], 0.2)(d["x"])
  jax.jit(lambda k, x: u.mixup(k, x, p=0.2, n=3))(d["key"], d["x"])


def accumulating(d, tmp_path):
  fn = jax.value_and_grad(
    lambda p, a, b: jnp.mean(p["a"]["kernel"][:1] * a * b)
  )
  u.accumulate_gradient(jax.jit(fn), d["params"], d["x"], d["x"], 2)


def optimizers(d, tmp_path):
  tx, fns = bv_optax.make(CONFIG, PARAMS, sched_kw=SIZES)
  shapes = jax.eval_shape(tx.init, PARAMS)
  strategy = [(".*", 'fsdp(axis="data", min_size_to_shard_mb=0)')]
  where = sharding.infer_sharding(shapes, strategy=strategy, mesh=d["mesh"])
  params = u.reshard(d["params"], d["replicated"])
  opt = jax.jit(tx.init, out_shardings=where)(params)
  assert int(jax.device_get(bv_optax.get_count(opt))) == 0
  jax.jit(tx.update)(params, opt, params)
  bv_optax.replace_frozen(CONFIG.schedule, params, 0.0)
  assert len(fns) == 1


def batches(d, tmp_path):
  devices = d["mesh"].devices.flatten()
  x = u.make_fsarray_from_local_slice(HOST, devices)
  np.testing.assert_array_equal(u.get_local_slice_from_fsarray(x), HOST)
  u.assert_local_slices_same(x, x)
  list(u.prefetch_scalar([1.0, 2.0]))
  u.pad_shard_unpad(lambda x: x, static_argnums=())(HOST)
  u.sync()


def files(d, tmp_path):
  path = str(tmp_path / "a.npz")
  u.save_checkpoint({"params": d["params"]}, path)
  u.load_checkpoint({"params": PARAMS}, path)
  u.load_params(path), u.npload(path)
  manager = checkpoints.CheckpointManager()
  prefix = str(tmp_path / "checkpoint.bv")
  u.save_checkpoint_ts(manager, {"params": d["params"]}, prefix, 3, True)
  manager.wait_until_finished()
  for where in (None, d["replicated"]):
    tree = {"params": PARAMS}
    loaded = u.load_checkpoint_ts(prefix, tree=tree, shardings=where)
    kernel = jax.device_get(loaded["params"]["a"]["kernel"])
    np.testing.assert_array_equal(kernel, HOST)
  u.load_params(prefix)


def trees(d, tmp_path):
  u.tree_map_with_names(lambda name, x: x, d["params"])
  u.tree_map_with_regex(lambda x, v: x, d["params"], [("a/.*", 1)])
  u.make_mask_trees(d["params"], ["a/.*"])
  u.tree_broadcast(1, d["params"])
  u.tree_compare(d["params"], d["params"])
  u.tree_replace(d["params"], {"a": "b"})
  u.tree_filter(d["params"], {"a": {"kernel": True, "bias": False}})
  u.tree_get(d["params"], "a/bias"), u.recover_dtype(HOST)
  pairs = u.tree_flatten_with_names(d["params"])[0]
  u.tree_unflatten(pairs), u.recover_tree(*zip(*pairs, strict=True))


def measuring(d, tmp_path):
  writer = u.BigVisionMetricWriter(workdir=str(tmp_path), config=CONFIG)
  writer.step_start(1)
  writer.measure("one", d["one"])
  u.log_memory(writer.measure)
  writer.step_end()
  writer.close()
  clock = u.Chrono()
  clock.inform(first_step=0, total_steps=9, global_bs=8, steps_per_epoch=3)
  clock.inform(measure=lambda *_: None, write_note=lambda _: None)
  for step in (1, 2):
    clock.tick(step)
    clock.pause(wait_for=d["x"])
    clock.resume()
  clock.load(clock.save())
  u.startstop_prof(None, 1, 0, 50)


def models(d, tmp_path):
  cfg = dict(width=8, depth=2, mlp_dim=8, num_heads=2, patch_size=(4, 4))
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  source = vit.Model(3, **cfg)
  shapes = jax.eval_shape(source.init, d["key"], image)["params"]
  path = str(tmp_path / "vit.npz")
  u.save_checkpoint(jax.tree.map(lambda s: np.zeros(s.shape), shapes), path)
  larger = jax.ShapeDtypeStruct((1, 12, 20, 3), jnp.float32)
  target = vit.Model(3, scan=True, **cfg)
  shapes = jax.eval_shape(target.init, d["key"], larger)["params"]
  vit.load(shapes, path, dict(cfg, scan=True), grid=(3, 5))
  cfg |= dict(patch_size=(6, 6), posemb_size=(3, 3))
  flexi = flexi_vit.Model(3, **cfg)
  shapes = jax.eval_shape(flexi.init, d["key"], larger)["params"]
  flexi_vit.load(shapes, path, cfg)


CASES = [
  schedules, resharding, losses, mixing, accumulating, optimizers, batches,
  files, trees, measuring, models,
]  # fmt: skip
# Without arrays.
OTHERS = """Registry check_and_compile_patterns checkpointing_timeout chrono
create_device_mesh hms itstime maybe_cleanup_workdir profile
startstop_prof_at_steps steps sync_all_hosts load_checkpoint_np tsload tssave
_traverse_with_names""".split()


@pytest.mark.parametrize("case", CASES)
def test_works_with_a_transfer_guard(case, on_devices, tmp_path):
  with jax.transfer_guard("disallow"):
    case(on_devices, tmp_path)


def test_all_public_functions_are_called():
  source = "\n".join(map(inspect.getsource, CASES))
  names = [n for n in vars(u) if callable(getattr(u, n)) or n == "chrono"]
  assert len(names) > 40
  assert [n for n in names if f"u.{n}" not in source and n not in OTHERS] == []


def test_transfers_keeps_what_a_function_is():
  def fn(x: int, *, y=2):
    """Adds."""
    return jnp.ones(()) * x + y

  wrapped = guards.transfers(fn)
  assert wrapped.__doc__ == "Adds."
  assert inspect.signature(wrapped) == inspect.signature(fn)
  with jax.transfer_guard("disallow"):
    assert jax.device_get(wrapped(3)) == 5
    assert jax.device_get(jax.jit(wrapped)(u.put_cpu(HOST[0, 1]))) == 3
