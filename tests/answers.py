"""Examples in memory, with what a model is to say about each of them.

`run(module, examples)` runs an evaluator of `proj/paligemma/transfers`.
Examples have numbers, texts and arrays of them, and `said`, the answer.
"""

import functools

import jax
import numpy as np

from big_vision.datasets import source
from big_vision.pp import tokenizer
from big_vision.tf import tf

TOKENIZER = "byte(tokensets=('loc', 'seg'))"
LENGTH = 96
SETS = {}


class DataSource(source.IndexedDataSource):
  """Opens `SETS[key]` as "bv:answers"; `split` only names it."""

  def __init__(self, key, split="", by_index=True):
    del split
    self._examples = [_arrays(x) for x in SETS[key]]
    self.random_access = by_index

  @property
  def total_examples(self):
    return len(self._examples)

  def read(self, index):
    first, names = self._examples[0], sorted(self._examples[0])
    types = [
      tf.string if first[k].dtype == object else first[k].dtype for k in names
    ]
    get = lambda i: [self._examples[int(i)][k] for k in names]
    values = tf.numpy_function(get, [index], types)
    for name, value in zip(names, values, strict=True):
      shapes = {x[name].shape for x in self._examples}
      sizes = map(set, zip(*shapes, strict=True))
      value.set_shape([n.pop() if len(n) == 1 else None for n in sizes])
    return dict(zip(names, values, strict=True))


def _arrays(example):
  """Texts become bytes, and what is said tokens."""
  example = dict(example)
  tok = tokenizer.get_tokenizer(TOKENIZER)
  if "said" in example:
    tokens = tok.to_int(example.pop("said"), eos=True)
    example["tokens"] = tokens + [0] * (LENGTH - len(tokens))
  arrays = {k: np.asarray(v) for k, v in example.items()}
  arrays["tokens"] = arrays["tokens"].astype(np.int32)
  for name, x in arrays.items():
    if x.dtype.kind == "U":
      texts = np.array([t.encode() for t in x.flat], object)
      arrays[name] = texts.reshape(x.shape)
  return arrays


@functools.partial(jax.jit, static_argnames="max_decode_len")
def _compiled(state, tokens, mask, max_decode_len):
  tokens = jax.numpy.where(mask[:, None], tokens + state["zero"], 5)
  return tokens[:, :max_decode_len]


def decode(state, batch, *, devices, eos_token, max_decode_len=LENGTH):
  """A predict function: says what the batch holds, and noise on padding."""
  assert len(devices) and eos_token == 1
  return _compiled(state, batch["tokens"], batch["_mask"], max_decode_len)


def state():
  """A replicated state."""
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("data",))
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  make = jax.jit(lambda: jax.numpy.int32(0), out_shardings=replicated)
  return {"zero": make()}


def make(module, examples, fn=decode, by_index=True, **kw):
  """An evaluator of these examples."""
  key = f"{module.__name__}_{len(SETS)}"
  SETS[key] = examples
  data = dict(name="bv:answers", key=key, split="val[:5%]", by_index=by_index)
  default = dict(
    tokenizer=TOKENIZER,
    data=data,
    pp_fn="",
    batch_size=8,
    devices=np.asarray(jax.devices()),
    workdir="",
  )
  return module.Evaluator(fn, **{**default, **kw})


def run(module, examples, fn=decode, **kw):
  """What an evaluator yields, as a dict."""
  evaluator = make(module, examples, fn, **kw)
  train_state = state()
  with jax.transfer_guard("disallow"):
    pairs = list(evaluator.run(train_state))
  assert len(dict(pairs)) == len(pairs)
  return dict(pairs)
