"""The Inception-v3 of FID, layer by layer against convolutions in NumPy."""

import jax
import numpy as np
import pytest

from big_vision import lookup
from big_vision.models import inception

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def tensors():
  """A random state dict, as of PyTorch, with activations of about 1."""
  rng = np.random.RandomState(0)
  out = {}
  for name, (_, _, shape) in inception._layout().items():
    if len(shape) == 4:
      std = np.sqrt(2 / np.prod(shape[1:]))
      x = rng.standard_normal(shape).astype(np.float32) * std
    elif name.endswith(("running_var", "bn.weight")):
      x = rng.uniform(0.7, 1.4, shape)
    else:
      x = rng.uniform(-0.3, 0.3, shape)
    out[name] = x.astype(np.float32)
  out["fc.weight"] = np.zeros((1008, 2048), np.float32)
  out["Mixed_5b.branch1x1.bn.num_batches_tracked"] = np.int64(3)
  return out


@pytest.fixture(scope="module")
def weights(tensors, tmp_path_factory):
  path = str(tmp_path_factory.mktemp("fid") / "inception.npz")
  np.savez(path, **tensors)
  return path


@pytest.fixture(scope="module")
def variables(weights):
  return inception.load(weights)


def pad(x, height, width, value=0.0):
  sides = ((0, 0), (height, height), (width, width), (0, 0))
  return np.pad(x, sides, constant_values=value)


def windows(x, height, width, stride=1):
  """[B, h, w, C, height, width]."""
  view = np.lib.stride_tricks.sliding_window_view(x, (height, width), (1, 2))
  return view[:, ::stride, ::stride]


def max_pool(x, stride, margin):
  return windows(pad(x, margin, margin, -np.inf), 3, 3, stride).max((-2, -1))


def mean_pool(x):
  """Averages of 3x3 pixels, of which those outside do not count."""
  total = windows(pad(x, 1, 1), 3, 3).sum((-2, -1))
  return total / windows(pad(np.ones_like(x), 1, 1), 3, 3).sum((-2, -1))


class Reference:
  """The network in float64, from the names of the state dict."""

  def __init__(self, tensors):
    self.tensors = tensors

  def conv(self, name, x, stride=1, margin=(0, 0)):
    get = lambda key: self.tensors[f"{name}.{key}"].astype(np.float64)
    kernel = get("conv.weight")
    x = windows(pad(x, *margin), *kernel.shape[2:], stride)
    y = np.tensordot(x, kernel, ([3, 4, 5], [1, 2, 3]))
    y = (y - get("bn.running_mean")) / np.sqrt(get("bn.running_var") + 1e-3)
    return np.maximum(y * get("bn.weight") + get("bn.bias"), 0)

  def chain(self, block, x, *convs, stride=1):
    """Convolutions that keep the size; the last may have a stride."""
    for i, conv in enumerate(convs):
      name = f"{block}.{conv}"
      sides = self.tensors[f"{name}.conv.weight"].shape[2:]
      if stride > 1 and i == len(convs) - 1:
        x = self.conv(name, x, stride)
      else:
        x = self.conv(name, x, margin=[(side - 1) // 2 for side in sides])
    return x

  def block(self, name, x):
    chain = lambda *convs, **kw: self.chain(name, x, *convs, **kw)
    numbered = lambda stem, n: [f"{stem}_{i + 1}" for i in range(n)]
    pooled = lambda y: self.chain(name, y, "branch_pool")
    if name.startswith("Mixed_5"):
      parts = [
        chain("branch1x1"),
        chain(*numbered("branch5x5", 2)),
        chain(*numbered("branch3x3dbl", 3)),
        pooled(mean_pool(x)),
      ]
    elif name == "Mixed_6a":
      parts = [
        chain("branch3x3", stride=2),
        chain(*numbered("branch3x3dbl", 3), stride=2),
        max_pool(x, 2, 0),
      ]
    elif name.startswith("Mixed_6"):
      parts = [
        chain("branch1x1"),
        chain(*numbered("branch7x7", 3)),
        chain(*numbered("branch7x7dbl", 5)),
        pooled(mean_pool(x)),
      ]
    elif name == "Mixed_7a":
      parts = [
        chain(*numbered("branch3x3", 2), stride=2),
        chain(*numbered("branch7x7x3", 4), stride=2),
        max_pool(x, 2, 0),
      ]
    else:
      first = chain("branch3x3_1")
      second = chain("branch3x3dbl_1", "branch3x3dbl_2")
      parts = [
        chain("branch1x1"),
        self.chain(name, first, "branch3x3_2a"),
        self.chain(name, first, "branch3x3_2b"),
        self.chain(name, second, "branch3x3dbl_3a"),
        self.chain(name, second, "branch3x3dbl_3b"),
        pooled(mean_pool(x) if name == "Mixed_7b" else max_pool(x, 1, 1)),
      ]
    return np.concatenate(parts, axis=-1)

  def layers(self, x):
    """Yields the name and the result of each layer."""
    for name, stride, margin in (
      ("Conv2d_1a_3x3", 2, 0),
      ("Conv2d_2a_3x3", 1, 0),
      ("Conv2d_2b_3x3", 1, 1),
      ("Conv2d_3b_1x1", 1, 0),
      ("Conv2d_4a_3x3", 1, 0),
    ):
      if name == "Conv2d_3b_1x1":
        x = max_pool(x, 2, 0)
      x = self.conv(name, x, stride, (margin, margin))
      yield name, x
    x = max_pool(x, 2, 0)
    for name in (
      "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c",
      "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
    ):  # fmt: skip
      x = self.block(name, x)
      yield name, x
    yield "pre_logits", x.mean(axis=(1, 2))


def bilinear(x, size):
  """[B, size, size, C] by interpolating between centers of pixels."""
  for axis in (1, 2):
    old = x.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    share = np.expand_dims(at - low, [0, 2, 3] if axis == 1 else [0, 1, 3])
    high = np.minimum(low + 1, old - 1)
    x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
  return x


def test_each_layer(tensors, variables):
  """The smallest picture whose last block has more than one pixel."""
  x = np.random.RandomState(1).uniform(-1, 1, (1, 107, 107, 3))
  apply = jax.jit(inception.InceptionV3(num_classes=0).apply)
  out = apply(variables, x.astype(np.float32))[1]
  layers = list(Reference(tensors).layers(x))
  assert [name for name, _ in layers] == list(out)
  for name, expected in layers:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      out[name], expected, atol=2e-5 * scale, rtol=1e-4, err_msg=name
    )
  assert out["Mixed_7c"].shape == (1, 2, 2, 2048)


@pytest.mark.parametrize("shape", [(60, 90), (150, 120)])
def test_resizing(tensors, variables, monkeypatch, shape):
  """Enlarged and, without smoothing, made smaller."""
  monkeypatch.setattr(inception, "SIZE", 107)
  seen = []
  monkeypatch.setattr(
    inception.InceptionV3, "apply", lambda self, v, x: [seen.append(x) or x]
  )
  x = np.random.RandomState(2).uniform(-1, 1, (2, *shape, 3))
  inception.features(variables, x.astype(np.float32))
  np.testing.assert_allclose(seen[0], bilinear(x, 107), atol=5e-5)


def test_logits():
  shapes = jax.eval_shape(
    lambda x: inception.InceptionV3().init_with_output(jax.random.key(0), x),
    jax.ShapeDtypeStruct((2, 75, 75, 3), np.float32),
  )
  (logits, out), variables = shapes
  assert logits.shape == (2, 1008) and out["pre_logits"].shape == (2, 2048)
  assert variables["params"]["fc"]["kernel"].shape == (2048, 1008)
  num = sum(x.size for x in jax.tree.leaves(variables["params"]))
  # torchvision states 23,834,568 for its network of 1000 classes.
  assert num == 23_834_568 + 8 * (2048 + 1)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"Mixed_6c.branch1x1.bn.bias": None}, "lacks the tensor 'Mixed_6c"),
    ({"fc.weight": np.zeros((1000, 2048))}, "has 1000 classes, as torchvision"),
    ({"Mixed_8a.x": np.zeros(3)}, "has a tensor 'Mixed_8a.x'"),
    (
      {"Conv2d_1a_3x3.bn.bias": np.zeros(3)},
      r"'Conv2d_1a_3x3.bn.bias' has the shape \(3,\), not \(32,\)",
    ),
  ],
)
def test_other_files(tensors, tmp_path, change, message):
  path = str(tmp_path / "x.npz")
  kept = {**{k: np.zeros(v.shape) for k, v in tensors.items()}, **change}
  np.savez(path, **{k: v for k, v in kept.items() if v is not None})
  with pytest.raises(lookup.ConfigError, match=message) as e:
    inception.fetch(path)
  assert inception.WEIGHTS in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("weights", ["no/such.pth", None, 3])
def test_no_file(weights):
  with pytest.raises(lookup.ConfigError, match="or a copy of it"):
    inception.fetch(weights)
