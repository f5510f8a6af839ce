"""Functions of JAX compute the same in onnxruntime, in batches of any size.

All of them are in one file, since it is the number of files that takes time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import lookup
from big_vision.export import forward, onnx_file
from big_vision.export.onnx_graph import Graph

pytestmark = pytest.mark.usefixtures("quick_compilation")
runtime = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(0)
lax = jax.lax
conv = lambda x, k, strides=(1, 1), padding="SAME", **kw: (
  lax.conv_general_dilated(
    x, k, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **kw
  )
)
pool = lambda x, init, op, window, **kw: lax.reduce_window(
  x, init, op, (1, *window, 1), (1, 2, 2, 1), **kw
)

# Of x: [B, 6, 8] in (-3, 3), pictures: [B, 9, 7, 4], i: int32 [B, 6] in [0, 8).
CASES = {
  "arithmetic": lambda x, p, i: (x + 1) * x - x / 3 + x**2 + x**3 + x**-2,
  "powers": lambda x, p, i: jnp.abs(x) ** 1.5 + jnp.square(x) + jnp.exp2(x),
  "roots": lambda x, p, i: jnp.sqrt(jnp.abs(x)) + lax.rsqrt(x * x + 1),
  "gelu": lambda x, p, i: jax.nn.gelu(x),
  "erf gelu": lambda x, p, i: jax.nn.gelu(x, approximate=False),
  "activations": lambda x, p, i: jax.nn.silu(x) + jnp.tanh(x) + jax.nn.relu(x),
  "softplus": lambda x, p, i: jax.nn.softplus(x) + jnp.expm1(x),
  "softmax": lambda x, p, i: jax.nn.log_softmax(x) + jax.nn.softmax(x, axis=1),
  "angles": lambda x, p, i: jnp.sin(x) + jnp.cos(x) - jnp.arctan(x),
  "rounding": lambda x, p, i: jnp.floor(x) + jnp.ceil(x) * jnp.round(x),
  "signs": lambda x, p, i: jnp.sign(x) * jnp.maximum(x, 1) + jnp.minimum(x, -x),
  "clip": lambda x, p, i: jnp.clip(x, -0.5, 0.7) + lax.clamp(0.0, x, 1.0),
  "comparisons": lambda x, p, i: (
    jnp.where((x > 0) & (x <= 1) | (x < -1) & (x != 2) ^ (x >= 2), x, 7.0)
  ),
  "not": lambda x, p, i: jnp.where(~(x == x.T.T) | jnp.isnan(x), 1.0, x),
  "integers": lambda x, p, i: (i // 3 * 5 + i % 3).astype(jnp.float32),
  "sums": lambda x, p, i: x.sum(1) + x.mean(1) * x.max(1) - x.min(1) + x.var(1),
  "products": lambda x, p, i: x.prod(axis=-1)[:, :, None] + x.sum((1, 2))[:, None, None],
  "booleans": lambda x, p, i: (x > 0).any(-1) & ~(x > 1).all(-1),
  "argmax": lambda x, p, i: jnp.argmax(x, 1) + jnp.argmin(x, 1),
  "argmax of bools": lambda x, p, i: jnp.argmax(x > 0, 2),
  "cumsum": lambda x, p, i: jnp.cumsum(x, 1) + lax.cumsum(x, 2, reverse=True),
  "reshape": lambda x, p, i: x.reshape(x.shape[0], 3, 2, 8).swapaxes(1, 2),
  "flat batch": lambda x, p, i: (x.reshape(-1, 8) * 2).reshape(x.shape),
  "slices": lambda x, p, i: x[:, 1:4, ::2] + x[:, -1:, :4] + x[:, 0, None, 4:],
  "reverse": lambda x, p, i: x[:, ::-1] + jnp.flip(x, 2),
  "split": lambda x, p, i: jnp.split(x, 2, axis=2)[1] * jnp.split(x, [3], 1)[0].sum(1, keepdims=True)[..., :4],
  "join": lambda x, p, i: jnp.concatenate([x, 2 * x], 1) + jnp.stack([x, x], 1).reshape(-1, 12, 8),
  "class token": lambda x, p, i: jnp.concatenate([jnp.tile(WEIGHTS["row"], [x.shape[0], 1, 1]), x], 1),
  "tile": lambda x, p, i: jnp.tile(x, [1, 2, 1]) + jnp.repeat(x, 2, axis=1),
  "pad": lambda x, p, i: jnp.pad(x, [(0, 0), (1, 2), (0, 3)], constant_values=4),
  "count": lambda x, p, i: x + jnp.arange(x.shape[0], dtype=jnp.float32)[:, None, None],
  "size of the batch": lambda x, p, i: x * x.shape[0],
  "embed": lambda x, p, i: WEIGHTS["table"][i] + jnp.take(WEIGHTS["table"], i, axis=0),
  "out of range": lambda x, p, i: jnp.nan_to_num(jnp.take(WEIGHTS["table"], i + 5, axis=0), nan=-9),
  "pick by example": lambda x, p, i: jnp.take_along_axis(x, i[:, :1, None] % 6, axis=1),
  "pick by row": lambda x, p, i: x[jnp.arange(x.shape[0]), i[:, 0] % 6],
  "take in the middle": lambda x, p, i: jnp.take(x, jnp.array([4, 1]), axis=1),
  "dense": lambda x, p, i: x @ WEIGHTS["matrix"] + WEIGHTS["row"][..., :5],
  "dense of heads": lambda x, p, i: jnp.einsum("bld,dhk->blhk", x, WEIGHTS["heads"]),
  "heads together": lambda x, p, i: jnp.einsum("blhk,hkd->bld", x.reshape(-1, 6, 2, 4), WEIGHTS["out"]),
  "attention": lambda x, p, i: jnp.einsum("bqhd,bkhd->bhqk", *[x.reshape(-1, 6, 2, 4)] * 2),
  "across the batch": lambda x, p, i: x[:, 0] @ x[:, 1].T,
  "outer": lambda x, p, i: jnp.einsum("bi,j->bij", x[:, 0], WEIGHTS["row"][0, 0]),
  "inner": lambda x, p, i: jnp.einsum("bij,bij->b", x, x),
  "conv": lambda x, p, i: conv(p, WEIGHTS["kernel"], (2, 1)),
  "valid conv": lambda x, p, i: conv(p, WEIGHTS["kernel"], padding="VALID", rhs_dilation=(2, 1)),
  "groups": lambda x, p, i: conv(p, WEIGHTS["grouped"], feature_group_count=2),
  "max pool": lambda x, p, i: pool(p, -jnp.inf, lax.max, (3, 2), padding=[(0, 0), (1, 1), (0, 1), (0, 0)]),
  "sum pool": lambda x, p, i: pool(p, 0.0, lax.add, (2, 2), padding="VALID"),
  "scan": lambda x, p, i: lax.scan(lambda c, w: (jnp.tanh(c @ w), c.sum(1)), x, WEIGHTS["layers"]),
  "scan backwards": lambda x, p, i: lax.scan(lambda c, w: (c @ w, c[:, 0]), x, WEIGHTS["layers"], reverse=True),
  "scan over inputs": lambda x, p, i: lax.scan(lambda c, w: (c + w, None), x[:, 0], x.swapaxes(0, 1))[0],
  "checkpoint": lambda x, p, i: jax.checkpoint(lambda x: jnp.sin(x) * WEIGHTS["row"])(x),
  "known": lambda x, p, i: jnp.broadcast_to(jnp.cos(WEIGHTS["row"]), x.shape),
}  # fmt: skip
WEIGHTS = {}
SHAPES = dict(
  row=(1, 1, 8), table=(8, 3), matrix=(8, 5), heads=(8, 2, 3), out=(2, 4, 8),
  kernel=(3, 2, 4, 5), grouped=(3, 3, 2, 6), layers=(3, 8, 8),
)  # fmt: skip


def inputs(num):
  x = RNG.uniform(-3, 3, (num, 6, 8)).astype(np.float32)
  p = RNG.normal(size=(num, 9, 7, 4)).astype(np.float32)
  return x, p, RNG.integers(0, 8, (num, 6)).astype(np.int32)


@pytest.fixture(scope="module", autouse=True)
def promotion():
  """Cases are short: here shapes may be promoted."""
  with jax.numpy_rank_promotion("allow"):
    yield


def outputs(params, arrays):
  """Calls all cases; results are named by the case and a number."""
  WEIGHTS.update(params)
  x, p, i = (arrays[name] for name in "xpi")
  out = {}
  for name, fn in CASES.items():
    for j, y in enumerate(jax.tree.leaves(fn(x, p, i))):
      out[f"{name} {j}"] = y
  return out


@pytest.fixture(scope="module")
def session(tmp_path_factory):
  params = {
    k: RNG.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()
  }
  specs = tuple(
    forward.Input(name, ("batch", *x.shape[1:]), str(x.dtype))
    for name, x in zip("xpi", inputs(1), strict=True)
  )
  path = tmp_path_factory.mktemp("onnx")
  whole = forward.Forward(outputs, params, specs, {})
  info = onnx_file.write(whole, str(path))
  assert info == {"files": ["model.onnx"], "opset": 18}
  return params, runtime.InferenceSession(path / "model.onnx")


@pytest.fixture(scope="module", params=[1, 3])
def results(request, session):
  params, run = session
  arrays = dict(zip("xpi", inputs(request.param), strict=True))
  want = jax.jit(outputs)(params, arrays)
  names = [output.name for output in run.get_outputs()]
  assert sorted(names) == sorted(want)
  return want, dict(zip(names, run.run(names, arrays), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_case(case, results):
  want, got = results
  names = [name for name in want if name.rpartition(" ")[0] == case]
  assert names
  for name in names:
    x = np.asarray(want[name])
    assert got[name].dtype == x.dtype and got[name].shape == x.shape
    np.testing.assert_allclose(got[name], x, atol=1e-5, rtol=1e-5)


def test_constants_are_computed_once(session):
  """What follows from parameters is in the file; layers of a scan are, too."""
  _, run = session
  assert len(run.get_inputs()) == 3
  shapes = {i.name: i.shape for i in run.get_inputs()}
  assert shapes["x"] == ["batch", 6, 8]


def write(fn, tmp_path, shape=("batch", 4), **params):
  whole = forward.Forward(
    lambda p, arrays: {"y": fn(p, arrays["x"])},
    params,
    (forward.Input("x", shape, "float32"),),
    {},
  )
  return onnx_file.write(whole, str(tmp_path))


def test_half_precision_becomes_float32(tmp_path):
  half = lambda p, x: x.astype(jnp.bfloat16) * p["w"].astype(jnp.bfloat16)
  w = np.float32(1.2345678)
  write(lambda p, x: half(p, x).astype(jnp.float32), tmp_path, w=w[None])
  run = runtime.InferenceSession(tmp_path / "model.onnx")
  x = RNG.normal(size=(2, 4)).astype(np.float32)
  np.testing.assert_allclose(run.run(None, {"x": x})[0], x * w, rtol=1e-6)


def test_external_data(tmp_path, monkeypatch):
  w = RNG.normal(size=(4, 500)).astype(np.float32)
  monkeypatch.setattr(onnx_file, "_LARGEST", 1000)
  info = write(lambda p, x: x @ p["w"], tmp_path, w=w)
  assert info["files"] == ["model.onnx", "model.onnx.data"]
  assert (tmp_path / "model.onnx.data").stat().st_size >= w.nbytes
  assert (tmp_path / "model.onnx").stat().st_size < 1000
  run = runtime.InferenceSession(tmp_path / "model.onnx")
  x = RNG.normal(size=(2, 4)).astype(np.float32)
  np.testing.assert_allclose(run.run(None, {"x": x})[0], x @ w, atol=1e-5)


@pytest.mark.parametrize(
  "fn, message",
  [
    (lambda p, x: jnp.sort(x), "primitive 'sort' of JAX has no counterpart"),
    (lambda p, x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x),
     "primitive 'while'"),
    (lambda p, x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)]),
     "'pad' of JAX cannot be exported with padding between elements"),
    (lambda p, x: x if x.shape[0] > 2 else x + 1, "give a number"),
  ],
)  # fmt: skip
def test_mistakes(fn, message, tmp_path):
  with pytest.raises(lookup.ConfigError, match=message):
    write(fn, tmp_path)


def test_sizes():
  """Expressions of free sizes, as JAX writes them."""
  onnx = pytest.importorskip("onnx")
  graph = Graph()
  graph.define("a", "x", 0)
  a = jax.export.symbolic_shape("a")[0]
  sizes = [3 * a + 2, a * a - 1, a // 2, a % 3, 7]
  name = graph.shape(tuple(sizes))
  helper, number = onnx.helper, onnx.TensorProto.INT64
  model = helper.make_model(
    helper.make_graph(
      graph.nodes,
      "sizes",
      [helper.make_tensor_value_info("x", number, ["a"])],
      [helper.make_tensor_value_info(name, number, [5])],
      [onnx.numpy_helper.from_array(v, k) for k, v in graph.constants.items()],
    ),
    opset_imports=[helper.make_opsetid("", 18)],
    ir_version=8,
  )
  run = runtime.InferenceSession(model.SerializeToString())
  (got,) = run.run(None, {"x": np.zeros(5, np.int64)})
  assert got.tolist() == [17, 24, 2, 2, 7]
