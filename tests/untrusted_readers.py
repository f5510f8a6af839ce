"""What reads files and strings of others: a table for tests, and for `fuzz.py`.

A reader gets the path of a file, or of a folder in which one file was damaged. It
may return, or raise what a user sees as one line that names the file. Everything
is imported when it is used: some readers need TensorFlow, most do not.
"""

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import untrusted_seeds as seeds

SUFFIXES = {  # Of the files in golden/broken -> reader.
  ".npz": "npz", ".safetensors": "safetensors", ".tar": "tar", ".jpg": "image",
  ".png": "image", ".tif": "image", ".pth": "torch",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reader:
  """One way by which outside data get in.

  Attributes:
    read: path -> anything.
    seeds: () -> list of valid contents.
    name: of the file.
    words: what is put into contents, among other things.
    needs_tf: whether it needs TensorFlow.
    around: makes the files beside it: folder -> None. The reader then gets the
      path of the folder.
    names_file: whether errors have to name the file; those of strings name what
      is wrong with them.
  """

  read: Callable[[str], Any]
  seeds: Callable[[], list[bytes]]
  name: str
  words: tuple[bytes, ...] = ()
  needs_tf: bool = False
  around: Callable[[pathlib.Path], None] | None = None
  names_file: bool = True


def problem(error: BaseException, path: str, reader: Reader) -> str | None:
  """Says why an error is not one that a user can work with; None if it is."""
  from big_vision.training import user_errors

  if not isinstance(error, Exception):
    return f"is a {type(error).__name__}"
  stated = user_errors.is_of_user(error) or (
    isinstance(error, TypeError) and user_errors.raised_here(error)
  )
  if not stated and not isinstance(error, OSError):
    return f"is a {type(error).__name__} that Python or a library raised"
  text = user_errors.message(error)
  if len(text) > 4100:
    return f"has {len(text)} characters"
  names = (pathlib.Path(path).name, reader.name)
  if reader.names_file and not any(name in text for name in names):
    return "does not name the file"
  return None


def write(reader: Reader, data: bytes, folder: pathlib.Path) -> str:
  """Writes an input; returns the path that the reader gets."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / reader.name
  if reader.around:
    reader.around(folder)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data)
  return str(folder if reader.around else path)


def _text(path):
  return pathlib.Path(path).read_bytes().decode("utf-8", "surrogateescape")


def _tell(text, error):
  """Fails as what calls a reader does, where that adds what the input was."""
  from big_vision import lookup

  raise lookup.ConfigError(text) from error


# Numbers and tensors.


def _read_npz(path):
  from big_vision import checkpoint_npz

  checkpoint_npz.load_checkpoint_np(path)


def _read_tensors(path):
  from big_vision.models.weights import tensor_files

  tensor_files.shapes(path)
  tensor_files.read(path)


def _read_published(path):
  from big_vision.models.weights import sources

  sources.Checkpoint(path)


def _read_checkpoint(path):
  from big_vision import checkpoints

  number, *data = pathlib.Path(path, "damaged").read_bytes() or b"\0"
  names = list(seeds.checkpoint())
  pathlib.Path(path, names[number % len(names)]).write_bytes(bytes(data))
  checkpoints.load_checkpoint_ts(f"{path}/ckpt")


# Images.


def _named(fn):
  """Calls `fn(content)` as `tools/predict` does, which names the file."""

  def read(path):
    from big_vision.predictions import files

    # In the same thread: a memory limit holds for the process anyway.
    try:
      fn(files.Picture(path, path).read())
    except ValueError as e:
      if "\n" in str(e) or not str(e):
        raise
      _tell(f"{path}: {e}", e)

  return read


@_named
def _read_image(data):
  from big_vision.pp import image_files

  image = image_files.read(data, image_files.limit())
  image_files.turn(image_files.finish(image, 3, (255,) * 3), data)


@_named
def _decode_image(data):
  from big_vision.pp import decoding
  from big_vision.tf import tf

  decoder = decoding.Decoder(exif=True)
  try:
    decoder(data)
  except tf.errors.InvalidArgumentError as e:
    _tell(e.message.splitlines()[0], e)
  decoder.read_with_pillow(data)


# Shards and records.


def _read_tar(path):
  from big_vision.datasets import tar_index

  tar_index.make(path)


def _predict_tar(path):
  from big_vision.predictions import files

  for picture in files.find([path], io.StringIO())[:50]:
    picture.read()


def _read_webdataset(path):
  from big_vision.datasets import webdataset

  shard = f"{path}/x.tar"
  source = webdataset.DataSource(shard, cache_dir=f"{path}/cache")
  for i in range(min(source.total_examples, 20)):
    source.read_python(i)


def _index_of(path):
  """Puts the damaged index where that of the shard is."""
  from big_vision.datasets import shards, tar_index

  # What is damaged is made anew: the result is that of the shard.
  ((_, index),) = shards.open_all([f"{path}/x.tar"], f"{path}/cache")
  expected = tar_index.make(f"{path}/x.tar")
  assert index.keys == expected.keys and index.fields == expected.fields
  np.testing.assert_array_equal(index.sizes, expected.sizes)


def _read_index(path):
  (stored,) = pathlib.Path(path, "cache", "index").glob("*.npz")
  stored.write_bytes(pathlib.Path(path, "index.npz").read_bytes())
  _index_of(path)


def _read_records(path):
  from big_vision.datasets import records

  bounds = records.record_bounds(path)
  shard = records._TFRecord(path, bounds)
  for i in range(min(len(shard), 20)):
    shard[i]


def _read_records_index(path):
  from big_vision.datasets import records

  records._stored_index(path)


def _read_tfds(path):
  from big_vision.datasets import tfds

  tfds.clear_cache()
  tfds.DataSource("from_data_dir", "train", data_dir=path)


# Text, tables, tokenizers.


def _read_jsonl(path):
  from big_vision.datasets import jsonl

  jsonl.DataSource(path)


def _read_csv(path):
  from big_vision.datasets import label_sets, text_files

  rows = text_files.read_table(path, ("image", "label"), "input.data.labels")
  label_sets.split_cells([cells[1] for _, cells in rows])


def _read_sentencepiece(path):
  from big_vision.pp import sentencepiece_tokenizer

  tok = sentencepiece_tokenizer.SentencepieceTokenizer(path, ("loc(4)",))
  tok.to_str(tok.to_int("A red circle, ½ café <loc0001> ☃"))


def _read_tokenizer(path):
  from big_vision.pp import hf_tokenizer

  tok = hf_tokenizer.HuggingFaceTokenizer(path, ("loc(4)",))
  tok.decode(tok.encode("abcd cab <loc0001>é"))


def _read_word_pieces(path):
  from big_vision.pp import wordpiece
  from big_vision.pp.proj.flaxformer import bert_ops

  try:
    wordpiece.WordPiece(bert_ops.read_vocab(path))("a re##d circle")
  except ValueError as e:
    _tell(f"{path}: {e}", e)


def _read_lookup(path):
  from big_vision.pp import ops_general

  ops_general._read_table(path, "fnames", None)


def _read_unifont(path):
  from big_vision.pp.proj.clippo import unifont

  unifont._read_hex(path)


# JSON of other programs.


def _read_categories(path):
  from big_vision.datasets import panoptic_categories

  panoptic_categories.of_file(path)


def _read_coco(path):
  from big_vision.datasets import panoptic_categories
  from big_vision.evaluators.proj.uvim import coco_files

  rows = json.loads(seeds.categories_seeds()[0])
  categories = panoptic_categories.of_json(rows, "categories")
  coco_files.Annotations(path, "val", categories).check()


def _read_run(path):
  from big_vision.pretrained import run_files

  run_files.read_config(path)


def _read_metrics(path):
  from big_vision.plots import curves

  curves.read_metrics(path)


def _read_exported(path):
  from big_vision import exported

  # What holds the program is a matter of other libraries.
  with mock.patch.dict(exported._LOADERS, none=lambda folder: None):
    exported.load(path)


# Strings.


def _read_pp(path):
  from big_vision.pp import builder, ops_general, ops_image, ops_text

  del ops_general, ops_image, ops_text  # Importing them registers ops.
  builder.get_preprocess_fn(_text(path), log_data=False)


def _read_name(path):
  from big_vision.pp import registry

  try:
    registry.parse_name(_text(path))
  except (ValueError, SyntaxError) as e:  # Callers add what they look for.
    _tell(str(e), e)


def _read_split(path):
  from big_vision.datasets import slices

  slices.resolve(_text(path), {"train": 100, "val": 10})


def _read_sharding(path):
  from big_vision import sharding

  sharding._split_tactic(_text(path))


def _read_braces(path):
  from big_vision.datasets import shards

  shards.expand(_text(path).replace("*", "").replace("?", "").replace("[", ""))


def _read_config_arg(path):
  from big_vision.configs import common

  common.parse_arg(
    _text(path), res=224, lr=1e-3, runlocal=False, crop="x", any=None
  )


def _read_config_key(path):
  import ml_collections as mlc

  from big_vision.training import config_flag

  key, _, value = _text(path).partition("=")
  config = mlc.ConfigDict({"lr": 1e-3, "input": {"batch_size": 8, "pp": ""}})
  config.schedule = [("img/.*", None), (".*", {"warmup_steps": 1})]
  config.lock()
  config_flag.prepare(config, {key: value})


def _read_request(path):
  from big_vision import untrusted
  from big_vision.tools.demo import similarity

  class Embedder:
    name, loss_fn = "fake", "sigmoid"

    def images(self, images):
      return np.ones([len(images), 2], np.float32)

    def texts(self, texts):
      return np.ones([len(texts), 2], np.float32)

    def logits(self, zimg, ztxt):
      return zimg @ ztxt.T

    def probabilities(self, logits, loss_fn):
      return logits

  demo = similarity.Demo(Embedder())
  try:  # As `server.Handler`.
    request = untrusted.json_value(pathlib.Path(path).read_bytes())
  except ValueError as e:
    _tell("The request is not JSON.", e)
  try:
    demo.answer(request)
  except similarity.RequestError as e:
    if e.status >= 500:
      raise
    _tell(str(e), e)


_JSON = (
  b"[" * 3000, b"{}", b"[]", b"null", b"-1", b"1e999", b"9" * 5000, b'"\\ud800"',
  b"NaN", b"true", b'"', b"99999999999999999999", b"1.5",
)  # fmt: skip
_CODE = (
  b"(" * 10000, b"-" * 20000, b"9" * 10000, b"9**9**9", b"'", b'"', b"[", b"]",
  b"|", b"=", b",", b"1+" * 5000, b"\0", b"lambda:0", b"__import__('os')",
  b"\\", b"f'{1}'", b"a.b", b"0x" + b"f" * 9000, b"{[]: 1}", b"**{}", b"\n",
)  # fmt: skip
_TAR = (
  b"10 size=1\n", b"0 a=b\n", b"GNU.sparse.major=1\n", b"99999999 path=x\n",
  b"x", b"g", b"L", b"K", b"S", b"77777777777\0", b"\x80" + b"\xff" * 11,
  b"30 GNU.sparse.map=1,2,3\n", b"ustar\0", b"\xd9\xa1",
)  # fmt: skip
_BINARY = (
  b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"PK\3\4",
  b"PK\1\2", b"(9999999999,)", b"'|O'", b"<f8", b"\x93NUMPY",
)  # fmt: skip

READERS = {
  "npz": Reader(_read_npz, seeds.npz_seeds, "x.npz", _BINARY),
  "weights.npz": Reader(_read_tensors, seeds.npz_seeds, "x.npz", _BINARY),
  "safetensors": Reader(
    _read_tensors, seeds.safetensors_seeds, "x.safetensors", _JSON
  ),
  "torch": Reader(_read_tensors, seeds.torch_seeds, "x.pth", _BINARY),
  "published": Reader(
    _read_published, seeds.published_config, "config.json", _JSON, around=seeds.published
  ),
  "image": Reader(_read_image, seeds.image_seeds, "x.jpg", _BINARY),
  "tar": Reader(_read_tar, seeds.tar_seeds, "x.tar", _TAR),
  "predict.tar": Reader(_predict_tar, seeds.tar_seeds, "x.tar", _TAR),
  "unifont": Reader(_read_unifont, seeds.unifont_seeds, "x.hex"),
  "categories": Reader(_read_categories, seeds.categories_seeds, "x.json", _JSON),
  "coco.json": Reader(
    _read_coco, lambda: [seeds.coco_json()], "panoptic_val.json", _JSON,
    around=seeds.around_coco,
  ),
  "coco.zip": Reader(
    _read_coco, lambda: [seeds.coco_zip()], "panoptic_val.zip", _BINARY,
    around=seeds.around_coco,
  ),
  "run": Reader(
    _read_run, seeds.run_seeds, "config.json", _JSON, around=lambda folder: None
  ),
  "metrics": Reader(
    _read_metrics, seeds.lines('{"step": 1, "a": 2}\n{"step": 2, "a": NaN}\n'),
    "x.txt", _JSON,
  ),
  "exported": Reader(
    _read_exported, seeds.export_seeds, "export.json", _JSON,
    around=lambda folder: None,
  ),
  "name": Reader(
    _read_name, seeds.lines("a.b(1, k='x')", "f([1, (2, 3)], x=None)"), "string",
    _CODE, names_file=False,
  ),
  "sharding": Reader(
    _read_sharding, seeds.lines("shard_dim('model', -1)|fsdp('data')"), "string",
    _CODE, names_file=False,
  ),
  "config.arg": Reader(
    _read_config_arg, seeds.lines("res=128,runlocal", "lr=0.1,crop=y,any=3"),
    "string", _CODE, names_file=False,
  ),
  "config.key": Reader(
    _read_config_key,
    seeds.lines("lr=0.1", "input.batch_size=16", "schedule[1][1].warmup_steps=3"),
    "string", _CODE, names_file=False,
  ),
  "demo": Reader(
    _read_request, seeds.request_seeds, "request", _JSON, names_file=False
  ),
  "checkpoint": Reader(
    _read_checkpoint, seeds.checkpoint_seeds, "damaged", _JSON, around=seeds.around_checkpoint,
  ),
  "decode": Reader(_decode_image, seeds.image_seeds, "x.jpg", _BINARY, needs_tf=True),
  "pp": Reader(
    _read_pp,
    seeds.lines("decode|resize(8)|value_range(-1, 1)|keep('image', \"label\")"),
    "string", _CODE, needs_tf=True, names_file=False,
  ),
  "split": Reader(
    _read_split, seeds.lines("train[:50%]+val", "train[10:-3]"), "string",
    (b"9" * 5000, b"[", b"]", b"%", b":", b"-", b"+", b"all"), needs_tf=True,
    names_file=False,
  ),
  "braces": Reader(
    _read_braces, seeds.lines("a/{000..012}.tar", "{a,b}{1..3}"), "string",
    (b"{", b"}", b"..", b",", b"9" * 12, b"{1..999}", b"{0..99999999999}"),
    needs_tf=True, names_file=False,
  ),
  "webdataset": Reader(
    _read_webdataset, seeds.tar_seeds, "x.tar", _TAR, needs_tf=True,
    around=lambda folder: None,
  ),
  "index": Reader(
    _read_index, seeds.index_seeds, "index.npz", _BINARY, needs_tf=True,
    around=seeds.around_index,
  ),
  "records": Reader(
    _read_records, seeds.records_seeds, "x.tfrecord", _BINARY, needs_tf=True
  ),
  "records.index": Reader(
    _read_records_index, seeds.records_index_seeds, "big_vision_index.npz", _BINARY, needs_tf=True,
    around=lambda folder: None,
  ),
  "features.json": Reader(
    _read_tfds, seeds.tfds_seed, "features.json", (*_JSON, b"antigravity.X"),
    needs_tf=True, around=seeds.around_tfds,
  ),
  "jsonl": Reader(
    _read_jsonl, seeds.lines('{"image": "a.jpg", "label": 1}\n' * 3), "x.jsonl",
    _JSON, needs_tf=True,
  ),
  "csv": Reader(
    _read_csv, seeds.lines("image,label\na.jpg,\"x;y\"\nb.jpg,['u']\n"), "x.csv",
    (b'"', b"\0", b"\xff", b"a" * 200000, b",", b";", b"[" * 9000, b"\n"),
    needs_tf=True,
  ),
  "sentencepiece": Reader(
    _read_sentencepiece, seeds.sentencepiece_seeds, "x.model", _BINARY, needs_tf=True
  ),
  "tokenizer.json": Reader(
    _read_tokenizer, seeds.tokenizer_seeds, "tokenizer.json", _JSON, needs_tf=True
  ),
  "vocab": Reader(
    _read_word_pieces, seeds.lines("[UNK]\n[CLS]\na\nred\n##d\n"), "vocab.txt",
    (b"\xff", b"\0", b"\n\n"), needs_tf=True,
  ),
  "lookup.npz": Reader(
    _read_lookup, lambda: [seeds.npz_bytes(False, fnames=np.array(["a", "b"]))],
    "x.npz", _BINARY, needs_tf=True,
  ),
  "lookup.txt": Reader(
    _read_lookup, seeds.lines("a\nb\nc\n"), "x.txt", (b"\xff", b"\0"), needs_tf=True
  ),
}  # fmt: skip


def _abort(path):
  os.abort()


def _spin(path):
  while True:
    pass


def _fill(path):
  bytearray(1 << 40)


def _stumble(path):
  {}[path]


def _whisper(path):
  from big_vision import lookup

  raise lookup.ConfigError("something is wrong")


# What goes wrong in each of the ways that the fuzzer tells apart.
FAULTS = {
  name: Reader(read, seeds.lines("seed"), "x.txt")
  for name, read in {
    "crash": _abort, "hang": _spin, "memory": _fill, "unnamed": _stumble,
    "nameless": _whisper,
  }.items()
}  # fmt: skip
ALL = READERS | FAULTS
