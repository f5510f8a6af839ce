"""`config.precision` in all models."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision import compat, models, precision
from big_vision.training import config_changes, config_check

VIT = dict(width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=(4, 4))
TEXT = dict(width=16, depth=1, mlp_dim=32, num_heads=2, vocab_size=40)
IMAGE = np.zeros((2, 8, 8, 3), np.float32)
TEXTS = np.ones((2, 4), np.int32)
PATCHES = (
  np.zeros((2, 4, 48), np.float32),
  np.ones((2, 4), np.int32),
  np.zeros((2, 4), np.int32),
  np.zeros((2, 4), np.int32),
)
CODES = dict(
  input_size=(8, 8), patch_size=(4, 4), code_len=2, width=16, enc_depth=1,
  dec_depth=1, num_heads=2, dict_size=4, inputs={"a": (3,)}, outputs={"a": (3,)},
)  # fmt: skip
VTT = dict(
  patches={"size": (4, 4)}, input_size=(8, 8), num_heads=2, num_layers=1,
  mlp_dim=32, emb_dim=16, vocab_size=40, seq_len=4,
)  # fmt: skip
RESNET = dict(width=0.5, depth=(1,))
GEMMA = dict(
  variant="gemma_2b",
  width=16,
  depth=1,
  mlp_dim=32,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  vocab_size=40,
)
# Model -> (its arguments, inputs, products that stay in float32: heads).
FAMILIES = {
  "vit": (dict(VIT, num_classes=5), (IMAGE,), 2),
  "proj.flexi.vit": (
    dict(VIT, num_classes=5, posemb_size=(2, 2), seqhw=2), (IMAGE,), None),
  "proj.image_text.naflex_vit": (
    {k: v for k, v in VIT.items() if k != "patch_size"}
    | dict(nposemb=2, num_classes=5), (PATCHES,), None),
  "proj.givt.givt": (
    dict(num_heads=2, num_decoder_layers=1, mlp_dim=32, emb_dim=16,
         num_labels=3, seq_len=4, out_dim=4, num_mixtures=2),
    (np.zeros((2, 4, 4), np.float32), np.zeros(2, np.int32)), 1),
  "proj.givt.vit": (
    dict(input_size=(8, 8), patch_size=(4, 4), code_len=3, width=16,
         enc_depth=1, dec_depth=1, mlp_dim=32, num_heads=2, codeword_dim=4),
    (np.zeros((2, 8, 8, 3), np.float32),), 2),
  "proj.givt.cnn": (
    dict(codeword_dim=4, filters=32, num_res_blocks=1,
         channel_multipliers=(1, 2)), (IMAGE,), 2),
  "proj.givt.adaptor": (
    dict(num_blocks=2, num_channels=8), (np.zeros((2, 16, 8), np.float32),), 0),
  "proj.jet.jet": (
    dict(depth=2, emb_dim=16, num_heads=2, ps=4,
         kinds=("channels", "spatial")), (IMAGE,), None),
  "proj.jetformer.jetformer": (
    {k: v for k, v in GEMMA.items() if k != "variant"}
    | dict(bos_id=38, boi_id=39, out_dim=4, num_mixtures=2),
    (TEXTS, np.zeros((2, 3, 4), np.float32), np.ones(2, bool)), 3),
  "proj.mae.mae": (
    dict(VIT, decoder_width=16, decoder_depth=1, decoder_num_heads=2),
    (IMAGE,), 2),
  "mlp_mixer": (
    dict(num_classes=5, patch_size=(4, 4), hidden_dim=16, num_blocks=1,
         tokens_mlp_dim=8, channels_mlp_dim=32), (IMAGE,), 1),
  "bit": (dict(RESNET, num_classes=5), (IMAGE,), 2),
  "bit_paper": (dict(RESNET, num_classes=5), (IMAGE,), 2),
  "nfnet": (dict(variant="mu", num_classes=5), (IMAGE,), 2),
  "proj.image_text.text_transformer": (
    dict(TEXT, num_classes=5), (TEXTS,), 2),
  "proj.flaxformer.bert": (dict(config="tiny", num_classes=5), (TEXTS,), 1),
  "proj.image_text.two_towers": (
    dict(image=VIT, text=TEXT, out_dim=8), (IMAGE, TEXTS), 4),
  "proj.clippo.one_tower": (dict(image=VIT, out_dim=8), (IMAGE,), 2),
  "proj.uvim.vit": (CODES, ({"a": np.zeros((2, 4, 3), np.float32)},), None),
  "proj.uvim.vtt": (VTT, (IMAGE, TEXTS), 1),
  "proj.cappa.cappa": (
    dict(num_heads=2, num_layers=1, mlp_dim=32, emb_dim=16, vocab_size=40,
         seq_len=4, patches=(4, 4)), (IMAGE, TEXTS), 1),
  "ppp.gemma": (dict(GEMMA, norm_eps=1e-6), (TEXTS,), 0),
  "proj.paligemma.gemma_bv": (
    GEMMA, (np.zeros((2, 4, 16), np.float32),), 0),
  "proj.paligemma.paligemma": (
    dict(img=dict(VIT, pool_type="none"), llm=GEMMA), (IMAGE, TEXTS, TEXTS),
    2),
}  # fmt: skip


def build(name, **config):
  kw, inputs, _ = FAMILIES[name]
  model, _ = models.build({"model_name": name, "model": kw, **config})
  rngs = {k: jax.random.key(0) for k in ("params", "dropout", "state")}
  shapes = jax.eval_shape(model.init, rngs, *inputs)
  return model, shapes, inputs


def program(model, variables, inputs):
  apply = lambda v: model.apply(v, *inputs, rngs={"dropout": jax.random.key(1)})
  return jax.make_jaxpr(apply)(variables)


def products(jaxpr):
  """Dtypes of the operands of all products and convolutions, inside out."""
  for eqn in (
    compat.jaxpr_of(jaxpr).eqns if hasattr(jaxpr, "consts") else jaxpr.eqns
  ):
    if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
      yield tuple(v.aval.dtype.name for v in eqn.invars[:2])
    for inner in compat.inner_jaxprs(eqn):
      yield from products(inner)


def test_every_model_is_here():
  from big_vision import lookup

  known = set(lookup.known_modules("models", "Model"))
  # Not in `config.model_name`: the decoder of `captioning`, a base class, and what
  # has no parameters.
  others = {
    "proj.image_text.captioner",
    "proj.givt.vae",
    "proj.jetformer.patch_pca",
  }
  assert not {
    n for n in known - set(FAMILIES) - others if not n.startswith("xp.")
  }


@pytest.mark.parametrize("name", FAMILIES)
def test_computes_in_bfloat16_with_parameters_in_float32(name):
  half = {"precision": "bfloat16"}
  model, shapes, inputs = build(name, **half)
  shapes = {**shapes, "params": jax.eval_shape(
    lambda p: precision.parameters(p, half), shapes["params"])}  # fmt: skip
  assert {x.dtype.name for x in jax.tree.leaves(shapes["params"])} == {
    "float32"
  }
  found = list(products(program(model, shapes, inputs)))
  low = [pair for pair in found if pair == ("bfloat16", "bfloat16")]
  exact = [pair for pair in found if pair == ("float32", "float32")]
  assert len(low) + len(exact) == len(found)  # None has two dtypes.
  num = FAMILIES[name][2]
  assert len(exact) == num if num is not None else len(low) > len(exact)
  _, plain, _ = build(name)
  assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize("name", FAMILIES)
def test_absent_is_float32(name):
  """The same program, which has no bfloat16."""
  absent = build(name)
  text = str(program(*absent))
  assert "bf16" not in text
  assert str(program(*build(name, precision="float32"))) == text
  assert str(program(*build(name, precision="highest"))) == text


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["vit", "proj.image_text.two_towers"])
def test_learns(name):
  model, _, inputs = build(name, precision="bfloat16")
  r = np.random.default_rng(0)
  inputs = (r.normal(size=IMAGE.shape).astype(np.float32), *inputs[1:])
  inputs = [x if x.ndim == 4 else x * np.array([[1], [2]]) for x in inputs]
  params = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
  params = precision.parameters(params, {"precision": "bfloat16"})

  @jax.jit
  def step(params):
    def loss(params):
      x, y, *_ = model.apply({"params": params}, *inputs)
      logits = x if name == "vit" else x @ y.T
      assert logits.dtype == jnp.float32
      return -jax.nn.log_softmax(logits)[jnp.arange(2), jnp.arange(2)].mean()

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

  values = []
  for _ in range(5):
    params, value = step(params)
    values.append(float(value))
  assert values == sorted(values, reverse=True) and values[-1] < values[0]
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}


def test_a_dtype_of_its_own_wins():
  kw = dict(FAMILIES["vit"][0], dtype_mm="float32")
  config = dict(model_name="vit", model=kw, precision="bfloat16")
  assert models.build(config)[0].dtype_mm == "float32"
  config |= dict(model=dict(kw, dtype_mm=None))
  assert models.build(config)[0].dtype_mm == "bfloat16"
  config |= dict(model=dict(kw, dtype_mm="bfloat16"), precision="float32")
  assert models.build(config)[0].dtype_mm == "bfloat16"
  towers = dict(image=VIT, text=dict(TEXT, dtype_mm="float32"), out_dim=8)
  model, _ = models.build(
    dict(
      model_name="proj.image_text.two_towers",
      model=towers,
      precision="bfloat16",
    )
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE, TEXTS)
  found = jax.eval_shape(model.apply, shapes, IMAGE, TEXTS)[2]
  assert found["img/encoder"]["block00"]["sa"].dtype == jnp.bfloat16
  assert found["txt/block00"]["sa"].dtype == jnp.float32


class Model(nn.Module):
  """Of a user, without `dtype_mm`."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, x, *, train=False):
    return nn.Dense(self.num_classes)(x), {}


def test_a_model_without_dtype():
  config = {"model_name": __name__, "precision": "bfloat16"}
  with pytest.raises(
    ValueError, match="config.precision .* = 'bfloat16': config.model_na"
  ):
    models.build(config)
  with pytest.raises(ValueError, match="does not fit config.model_name"):
    models.build({**config, "model": {"widht": 3}})
  assert models.build({**config, "precision": "float32"})[0] == Model()
  config |= dict(model_name="proj.image_text.two_towers")
  model, _ = models.build(
    {**config, "model": dict(image_model=__name__, text=TEXT)}
  )
  with pytest.raises(ValueError, match=f"model.image_model = '{__name__}' has"):
    jax.eval_shape(model.init, jax.random.key(0), IMAGE, TEXTS)


def test_names():
  for name in precision.NAMES:
    assert precision.of({"precision": name}) == name
  assert precision.of({}) == precision.of({"precision": None}) == "float32"
  with pytest.raises(
    ValueError, match="config.precision: unknown .*'bfloat16'"
  ):
    precision.of({"precision": "bf16"})


def test_highest():
  x = jnp.ones((2, 2))
  for name, want in (("float32", "None"), ("highest", "HIGHEST")):
    with precision.context({"precision": name}):
      text = str(jax.make_jaxpr(lambda x: x @ x)(x))
    assert ("HIGHEST" in text) == (want == "HIGHEST")


def test_checks_of_configs():
  import ml_collections as mlc

  config = mlc.ConfigDict({"seed": 1, "precision": "float32"})
  assert not config_changes.differences({"seed": 1}, config)
  config.precision = "bfloat16"
  assert config_changes.differences({"seed": 1}, config) == {
    "precision": ("float32", "bfloat16")
  }
  assert not config_changes.is_free("precision")
  assert "precision" in config_check.KEYS
