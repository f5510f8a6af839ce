"""What reads files and strings of others: a table for tests, and for `fuzz.py`.

A reader gets the path of a file, or of a folder in which one file was damaged. It
may return, or raise what a user sees as one line that names the file. Everything
is imported when it is used: some readers need TensorFlow, most do not.
"""

import dataclasses
import functools
import io
import json
import os
import pathlib
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden"
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
    tf: whether it needs TensorFlow.
    around: makes the files beside it: folder -> None. The reader then gets the
      path of the folder.
    names_file: whether errors have to name the file; those of strings name what
      is wrong with them.
  """

  read: Callable[[str], Any]
  seeds: Callable[[], list[bytes]]
  name: str
  words: tuple[bytes, ...] = ()
  tf: bool = False
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


def _npz_bytes(compressed, **arrays):
  f = io.BytesIO()
  (np.savez_compressed if compressed else np.savez)(f, **arrays)
  return f.getvalue()


@functools.cache
def _npz_seeds():
  arrays = {
    "params/head/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "params/head/bias": np.zeros(3, "V2"),
    "step": np.int64(7),
  }
  one = io.BytesIO()
  np.save(one, np.arange(5, dtype=np.int16))
  return [
    _npz_bytes(False, **arrays), _npz_bytes(True, **arrays), one.getvalue(),
  ]  # fmt: skip


def _read_npz(path):
  from big_vision import checkpoint_npz

  checkpoint_npz.load_checkpoint_np(path)


def _read_tensors(path):
  from big_vision.models.weights import tensor_files

  tensor_files.shapes(path)
  tensor_files.read(path)


def _safetensors_seeds():
  header = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
  }
  text = json.dumps(header).encode()
  return [struct.pack("<Q", len(text)) + text + bytes(range(32))]


def _torch_seeds():
  folder = GOLDEN / "torch_files"
  return [(folder / name).read_bytes() for name in ("zip.pth", "older.pth")]


def _published(folder):
  source = GOLDEN / "weights" / "transformers" / "vit"
  for name in ("config.json", "model.safetensors"):
    (folder / name).write_bytes((source / name).read_bytes())


def _published_config():
  return [(GOLDEN / "weights/transformers/vit/config.json").read_bytes()]


def _read_published(path):
  from big_vision.models.weights import sources

  sources.Checkpoint(path)


@functools.cache
def _checkpoint():
  """dict of file name -> content of a small checkpoint of a run."""
  import tempfile

  from big_vision import checkpoints

  with tempfile.TemporaryDirectory() as folder:
    tree = {"params": {"w": np.ones([4, 3], np.float32), "b": np.zeros(3)}}
    manager = checkpoints.CheckpointManager()
    checkpoints.save_checkpoint_ts(manager, tree, f"{folder}/ckpt", 3)
    manager.close()
    root = pathlib.Path(folder)
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def _around_checkpoint(folder):
  for name, data in _checkpoint().items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _checkpoint_seeds():
  """Each file, after a byte that says which one it is."""
  return [bytes([i]) + data for i, data in enumerate(_checkpoint().values())]


def _read_checkpoint(path):
  from big_vision import checkpoints

  number, *data = pathlib.Path(path, "damaged").read_bytes() or b"\0"
  names = list(_checkpoint())
  pathlib.Path(path, names[number % len(names)]).write_bytes(bytes(data))
  checkpoints.load_checkpoint_ts(f"{path}/ckpt")


# Images.


@functools.cache
def _image_seeds():
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, [17, 23, 3], np.uint8)
  image, out = Image.fromarray(pixels), []
  exif = Image.Exif()
  exif[0x0112] = 6
  for kind, kw in {
    "JPEG": {"exif": exif}, "PNG": {}, "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True}, "GIF": {}, "BMP": {},
  }.items():  # fmt: skip
    f = io.BytesIO()
    image.save(f, kind, **kw)
    out.append(f.getvalue())
  f = io.BytesIO()
  image.convert("CMYK").save(f, "JPEG", progressive=True)
  return [*out, f.getvalue()]


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


def _tar_bytes(kind, pax=None):
  f = io.BytesIO()
  with tarfile.open(fileobj=f, mode="w", format=kind) as tar:
    for name, data in {
      "a/0.jpg": b"picture", "a/0.cls": b"3", "a/0.json": b'{"x": [1]}',
      "é/" + "b" * 110 + ".jpg": b"long", "c.cls": b"1",
    }.items():  # fmt: skip
      info = tarfile.TarInfo(name)
      info.size, info.pax_headers = len(data), pax or {}
      tar.addfile(info, io.BytesIO(data))
  return f.getvalue()[:8192]


def _tar_seeds():
  pax = {"comment": "x", "size": "4", "SCHILY.xattr.user": "y"}
  return [
    _tar_bytes(tarfile.PAX_FORMAT), _tar_bytes(tarfile.GNU_FORMAT),
    _tar_bytes(tarfile.PAX_FORMAT, pax),
  ]  # fmt: skip


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


def _around_index(folder):
  from big_vision.datasets import shards

  shard = folder / "x.tar"
  shard.write_bytes(_tar_bytes(tarfile.GNU_FORMAT))
  shards.open_all([str(shard)], str(folder / "cache"))


def _read_index(path):
  (stored,) = pathlib.Path(path, "cache", "index").glob("*.npz")
  stored.write_bytes(pathlib.Path(path, "index.npz").read_bytes())
  _index_of(path)


@functools.cache
def _index_seeds():
  import tempfile

  with tempfile.TemporaryDirectory() as folder:
    _around_index(pathlib.Path(folder))
    (stored,) = pathlib.Path(folder, "cache", "index").glob("*.npz")
    return [stored.read_bytes()]


def _records_seeds():
  from big_vision.datasets.crc32c import masked_crc32c

  out = b""
  for data in (b"first", b"second" * 9, b""):
    length = struct.pack("<Q", len(data))
    out += length + struct.pack("<I", masked_crc32c(length)) + data
    out += struct.pack("<I", masked_crc32c(data))
  return [out]


def _read_records(path):
  from big_vision.datasets import records

  bounds = records.record_bounds(path)
  shard = records._TFRecord(path, bounds)
  for i in range(min(len(shard), 20)):
    shard[i]


def _records_index_seeds():
  return [_npz_bytes(False, **{"x.tfrecord": np.array([0, 21, 91], np.int64)})]


def _read_records_index(path):
  from big_vision.datasets import records

  records._stored_index(path)


@functools.cache
def _tfds_seed():
  folder = _tfds_folder()
  return [(folder / "features.json").read_bytes()]


@functools.cache
def _tfds_folder():
  import tempfile

  from big_vision.datasets import tfds

  builder = tfds.get_builder("digits", tempfile.mkdtemp())
  return pathlib.Path(builder.data_dir)


def _around_tfds(folder):
  for path in _tfds_folder().iterdir():
    (folder / path.name).write_bytes(path.read_bytes())


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


def _sentencepiece_seeds():
  from big_vision.pp import sentencepiece_model

  path = sentencepiece_model.KNOWN_TOKENIZERS["shapes"]
  return [pathlib.Path(path).read_bytes()]


@functools.cache
def _tokenizer_seeds():
  vocab = {c: i for i, c in enumerate(["<pad>", "<s>", *"abcd ", "ab", "cd"])}
  content = {
    "version": "1.0",
    "truncation": {
      "direction": "Right", "max_length": 8, "strategy": "LongestFirst",
      "stride": 0,
    },
    "padding": None,
    "added_tokens": [
      {
        "id": 1, "content": "<s>", "single_word": False, "lstrip": False,
        "rstrip": False, "normalized": False, "special": True,
      }
    ],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {
      "type": "BPE", "dropout": None, "unk_token": None,
      "continuing_subword_prefix": None, "end_of_word_suffix": None,
      "fuse_unk": False, "vocab": vocab, "merges": ["a b", "c d"],
    },
  }  # fmt: skip
  pieces = {"type": "WordPiece", "unk_token": "<s>", "vocab": vocab}
  pieces |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 9}
  unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False}
  unigram |= {"vocab": [[c, -1.0] for c in vocab]}
  models = [content["model"], pieces, unigram]
  return [json.dumps(content | {"model": m}).encode() for m in models]


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


def _unifont_seeds():
  import gzip

  text = b"0041:0000000018242442427E424242420000\n263A:" + b"0f" * 32 + b"\n"
  return [text, gzip.compress(text, mtime=0)]


# JSON of other programs.


def _read_categories(path):
  from big_vision.datasets import panoptic_categories

  panoptic_categories.of_file(path)


def _categories_seeds():
  rows = [{"id": 1, "name": "person", "isthing": 1, "supercategory": "x"}]
  rows += [{"id": 7, "name": "sky", "isthing": 0}]
  return [json.dumps(x).encode() for x in (rows, {"categories": rows})]


def _read_coco(path):
  from big_vision.datasets import panoptic_categories
  from big_vision.evaluators.proj.uvim import coco_files

  rows = json.loads(_categories_seeds()[0])
  categories = panoptic_categories.of_json(rows, "categories")
  coco_files.Annotations(path, "val", categories).check()


def _coco_png():
  ids = np.array([[1, 1], [2, 0]], np.uint8)
  f = io.BytesIO()
  Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1)).save(f, "PNG")
  return f.getvalue()


def _coco_zip():
  f = io.BytesIO()
  with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("panoptic_val/5.png", _coco_png())
  return f.getvalue()


def _coco_json():
  segments = [{"id": 1, "category_id": 1, "area": 2, "iscrowd": 0}]
  segments += [{"id": 2, "category_id": 7}]
  row = {"image_id": 5, "file_name": "5.png", "segments_info": segments}
  return json.dumps({"annotations": [row]}).encode()


def _around_coco(folder):
  (folder / "panoptic_val.json").write_bytes(_coco_json())
  (folder / "panoptic_val.zip").write_bytes(_coco_zip())


def _read_run(path):
  from big_vision.pretrained import run_files

  run_files.read_config(path)


def _run_seeds():
  config = {"model_name": "vit", "model": {"variant": "mu/16"}, "lr": 1e-3}
  config |= {"input": {"pp": "decode|resize(8)", "data": {"name": "digits"}}}
  return [json.dumps(config).encode()]


def _read_metrics(path):
  from big_vision.plots import curves

  curves.read_metrics(path)


def _read_exported(path):
  from big_vision import exported

  # What holds the program is a matter of other libraries.
  with mock.patch.dict(exported._LOADERS, none=lambda folder: None):
    exported.load(path)


def _export_seeds():
  return [b'{"format": "none", "inputs": [{"name": "image", "shape": [1]}]}']


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


def _request_seeds():
  return [
    json.dumps({"prompts": ["a dog", "cat"], **image}).encode()
    for image in ({"image": "aGVsbG8="}, {"hash": "00"}, {"example": 1})
  ]


def _lines(*texts):
  return lambda: [text.encode() for text in texts]


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
  "npz": Reader(_read_npz, _npz_seeds, "x.npz", _BINARY),
  "weights.npz": Reader(_read_tensors, _npz_seeds, "x.npz", _BINARY),
  "safetensors": Reader(
    _read_tensors, _safetensors_seeds, "x.safetensors", _JSON
  ),
  "torch": Reader(_read_tensors, _torch_seeds, "x.pth", _BINARY),
  "published": Reader(
    _read_published, _published_config, "config.json", _JSON, around=_published
  ),
  "image": Reader(_read_image, _image_seeds, "x.jpg", _BINARY),
  "tar": Reader(_read_tar, _tar_seeds, "x.tar", _TAR),
  "predict.tar": Reader(_predict_tar, _tar_seeds, "x.tar", _TAR),
  "unifont": Reader(_read_unifont, _unifont_seeds, "x.hex"),
  "categories": Reader(_read_categories, _categories_seeds, "x.json", _JSON),
  "coco.json": Reader(
    _read_coco, lambda: [_coco_json()], "panoptic_val.json", _JSON,
    around=_around_coco,
  ),
  "coco.zip": Reader(
    _read_coco, lambda: [_coco_zip()], "panoptic_val.zip", _BINARY,
    around=_around_coco,
  ),
  "run": Reader(
    _read_run, _run_seeds, "config.json", _JSON, around=lambda folder: None
  ),
  "metrics": Reader(
    _read_metrics, _lines('{"step": 1, "a": 2}\n{"step": 2, "a": NaN}\n'),
    "x.txt", _JSON,
  ),
  "exported": Reader(
    _read_exported, _export_seeds, "export.json", _JSON,
    around=lambda folder: None,
  ),
  "name": Reader(
    _read_name, _lines("a.b(1, k='x')", "f([1, (2, 3)], x=None)"), "string",
    _CODE, names_file=False,
  ),
  "sharding": Reader(
    _read_sharding, _lines("shard_dim('model', -1)|fsdp('data')"), "string",
    _CODE, names_file=False,
  ),
  "config.arg": Reader(
    _read_config_arg, _lines("res=128,runlocal", "lr=0.1,crop=y,any=3"),
    "string", _CODE, names_file=False,
  ),
  "config.key": Reader(
    _read_config_key,
    _lines("lr=0.1", "input.batch_size=16", "schedule[1][1].warmup_steps=3"),
    "string", _CODE, names_file=False,
  ),
  "demo": Reader(
    _read_request, _request_seeds, "request", _JSON, names_file=False
  ),
  "checkpoint": Reader(
    _read_checkpoint, _checkpoint_seeds, "damaged", _JSON, around=_around_checkpoint,
  ),
  "decode": Reader(_decode_image, _image_seeds, "x.jpg", _BINARY, tf=True),
  "pp": Reader(
    _read_pp,
    _lines("decode|resize(8)|value_range(-1, 1)|keep('image', \"label\")"),
    "string", _CODE, tf=True, names_file=False,
  ),
  "split": Reader(
    _read_split, _lines("train[:50%]+val", "train[10:-3]"), "string",
    (b"9" * 5000, b"[", b"]", b"%", b":", b"-", b"+", b"all"), tf=True,
    names_file=False,
  ),
  "braces": Reader(
    _read_braces, _lines("a/{000..012}.tar", "{a,b}{1..3}"), "string",
    (b"{", b"}", b"..", b",", b"9" * 12, b"{1..999}", b"{0..99999999999}"),
    tf=True, names_file=False,
  ),
  "webdataset": Reader(
    _read_webdataset, _tar_seeds, "x.tar", _TAR, tf=True,
    around=lambda folder: None,
  ),
  "index": Reader(
    _read_index, _index_seeds, "index.npz", _BINARY, tf=True,
    around=_around_index,
  ),
  "records": Reader(
    _read_records, _records_seeds, "x.tfrecord", _BINARY, tf=True
  ),
  "records.index": Reader(
    _read_records_index, _records_index_seeds, "index.npz", _BINARY, tf=True,
    around=lambda folder: None,
  ),
  "features.json": Reader(
    _read_tfds, _tfds_seed, "features.json", (*_JSON, b"antigravity.X"),
    tf=True, around=_around_tfds,
  ),
  "jsonl": Reader(
    _read_jsonl, _lines('{"image": "a.jpg", "label": 1}\n' * 3), "x.jsonl",
    _JSON, tf=True,
  ),
  "csv": Reader(
    _read_csv, _lines("image,label\na.jpg,\"x;y\"\nb.jpg,['u']\n"), "x.csv",
    (b'"', b"\0", b"\xff", b"a" * 200000, b",", b";", b"[" * 9000, b"\n"),
    tf=True,
  ),
  "sentencepiece": Reader(
    _read_sentencepiece, _sentencepiece_seeds, "x.model", _BINARY, tf=True
  ),
  "tokenizer.json": Reader(
    _read_tokenizer, _tokenizer_seeds, "tokenizer.json", _JSON, tf=True
  ),
  "vocab": Reader(
    _read_word_pieces, _lines("[UNK]\n[CLS]\na\nred\n##d\n"), "vocab.txt",
    (b"\xff", b"\0", b"\n\n"), tf=True,
  ),
  "lookup.npz": Reader(
    _read_lookup, lambda: [_npz_bytes(False, fnames=np.array(["a", "b"]))],
    "x.npz", _BINARY, tf=True,
  ),
  "lookup.txt": Reader(
    _read_lookup, _lines("a\nb\nc\n"), "x.txt", (b"\xff", b"\0"), tf=True
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
  name: Reader(read, _lines("seed"), "x.txt")
  for name, read in {
    "crash": _abort, "hang": _spin, "memory": _fill, "unnamed": _stumble,
    "nameless": _whisper,
  }.items()
}  # fmt: skip
ALL = READERS | FAULTS


def mutate(data: bytes, words: tuple[bytes, ...], rng: Any) -> bytes:
  """Damages a content.

  Args:
    data: valid content.
    words: to be put in.
    rng: `random.Random`.

  Returns:
    The damaged content.
  """
  out = bytearray(data)
  for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
    kind = rng.randrange(8)
    at = rng.randrange(len(out) + 1)
    some = rng.randrange(1, 40)
    if kind == 0 and out:  # A bit.
      out[at % len(out)] ^= 1 << rng.randrange(8)
    elif kind == 1 and out:  # A byte.
      out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x30, 0x39))
    elif kind == 2:  # Cut off.
      del out[at:]
    elif kind == 3:  # A piece is missing.
      del out[at : at + some]
    elif kind == 4:  # A piece twice.
      out[at:at] = out[at : at + some] * rng.choice((1, 2, 50))
    elif kind == 5 and words:  # A word over what is there.
      word = rng.choice(words)
      out[at : at + len(word)] = word
    elif kind == 6 and words:  # A word more.
      out[at:at] = rng.choice(words)
    elif kind == 7 and len(out) > 4:  # A length.
      size = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, len(out)))
      out[at : at + 4] = size.to_bytes(4, rng.choice(("little", "big")))
  if out[257:262] == b"ustar" and rng.random() < 0.8:
    _mend_checksums(out)
  return bytes(out)


def _mend_checksums(tar):
  """Makes the headers of a tar file pass their own check."""
  for begin in range(0, len(tar) - 511, 512):
    if tar[begin + 257 : begin + 262] == b"ustar":
      header = tar[begin : begin + 512]
      header[148:156] = b" " * 8
      tar[begin + 148 : begin + 156] = b"%06o\0 " % sum(header)
