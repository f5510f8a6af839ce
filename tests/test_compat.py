"""What JAX moves between releases, on the release that is installed."""

import contextlib
import inspect
import pathlib
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax._src import compilation_cache, lru_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from big_vision import compat

ROOT = pathlib.Path(__file__).parent.parent


def equation(fn, *shapes, name=None):
  """The only equation of a function, or the only one of a name."""
  args = [jax.ShapeDtypeStruct(s, np.float32) for s in shapes]
  found = jax.make_jaxpr(fn)(*args).jaxpr.eqns
  (eqn,) = [e for e in found if name in (None, e.primitive.name)]
  return eqn


def primitives(jaxpr):
  return [e.primitive.name for e in jaxpr.eqns]


def test_primitive():
  mark = compat.Primitive("mark")
  mark.def_abstract_eval(lambda x, **_: x)
  eqn = equation(lambda x: mark.bind(x, a=3), (2,))
  assert eqn.primitive.name == "mark" and eqn.params == {"a": 3}


def test_abstract_mesh_keeps_constraints():
  mesh = compat.abstract_mesh({"data": 2, "model": 4})
  assert dict(mesh.shape) == {"data": 2, "model": 4}
  assert set(mesh.axis_types) == {AxisType.Auto}
  where = NamedSharding(mesh, PartitionSpec("data"))
  with jax.sharding.use_abstract_mesh(mesh):
    eqn = equation(lambda x: lax.with_sharding_constraint(x, where), (4,))
  assert eqn.primitive.name == "sharding_constraint"
  assert eqn.params["sharding"].spec == PartitionSpec("data")


@contextlib.contextmanager
def older(mesh):
  """`with mesh:`, which users of older code still write."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    mesh.__enter__()
  try:
    yield
  finally:
    mesh.__exit__(None, None, None)


@pytest.mark.multidevice
@pytest.mark.parametrize("context", [jax.set_mesh, older])
def test_active_mesh(context):
  mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))
  assert compat.active_mesh() is None
  inside = []

  def fn(x):
    inside.append(compat.active_mesh())
    return x

  with context(mesh):
    assert dict(compat.active_mesh().shape) == {"a": 2, "b": 2}
    jax.jit(fn)(jnp.ones(4))
    spec = PartitionSpec("a")
    jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec))(
      jnp.ones(4)
    )
  assert dict(inside[0].shape) == {"a": 2, "b": 2}
  assert inside[1] is None  # Arrays are those of one device there.
  assert compat.active_mesh() is None


def test_backends_are_initialized():
  code = """
from big_vision import compat
import jax
assert not compat.backends_are_initialized()
jax.devices()
assert compat.backends_are_initialized()
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_weights_that_change_in_place_are_seen():
  """XLA of jaxlib 0.8.0 and 0.8.1 multiplies with what was there before."""
  multiply = jax.jit(jnp.matmul)
  negate = jax.jit(jnp.negative, donate_argnums=0)
  x = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)
  weights = jnp.eye(1024)
  np.testing.assert_allclose(multiply(x, weights), x)
  where = weights.unsafe_buffer_pointer()
  weights = negate(weights)  # Takes its place, as training does.
  if jax.default_backend() == "cpu":
    assert weights.unsafe_buffer_pointer() == where
  np.testing.assert_allclose(multiply(x, weights), -x)


def test_jaxpr_of_drops_what_nobody_reads():
  def fn(x, y):
    jnp.cos(x)
    return lax.scan(lambda c, z: (c + z, jnp.tan(z)), 0.0, x)[0]

  args = [jax.ShapeDtypeStruct((3,), np.float32)] * 2
  jaxpr = compat.jaxpr_of(jax.make_jaxpr(fn)(*args))
  assert "cos" not in primitives(jaxpr) and "tan" not in str(jaxpr)
  assert len(jaxpr.invars) == 2  # Inputs stay, also what is not read.


def test_literals_are_told_from_variables():
  eqn = equation(lambda x: x * 2, (3,), name="mul")
  kinds = [compat.is_literal(v) for v in eqn.invars]
  assert sorted(kinds) == [False, True]
  (literal,) = [v for v in eqn.invars if compat.is_literal(v)]
  assert literal.val == 2


@jax.custom_vjp
def own_gradient(x):
  return jnp.sin(x)


own_gradient.defvjp(
  lambda x: (jnp.sin(x), None), lambda _, g: (g,)
)  # fmt: skip


@jax.custom_jvp
def own_derivative(x):
  return jnp.sin(x)


own_derivative.defjvp(lambda x, t: (jnp.sin(x[0]), t[0]))


@pytest.mark.parametrize(
  "fn, again",
  [
    (jax.jit(jnp.sin), False),
    (jax.jit(jnp.sin, inline=False), False),
    (own_gradient, False),
    (own_derivative, False),
    (jax.checkpoint(jnp.sin), True),
    (jax.checkpoint(jnp.sin, prevent_cse=False), False),
  ],
)
def test_called(fn, again):
  eqn = equation(fn, (3,))
  body = compat.called(eqn)
  assert primitives(body) == ["sin"] or "sin" in str(body)
  assert len(body.invars) == len(eqn.invars) == 1
  assert compat.computes_again(eqn) == again


@pytest.mark.parametrize(
  "fn",
  [
    lambda x: x + 1,
    lambda x: lax.scan(lambda c, z: (c + z, None), 0.0, x)[0],
    lambda x: lax.while_loop(lambda y: y[0] < 1, lambda y: y + 1, x),
    lambda x: lax.cond(True, jnp.sin, jnp.cos, x),
  ],
)
def test_others_call_nothing(fn):
  args = jax.ShapeDtypeStruct((3,), np.float32)
  for eqn in jax.make_jaxpr(fn)(args).jaxpr.eqns:
    assert compat.called(eqn) is None


def test_inner_jaxprs():
  plain = equation(lambda x: x + 1, (3,), name="add")
  assert compat.inner_jaxprs(plain) == []
  fn = lambda i, x: lax.switch(i.astype(int), [jnp.sin, jnp.cos, jnp.tan], x)
  branches = compat.inner_jaxprs(equation(fn, (), (3,), name="cond"))
  assert [primitives(b) for b in branches] == [["sin"], ["cos"], ["tan"]]
  fn = lambda x: lax.scan(lambda c, z: (jnp.sin(c), None), x[0], x)[0]
  (body,) = compat.inner_jaxprs(equation(fn, (3,), name="scan"))
  assert "sin" in primitives(body)
  mesh = compat.abstract_mesh({"data": 2})
  spec = PartitionSpec("data")
  fn = jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)
  with jax.sharding.use_abstract_mesh(mesh):
    (body,) = compat.inner_jaxprs(equation(fn, (4,)))
  assert primitives(body) == ["sin"] and body.invars[0].aval.shape == (2,)


@pytest.mark.parametrize(
  "num_consts, num_carry, num_xs",
  [(0, 1, 0), (2, 1, 1), (1, 3, 2), (0, 0, 1), (3, 2, 0)],
)
def test_scan_layout(num_consts, num_carry, num_xs):
  def fn(consts, carry, xs):
    def step(carry, xs):
      return tuple(c * 2 + sum(consts) for c in carry), sum(xs, *consts[:1])

    return lax.scan(step, carry, xs, length=5)

  f32 = lambda n, *shape: (jax.ShapeDtypeStruct(shape, np.float32),) * n
  args = f32(num_consts), f32(num_carry), f32(num_xs, 5)
  # Only literals may be constants of their own beside these.
  (eqn,) = [
    e
    for e in jax.make_jaxpr(fn)(*args).jaxpr.eqns
    if e.primitive.name == "scan"
  ]
  got = compat.scan_layout(eqn)
  assert (got.num_consts, got.num_carry, got.length) == (
    num_consts, num_carry, 5,
  )  # fmt: skip
  assert len(eqn.invars) == num_consts + num_carry + num_xs


def test_while_body():
  fn = lambda k, x: lax.while_loop(
    lambda y: jnp.tan(y) < 9, lambda y: y * k, x
  )  # fmt: skip
  eqn = equation(fn, (), (), name="while")
  body = compat.while_body(eqn)
  assert primitives(body) == ["mul"]
  # Its inputs are the last operands: its constants, then what it changes.
  assert len(body.invars) == 2 and len(eqn.invars) >= 2


MOVING = re.compile(
  r"jax\._src|jax\.interpreters|jax\.extend|import jaxlib"
  r"|thread_resources|jax_no_internal"
  r"|[\"'](num_consts|num_carry|ft_in|ft_out|body_jaxpr|cond_jaxpr"
  r"|body_nconsts|cond_nconsts|prevent_cse|call_jaxpr|fun_jaxpr)[\"']"
)


def test_nothing_else_reaches_into_jax():
  files = [
    path
    for folder in ("big_vision", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
  ]
  assert len(files) > 300
  found = [
    f"{path.relative_to(ROOT)}: {match.group()}"
    for path in files
    if path.name not in ("compat.py", "test_compat.py")
    and "bv_venv" not in path.parts
    for match in MOVING.finditer(path.read_text(encoding="utf-8"))
  ]
  assert found == []


def test_meshes_are_set_not_entered():
  """`with mesh:` is deprecated in favor of `jax.set_mesh`."""
  pattern = re.compile(r"^\s*with (\w+\.)*mesh\b\s*[:,]", re.M)
  assert pattern.search("  with setup.mesh:\n")
  for folder in ("big_vision", "tests"):
    for path in (ROOT / folder).rglob("*.py"):
      # Forks are written as for the reference.
      if not {"bv_venv", "forks"} & {*path.parts}:
        assert not pattern.search(path.read_text(encoding="utf-8")), path


@pytest.fixture
def cache(tmp_path):
  """A compilation cache of this test alone."""
  settings = {
    "jax_compilation_cache_dir": str(tmp_path),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  old = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  compat.use_compilation_cache("unused")
  yield tmp_path
  for name, value in old.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.mark.parametrize("given, expected", [(None, 0.1), ("7", 5.0)])
def test_short_compilations_are_kept(cache, monkeypatch, given, expected):
  """Unless the user has told JAX what to keep, before it was imported."""
  name = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
  monkeypatch.delenv(name, raising=False)
  if given:
    monkeypatch.setenv(name, given)
  jax.config.update("jax_compilation_cache_dir", None)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 5.0)
  compat.use_compilation_cache(str(cache))
  assert jax.config.jax_persistent_cache_min_compile_time_secs == expected


def test_damaged_entries_of_the_compilation_cache_are_replaced(cache):
  def compute():  # As a process that has just started.
    jax.clear_caches()
    compilation_cache.reset_cache()
    with warnings.catch_warnings(record=True) as said:
      warnings.simplefilter("always")
      result = jax.jit(lambda x: x * 3 + 1)(np.float32(2))
    assert float(result) == 7
    return [str(w.message) for w in said if "cache entry" in str(w.message)]

  assert compute() == []
  (entry,) = cache.glob("jit__lambda*-cache")
  good = entry.read_bytes()
  flipped = bytearray(good)
  flipped[len(good) // 2] ^= 4
  for damaged in (b"", good[:-1], good[: len(good) // 2], bytes(flipped)):
    entry.write_bytes(damaged)
    (said,) = compute()
    assert "Error reading" in said
    assert compute() == []  # It was written anew.
    assert len(entry.read_bytes()) > len(good) // 2
  assert not list(cache.glob("*.new"))


def test_compression_with_a_checksum(monkeypatch):
  asked = []

  class Zstandard:
    def ZstdCompressor(self, **kw):  # noqa: N802
      asked.append(kw)
      return self

    def compress(self, executable):
      return b"small " + executable

  monkeypatch.setattr(compilation_cache, "zstandard", Zstandard())
  old = compilation_cache.compress_executable
  monkeypatch.setattr(compilation_cache, "compress_executable", old)
  monkeypatch.setattr(lru_cache.LRUCache, "put", lambda *_: None)
  compat.mend_compilation_cache()
  assert compilation_cache.compress_executable(b"x") == b"small x"
  assert asked == [{"write_checksum": True}]


def test_coordination_client():
  """Of several processes it is tested by `training/test_agreement.py`."""
  assert compat.coordination_client() is None


def test_hosts_are_joined_by_way_of_another_address(monkeypatch):
  """What `jax.distributed.initialize` finds out reaches its client changed."""
  made, library = [], compat.distributed._jax
  make = lambda *args, **kw: made.append((args, kw))
  monkeypatch.setattr(library, "get_distributed_runtime_client", make)

  def initialize(**kw):
    library.get_distributed_runtime_client("far:1", 3, init_timeout=kw["time"])

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  compat.join_hosts(lambda address, index: f"near {address} {index}", time=5)
  assert made == [(("near far:1 3", 3), {"init_timeout": 5})]
  assert library.get_distributed_runtime_client is make


def test_what_initialize_takes_and_the_client_offers():
  """By the names that `training/peers.py` and `watchdog.py` use."""
  taken = inspect.signature(jax.distributed.initialize).parameters
  assert {
    "num_processes", "process_id", "initialization_timeout",
    "heartbeat_timeout_seconds", "shutdown_timeout_seconds",
  } <= set(taken)  # fmt: skip
  client = compat.distributed._jax.DistributedRuntimeClient
  for name in ("key_value_set", "key_value_dir_get", "wait_at_barrier"):
    assert callable(getattr(client, name))


def test_cuda_versions(monkeypatch):
  """With the functions of JAX's plugins, which a CPU build does not have."""
  monkeypatch.setattr(compat.jax_lib, "cuda_versions", None)
  assert compat.cuda_versions() == {}

  class Library:
    cuda_runtime_get_version = staticmethod(lambda: 12080)
    cudnn_get_version = staticmethod(lambda: 91002)

  monkeypatch.setattr(compat.jax_lib, "cuda_versions", Library)
  assert compat.cuda_versions() == {"cuda": "12.8", "cudnn": "9.10.2"}
  del Library.cudnn_get_version
  assert compat.cuda_versions() == {"cuda": "12.8"}
