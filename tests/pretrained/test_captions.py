"""Captions of pictures by the decoder of a run, against a loop over tokens."""

import json
import pathlib

import jax
import numpy as np
import pytest
import sentencepiece
from PIL import Image

import big_vision
from big_vision import checkpoints, pretrained
from big_vision.configs.proj.image_text import siglip_pretrain
from big_vision.models.proj.image_text import captioner, two_towers
from big_vision.tools import predict

pytestmark = [pytest.mark.tf, pytest.mark.usefixtures("quick_compilation")]


def draw(init, *args, seed):
  shapes = jax.eval_shape(init, jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes
  )


def save(path, params):
  manager = checkpoints.CheckpointManager()
  state = {"params": params}
  checkpoints.save_checkpoint_ts(manager, state, str(path), 3, keep=False)
  manager.wait_until_finished()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(workdir, paths, expected captions): random parameters, and a loop."""
  config = siglip_pretrain.get_config("demo,captioning")
  towers = two_towers.Model(**config.model)
  decoder = captioner.Model(
    **{k: v for k, v in config.captioning.items() if k != "weight"}
  )
  image, tokens = np.zeros([1, 32, 32, 3]), np.zeros([1, 16], int)
  params = draw(towers.init, image, tokens, seed=0)
  width = config.model.image.width
  encoded = np.zeros([1, 16, width], np.float32)
  own = draw(decoder.init, encoded, tokens, tokens, seed=2)

  folder = tmp_path_factory.mktemp("run")
  (folder / "config.json").write_text(config.to_json_best_effort())
  save(folder / "checkpoint.bv", {**params, "captioner": own})
  save(folder / "towers.bv", params)

  vocab = pathlib.Path(big_vision.__file__).parent / "pp/vocabs/shapes.model"
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocab))
  given = pieces.encode("cap:")
  encode = jax.jit(lambda x: towers.apply({"params": params}, x, None)[2])
  decode = jax.jit(lambda *x: decoder.apply({"params": own}, *x))
  paths, captions = [], []
  for i in range(3):
    pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
    paths.append(folder / f"{i}.png")
    Image.fromarray(pixels).save(paths[-1])
    x = pixels[None].astype(np.float32) / 127.5 - 1
    encoded = encode(x)["img/encoded"]
    found = list(given)
    while len(found) < 16:
      padded = np.array([found + [0] * (16 - len(found))])
      mask = np.arange(16)[None] >= len(given)
      logits = decode(encoded, padded, mask)
      found.append(int(logits[0, len(found)].argmax()))
    new = found[len(given) :]
    if pieces.eos_id() in new:
      new = new[: new.index(pieces.eos_id())]
    captions.append(pieces.decode(new).strip())
  return folder, paths, captions


def test_captions_are_those_of_a_loop(run):
  workdir, paths, captions = run
  model = pretrained.load(workdir)
  assert len(set(captions)) > 1 and all(captions)
  assert model.captions(paths) == captions
  assert model.features(paths).shape[0] == 3
  with pytest.raises(ValueError, match="no classes of its own"):
    model.predict(paths)


def test_a_checkpoint_of_the_towers_alone(run):
  workdir, paths, _ = run
  model = pretrained.load(workdir, init=str(workdir / "towers.bv"))
  assert model.features(paths[:1]).shape[0] == 1
  with pytest.raises(ValueError, match="no decoder of captions"):
    model.captions(paths)


def test_the_command_describes_pictures(run, capsys):
  workdir, paths, captions = run
  bad = workdir / "bad.png"
  bad.write_bytes(b"no picture")
  args = ["--from", str(workdir), *map(str, paths[:2]), str(bad)]
  assert predict.main([*args, "--format", "jsonl"]) == 1
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row.get("caption") for row in rows] == [*captions[:2], None]
  assert "error" in rows[2]
  assert predict.main([*args[:3], "--format", "csv"]) == 0
  head, row = capsys.readouterr().out.splitlines()
  assert head == "picture,caption,error"
  assert captions[0] in row.replace('""', '"')
  assert predict.main([*args[:3], "--format", "csv", "--text", "a cat"]) == 0
  assert capsys.readouterr().out.startswith("picture,class1,probability1")
