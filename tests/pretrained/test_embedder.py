"""A trained model embeds any image and any text."""

import io
import pathlib
import shutil

import jax
import numpy as np
import pytest
import sentencepiece
from scipy import special

from big_vision import (
  checkpoint_npz,
  checkpoints,
  embedder,
  lookup,
  pretrained,
)
from big_vision.configs.proj.clippo import train_clippo
from big_vision.configs.proj.image_text import siglip_lit_coco, siglip_pretrain
from big_vision.models import vit
from big_vision.models.proj.clippo import one_tower
from big_vision.models.proj.image_text import preprocessing, two_towers
from big_vision.pretrained import published

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]

Image = pytest.importorskip("PIL.Image")
HUGGINGFACE = pathlib.Path(__file__).parents[1] / "golden" / "huggingface"
TEXTS = ["a red circle", "a blue star above a brown floor", "a"]


def pictures(*sizes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in sizes]


def encoded(image, kind="PNG", **kw):
  file = io.BytesIO()
  (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
    file, kind, **kw
  )
  return file.getvalue()


def make_params(config, image, text, cls=two_towers.Model, seed=0):
  """Random parameters of a model, none of which is special."""
  model = cls(**config.model)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image, text)["params"]
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  return model, jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """As a run leaves it: config.json and checkpoint."""
  config = siglip_pretrain.get_config("demo")
  image, text = np.zeros([1, 32, 32, 3]), np.zeros([1, 16], int)
  _, params = make_params(config, image, text)
  path = tmp_path_factory.mktemp("workdir")
  (path / "config.json").write_text(config.to_json_best_effort())
  manager = checkpoints.CheckpointManager()
  # What the trainer adds for captions is not of the model.
  state = {"params": {**params, "captioning": {"x": np.zeros(3)}}}
  prefix = str(path / "checkpoint.bv")
  checkpoints.save_checkpoint_ts(manager, state, prefix, 3, keep=False)
  manager.wait_until_finished()
  return path, config, params


@pytest.fixture(scope="module")
def model(workdir):
  return embedder.load(workdir[0])


def test_model_of_a_run(workdir, model):
  _, config, params = workdir
  (image,) = pictures((32, 32))
  x = image[None].astype(np.float32) / 127.5 - 1
  vocab = pathlib.Path(embedder.__file__).parent / "pp/vocabs/shapes.model"
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocab))
  tokens = np.ones([3, 16], np.int32)  # Padding is 1, as is the end.
  for row, text in zip(tokens, TEXTS, strict=True):
    ids = pieces.encode(text)
    row[: len(ids)] = ids
  zimg, ztxt, out = two_towers.Model(**config.model).apply(
    {"params": params}, x, tokens
  )
  got = model.images([image]), model.texts(TEXTS)
  assert got[0].dtype == got[1].dtype == np.float32
  np.testing.assert_allclose(got[0], zimg, atol=2e-6)
  np.testing.assert_allclose(got[1], ztxt, atol=2e-6)
  assert model.loss_fn == "sigmoid" and model.name == str(workdir[0])
  cosines = np.asarray(zimg) @ np.asarray(ztxt).T
  want = np.exp(params["t"]) * cosines + params["b"]
  np.testing.assert_allclose(model.logits(*got), want, atol=1e-5)
  np.testing.assert_allclose(out["t"], np.exp(params["t"]), rtol=1e-6)


def test_positions_of_images_that_are_no_squares(workdir):
  """16 positions of 4x4 are not those of 2x8."""
  path, _, params = workdir
  stored = params["img"]["pos_embedding"]
  assert stored.shape[1] == 16
  pp = "resize((16, 64))|value_range(-1, 1)"
  wide = embedder.load(path, pp_img=pp)
  want = vit.resample_posemb(stored, stored, grid=(2, 8))
  got = np.asarray(wide.params["img"]["pos_embedding"])
  np.testing.assert_array_equal(got, want)
  assert np.abs(got - stored).max() > 0.1


def test_any_number_of_any_size(model):
  images = pictures(*[(8 + i, 90 - i) for i in range(70)])
  z = model.images(images)
  assert z.shape == (70, 64)
  np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
  for i in (0, 33, 69):
    np.testing.assert_allclose(model.images([images[i]])[0], z[i], atol=1e-5)
  assert np.abs(z[0] - z[1]).max() > 1e-3
  with pytest.raises(ValueError, match="Nothing to embed"):
    model.texts([])


def test_files_are_read_as_in_training(model, workdir):
  (image,) = pictures((20, 30))
  np.testing.assert_array_equal(embedder.decode(encoded(image)), image)
  np.testing.assert_array_equal(
    model.images([encoded(image)]), model.images([image])
  )
  exif = Image.Exif()
  exif[0x0112] = 6  # The camera was turned.
  aside = encoded(image, exif=exif)
  np.testing.assert_array_equal(embedder.decode(aside), image)
  turned = embedder.decode(aside, exif=True)
  np.testing.assert_array_equal(turned, np.rot90(image, -1))

  clear = np.dstack([image, np.full((20, 30), 255, np.uint8)])
  clear[:5, :, 3] = 0
  np.testing.assert_array_equal(embedder.decode(encoded(clear)), image)
  got = embedder.decode(encoded(clear), background="white")
  assert (got[:5] == 255).all()
  np.testing.assert_array_equal(got[5:], image[5:])

  # As the run says it, or the preprocessing that replaces the run's.
  _, config, _ = workdir
  own = str(config.embed.pp_img)
  pp = 'decode(exif=True, background="white")'
  replaced = embedder.load(workdir[0], pp_img=f"{pp}|{own}")
  config = config.copy_and_resolve_references()
  config.input.pp = config.input.pp.replace("decode", pp, 1)
  of_run = embedder.Embedder(config, str(workdir[0] / "checkpoint.bv"))
  for other in (replaced, of_run):
    np.testing.assert_array_equal(other.decode(aside), turned)
    np.testing.assert_array_equal(other.decode(encoded(clear)), got)
    z = other.images([aside, other.prepare(aside), encoded(clear)])
    np.testing.assert_array_equal(z, model.images([turned, turned, got]))

  for kind in ("EPS", "TIFF", "PDF", "ICO"):
    with pytest.raises(ValueError, match="should be of the format PNG or GIF"):
      model.prepare(encoded(image, kind), formats=("PNG", "GIF"))
  with pytest.raises(ValueError, match="not an image that can be read"):
    model.images([encoded(image, "EPS")])
  np.testing.assert_array_equal(embedder.decode(encoded(image, "TIFF")), image)
  with pytest.raises(ValueError, match="600 pixels, at most 599 can be"):
    embedder.decode(encoded(image), max_pixels=599)
  crop = embedder.load(workdir[0], pp_img=f"central_crop(16)|{own}")
  with pytest.raises(ValueError, match="does not take an image of 30 x 15 pix"):
    crop.images([encoded(image[:15])])
  deep = Image.fromarray(image[..., 0].astype(np.uint16) * 256 + 99)
  grey = embedder.decode(encoded(deep))
  np.testing.assert_array_equal(grey, np.dstack([image[..., 0]] * 3))
  grey = embedder.decode(encoded(Image.fromarray(image[..., 0])))
  np.testing.assert_array_equal(grey, np.dstack([image[..., 0]] * 3))
  with pytest.raises(ValueError, match="not an image that can be read"):
    embedder.decode(b"GIF89a and no more")
  with pytest.raises(ValueError, match=r"uint8.*not float32 \[4, 4, 3\]"):
    model.images([np.zeros([4, 4, 3], np.float32)])


def test_probabilities(model):
  logits = np.array([[-3.0, 0.5, 2.0], [1000, -1000, 999]], np.float32)
  with np.errstate(all="raise"):
    got = model.probabilities(logits)
    np.testing.assert_allclose(got, special.expit(logits), rtol=1e-5, atol=1e-7)
  got = model.probabilities(logits, "softmax")
  np.testing.assert_allclose(got, special.softmax(logits, 1), rtol=1e-6)
  with pytest.raises(ValueError, match="'sigmoid_xent'.*sigmoid"):
    model.probabilities(logits, "sigmoid_xent")


def test_naflex_sees_the_aspect_ratio(tmp_path):
  config = siglip_pretrain.get_config("demo,naflex")
  patches = np.zeros([1, 16, 8 * 8 * 3]), *[np.ones([1, 16], int)] * 3
  model, params = make_params(config, patches, np.zeros([1, 16], int))
  path = str(tmp_path / "model.npz")
  checkpoint_npz.save_checkpoint({"params": params}, path)

  image = pictures((16, 64))[0]  # Two rows of eight patches.
  got = embedder.Embedder(config, path).images([image, image[:, :16]])
  x = (image / 127.5 - 1).reshape(2, 8, 8, 8, 3).swapaxes(1, 2)
  x = np.float32(x.reshape(1, 16, 192))
  where = np.divmod(np.arange(16)[None], 8)
  want, *_ = model.apply(
    {"params": params}, (x, np.ones([1, 16], int), *where), None
  )
  np.testing.assert_allclose(got[:1], want, atol=2e-6)
  assert np.abs(got[0] - got[1]).max() > 1e-3


def test_clippo_draws_texts(tmp_path):
  config = train_clippo.get_config("demo")
  x = np.zeros([1, 64, 64, 3])
  model, params = make_params(config, x, x, one_tower.Model)
  path = str(tmp_path / "model.npz")
  checkpoint_npz.save_checkpoint({"params": params}, path)
  got = embedder.Embedder(config, path)
  assert got.loss_fn == "softmax"  # There is no bias.
  z = got.texts(["red", "blue"])
  assert z.shape == (2, 64) and np.abs(z[0] - z[1]).max() > 1e-3
  images = pictures((64, 64))
  want, *_ = model.apply(
    {"params": params}, np.float32(images[0][None] / 127.5 - 1), None
  )
  np.testing.assert_allclose(got.images(images), want, atol=2e-6)


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_huggingface(tmp_path, name):
  folder = tmp_path / name
  shutil.copytree(HUGGINGFACE / name, folder)
  texts = "\n".join(["a red circle", "a blue star", "a green heart"] * 20)
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts.split("\n")),
    model_prefix=str(folder / "spiece"),
    vocab_size=20,
    model_type="char",
    pad_id=1,
    eos_id=2,
    unk_id=0,
    bos_id=-1,
    minloglevel=2,
  )
  got = embedder.load(str(folder))
  assert got.loss_fn == "sigmoid"
  zimg, ztxt = got.images(pictures((30, 20))), got.texts(TEXTS)
  assert zimg.shape[1] == ztxt.shape[1] and len(ztxt) == 3
  # As the tensors of the file say.
  from safetensors import numpy as safetensors

  tensors = safetensors.load_file(folder / "model.safetensors")
  want = np.exp(tensors["logit_scale"]) * (zimg @ ztxt.T)
  want = want + tensors["logit_bias"]
  np.testing.assert_allclose(got.logits(zimg, ztxt), want, atol=1e-5)


def test_preprocessing_of_huggingface(tmp_path):
  found = published.describe(str(HUGGINGFACE / "siglip"))
  assert found.pp == "resize(14)|value_range(-1, 1)"
  text = dict(vocab_size=32_000)
  assert preprocessing.of_texts("hf://a/b", text, 7) == (
    'tokenize(max_len=7, model="hf://a/b/spiece.model", eos="sticky", '
    'pad_value=1, inkey="texts")'
  )
  text = dict(vocab_size=256_000)  # SigLIP 2.
  assert preprocessing.of_texts("/b", text, 7) == (
    'lower("utf-8", key="texts")|tokenize(max_len=7, model="/b/tokenizer.model", '
    'eos="sticky", pad_value=0, inkey="texts")'
  )
  (tmp_path / "tokenizer.json").touch()  # A folder with nothing else.
  pp_txt = preprocessing.of_texts(str(tmp_path), text, 7)
  assert f'model="{tmp_path}/tokenizer.json", eos="sticky"' in pp_txt
  assert published.describe(str(HUGGINGFACE / "siglip2")).pp == (
    "resize_to_sequence(2, 16)|value_range(-1, 1)|patchify(2)|pad_patches(16)|"
    'tuplify(["image/patches", "image/type", "image/yidx", "image/xidx"], "image")'
  )


def test_where_preprocessing_is_from():
  config = siglip_lit_coco.get_config("runlocal")  # Nothing but evaluators.
  pp_img, pp_txt = embedder.preprocessing_of(config)
  assert pp_img == "resize(224)|value_range(-1, 1)"
  assert pp_txt.startswith('bert_tokenize(inkey="texts"')
  assert embedder.preprocessing_of(config, pp_img="x") == ("x", pp_txt)
  config = siglip_pretrain.get_config("res=256")  # Without any.
  assert not config.evals
  assert embedder.preprocessing_of(config)[0].startswith("resize(256)|")
  del config.embed
  with pytest.raises(ValueError, match="No pp_img: the config has neither"):
    embedder.preprocessing_of(config)


def test_what_is_no_model_of_images_and_texts(tmp_path, workdir):
  with pytest.raises(ValueError, match="not a workdir of a run.*config.json"):
    embedder.load(str(tmp_path))
  (tmp_path / "config.json").write_text('{"model.name": "vit"}')
  with pytest.raises(lookup.ConfigError, match="config.json is not the config"):
    embedder.load(str(tmp_path))
  (tmp_path / "config.json").write_text('{"model_name": "vit"}')
  with pytest.raises(
    ValueError, match="'vit' is not a model of images and texts"
  ):
    embedder.load(str(tmp_path))
  with pytest.raises(ValueError, match="has one tower"):
    embedder.load(str(HUGGINGFACE / "siglip_vision"))
  with pytest.raises(ValueError, match="siglip is a checkpoint.*init='/x.npz'"):
    embedder.load(str(HUGGINGFACE / "siglip"), init="/x.npz")
  # A checkpoint without its text tower.
  _, config, params = workdir
  path = str(tmp_path / "half.npz")
  half = {k: v for k, v in params.items() if k != "txt"}
  checkpoint_npz.save_checkpoint({"params": half}, path)
  with pytest.raises(KeyError, match="txt"):
    embedder.Embedder(config, path)


def test_no_example_images_without_data(workdir, tmp_path):
  _, config, _ = workdir
  config = config.copy_and_resolve_references()
  with config.ignore_type():
    config.evals.retrieval_coco.dataset = "coco_captions"
    config.evals.retrieval_coco.data_dir = str(tmp_path)
  assert embedder.example_images(config, 3) == []
  config.evals = {}
  assert embedder.example_images(config, 3) == []


@pytest.mark.parametrize("kind", ["pp_modules", "tower", "model_name"])
def test_modules_of_a_stored_config(workdir, tmp_path, monkeypatch, kind):
  """A file beside the config is not run unless the call names it."""
  (tmp_path / "bv_stray.py").write_text(
    "import pathlib\n"
    "from big_vision.models.vit import Model\n"
    "pathlib.Path(__file__).with_suffix('.ran').touch()\n"
  )
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend("")
  config = workdir[1].copy_and_resolve_references()
  if kind == "pp_modules":
    config.pp_modules = [*config.get("pp_modules", ()), "bv_stray"]
  elif kind == "tower":
    config.model.image_model = "bv_stray"
  else:
    config.model_name = "bv_stray"
  (tmp_path / "config.json").write_text(config.to_json_best_effort())
  load = lambda **kw: embedder.load(
    tmp_path, init=f"{workdir[0]}/checkpoint.bv", **kw
  )
  with pytest.raises(ValueError, match="bv_stray"):
    load()
  assert not (tmp_path / "bv_stray.ran").exists()
  if kind == "pp_modules":
    load(pp_modules=["bv_stray"])
    assert (tmp_path / "bv_stray.ran").exists()


def test_config_that_cannot_be_read(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(lookup.ConfigError, match=f"{tmp_path}/config.json"):
    embedder.load(tmp_path)


def test_pictures_as_of_a_classifier(workdir, model, tmp_path, capsys):
  """`pretrained.load` gives the same numbers; the command, too."""
  from big_vision.tools import predict

  path, _, params = workdir
  images = pictures((40, 60), (32, 32), (90, 20))
  files = [tmp_path / f"{i}.png" for i in range(3)]
  for file, image in zip(files, images, strict=True):
    file.write_bytes(encoded(image))
  m = pretrained.load(path)
  zimg, ztxt = model.images(images), model.texts(TEXTS)
  np.testing.assert_allclose(m.features(files), zimg, atol=1e-6)
  np.testing.assert_allclose(m.features(texts=TEXTS), ztxt, atol=1e-6)
  want = special.expit(np.exp(params["t"]) * zimg @ ztxt.T + params["b"])
  got = m.similarity(files, TEXTS)
  np.testing.assert_allclose(got, want, atol=1e-5)
  best = m.with_texts(TEXTS).predict(files, topk=1)
  for row, (p,) in zip(got, best, strict=True):
    assert p.name == TEXTS[row.argmax()]
    assert p.probability == pytest.approx(row.max(), abs=1e-6)
  assert m.class_names == () and m.loss == "sigmoid" and m.config.model
  with pytest.raises(
    ValueError, match="is a model of images and texts: it has"
  ):
    m.predict(files)
  with pytest.raises(ValueError, match="either images or texts"):
    m.features(files, texts=TEXTS)
  for wrong in (
    lambda: m.features(texts=TEXTS[0]),
    lambda: m.similarity(files, TEXTS[0]),
  ):
    with pytest.raises(ValueError, match="in a list, not a single str"):
      wrong()
  with pytest.raises(
    FileNotFoundError, match=r"'a cat'. Texts are features\(t"
  ):
    m.features(["a cat"])
  found = m.with_texts(TEXTS).predict(files, threshold=0.0)
  assert [len(x) for x in found] == [len(TEXTS)] * len(files)

  args = ["--from", str(path), str(tmp_path)]
  assert predict.main(args) == 1
  assert "--text 'a photo of a cat'" in capsys.readouterr().err
  assert predict.main([*args, "--text", TEXTS[0], "--text", TEXTS[1]]) == 0
  rows = capsys.readouterr().out.splitlines()
  assert len(rows) == 4 and all(TEXTS[0] in row for row in rows[1:])
  npz = str(tmp_path / "f.npz")
  assert predict.main([*args, "--features", npz]) == 0
  assert capsys.readouterr().out.startswith("picture,error\n")
  with np.load(npz) as f:
    np.testing.assert_allclose(f["features"], zimg, atol=1e-6)
