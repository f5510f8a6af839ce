"""Towers of images and texts are exported together, or each by itself."""

import numpy as np
import pytest

import random_run
from big_vision import export, exported, pretrained
from big_vision.configs.proj.image_text import siglip_pretrain
from big_vision.pp import builder

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
TEXTS = ["a red circle", "a blue star above a brown floor"]


def load(path, **text):
  """A model of the demo's kind with random parameters, and its inputs."""
  config = siglip_pretrain.get_config("demo").to_dict()
  config["model"]["text"].update(text)
  config["model"]["image"].update(depth=1)
  inputs = np.zeros([1, 32, 32, 3]), np.zeros([1, 16], int)
  m = pretrained.load(random_run.make(path, config, *inputs))
  images = np.stack([m.preprocess(p) for p in PICTURES])
  pp_txt = builder.get_preprocess_fn(m.embedder.pp_txt)
  tokens = np.stack([pp_txt({"texts": t})["labels"].numpy() for t in TEXTS])
  return m, images, tokens


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
  return load(tmp_path_factory.mktemp("towers") / "w")


def close(x, y):
  np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_both(format, loaded, tmp_path):
  """The numbers of images and of texts are free, each by itself."""
  pytest.importorskip({"onnx": "onnxruntime"}.get(format, "jax"))
  m, images, tokens = loaded
  info = export.save(m, tmp_path, format)
  assert [i["shape"][0] for i in info["inputs"]] == ["batch", "texts"]
  assert info["loss"] == "sigmoid" and info["pp_txt"] == m.embedder.pp_txt
  got = exported.load(tmp_path)(image=images, text=tokens)
  zimg, ztxt = m.features(list(PICTURES)), m.features(texts=TEXTS)
  close(got["image_embedding"], zimg)
  close(got["text_embedding"], ztxt)
  close(got["logits"], m.embedder.logits(zimg, ztxt))
  close(got["logits"], info["factor"] * zimg @ ztxt.T + info["bias"])


@pytest.mark.parametrize(
  "text",
  [dict(pool_type="eot", eot_token=5), dict(pool_type="map", pad_token=1)],
)
def test_each(text, tmp_path):
  """A file has the parameters of its tower only."""
  pytest.importorskip("onnxruntime")
  m, images, tokens = load(tmp_path / "w", **text)
  sizes = {}
  for tower in ("image", "text"):
    info = export.save(m, tmp_path / tower, "onnx", tower=tower)
    sizes[tower] = info["num_bytes_of_params"]
  image, text = (exported.load(tmp_path / t) for t in ("image", "text"))
  close(image(image=images)["image_embedding"], m.features(list(PICTURES)))
  got = text(text=tokens)
  assert set(got) == {"text_embedding"}
  close(got["text_embedding"], m.features(texts=TEXTS))
  close(text(text=tokens[:1])["text_embedding"], got["text_embedding"][:1])
  total = export.save(m, tmp_path / "all", "onnx")["num_bytes_of_params"]
  # Temperature and bias are of both.
  assert sizes["image"] + sizes["text"] == total - 2 * 4
