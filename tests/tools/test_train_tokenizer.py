"""Training of vocabularies, and the one that the package ships."""

import pathlib

import pytest

from big_vision.pp import sentencepiece_model
from big_vision.tools import train_tokenizer

pytestmark = pytest.mark.tf

TEXTS = [f"the {c} {s}" for c in ("red", "blue") for s in ("star", "ring")] * 9


def pieces(model):
  sp = sentencepiece_model.processor(model)
  return [sp.IdToPiece(i) for i in range(sp.GetPieceSize())]


@pytest.mark.parametrize("type", ["bpe", "unigram"])
def test_train(type):
  model = train_tokenizer.train(TEXTS, 110, type=type)
  got = pieces(model)
  assert got[:4] == ["<pad>", "</s>", "<unk>", "<s>"]
  assert len(got) <= 110
  sp = sentencepiece_model.processor(model)
  assert (sp.pad_id(), sp.eos_id(), sp.unk_id(), sp.bos_id()) == (0, 1, 2, 3)
  ascii_text = "".join(map(chr, range(32, 127)))
  assert 2 not in sp.encode(ascii_text) and 2 in sp.encode("ß")
  assert sp.decode(sp.encode("the red star!")) == "the red star!"
  assert train_tokenizer.train(TEXTS, 110, type=type) == model


def test_train_errors():
  with pytest.raises(ValueError, match="no texts"):
    train_tokenizer.train(["", " "], 100)
  with pytest.raises(ValueError, match="sentencepiece: "):
    train_tokenizer.train(TEXTS, 100, normalization="nope")


def test_from_file(tmp_path, capsys):
  (tmp_path / "in.txt").write_text("\n".join(TEXTS))
  out = tmp_path / "out.model"
  argv = [f"--out={out}", f"--text={tmp_path / 'in.txt'}", "--vocab_size=105"]
  assert train_tokenizer.main(argv) == 0
  assert "36 texts" in capsys.readouterr().out
  assert out.read_bytes() == train_tokenizer.train(TEXTS, 105)
  argv[1] = f"--text={tmp_path / 'nope'}"
  assert train_tokenizer.main(argv) == 1
  assert "nope" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shapes_dir(tmp_path_factory):
  from big_vision.datasets import shapes

  path = str(tmp_path_factory.mktemp("shapes"))
  shapes.prepare(path, config="tiny")
  return path


def test_from_dataset(shapes_dir, tmp_path):
  names = ["id", "captions", "qa/question"]
  texts = list(
    train_tokenizer.dataset_texts(
      "shapes/tiny", "validation[:2]", names, shapes_dir
    )
  )
  first, second = (i for i, t in enumerate(texts) if t.startswith("validation"))
  assert first == 0
  captions = texts[1:6]
  assert all(t == t.lower() and " " in t for t in captions)
  assert all(t.endswith("?") for t in texts[6:second])
  out = tmp_path / "out.model"
  argv = ["--dataset=shapes/tiny", f"--data_dir={shapes_dir}", f"--out={out}"]
  assert train_tokenizer.main([*argv, "--vocab_size=200", "--type=bpe"]) == 0
  assert "▁circle" in pieces(out.read_bytes())


@pytest.mark.parametrize("feature", ["caption", "label", "qa"])
def test_unknown_feature(shapes_dir, feature):
  with pytest.raises(
    ValueError, match=f"text feature of .*{feature}.*qa/answer|captions"
  ):
    list(
      train_tokenizer.dataset_texts(
        "shapes/tiny", "train", [feature], shapes_dir
      )
    )


def shapes_texts(num):
  """The texts of the first training examples of `shapes`, without pictures."""
  from big_vision.datasets import shapes
  from big_vision.datasets.shapes import text

  for i in range(num):
    scene, rng = shapes.make_scene("train", i)
    yield from text.captions(scene, rng)
    questions = text.questions(scene, rng)
    yield from (q["question"] for q in questions)
    yield from (q["answer"] for q in questions)


def test_shipped_model_knows_all_words():
  model = sentencepiece_model.read("shapes")
  path = pathlib.Path(sentencepiece_model.KNOWN_TOKENIZERS["shapes"])
  assert path.stat().st_size < 50_000 and len(pieces(model)) == 512
  sp = sentencepiece_model.processor(model)
  for text in shapes_texts(20):
    ids = sp.encode(text)
    assert sp.decode(ids) == text
    # Whole words, nearly always.
    assert len(ids) <= 1.4 * len(text.replace(",", " ,").split()) + 1, text


@pytest.mark.slow
def test_shipped_model_is_what_the_tool_makes():
  texts = list(shapes_texts(4096))
  assert len(texts) == 86_016
  model = train_tokenizer.train(texts, 512, type="bpe")
  assert model == sentencepiece_model.read("shapes")
