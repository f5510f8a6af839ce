"""Valid contents of files of others, which `fuzz.py` damages, and what is around.

Functions `x_seeds` return lists of contents; `around_x` write the other files of a
folder.
"""

import functools
import io
import json
import pathlib
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

GOLDEN = pathlib.Path(__file__).parent / "golden"


def npz_bytes(compressed, **arrays):
  f = io.BytesIO()
  (np.savez_compressed if compressed else np.savez)(f, **arrays)
  return f.getvalue()


@functools.cache
def npz_seeds():
  arrays = {
    "params/head/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "params/head/bias": np.zeros(3, "V2"),
    "step": np.int64(7),
  }
  one = io.BytesIO()
  np.save(one, np.arange(5, dtype=np.int16))
  return [
    npz_bytes(False, **arrays), npz_bytes(True, **arrays), one.getvalue(),
  ]  # fmt: skip


def safetensors_seeds():
  header = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
  }
  text = json.dumps(header).encode()
  return [struct.pack("<Q", len(text)) + text + bytes(range(32))]


def torch_seeds():
  folder = GOLDEN / "torch_files"
  return [(folder / name).read_bytes() for name in ("zip.pth", "older.pth")]


def published(folder):
  source = GOLDEN / "weights" / "transformers" / "vit"
  for name in ("config.json", "model.safetensors"):
    (folder / name).write_bytes((source / name).read_bytes())


def published_config():
  return [(GOLDEN / "weights/transformers/vit/config.json").read_bytes()]


@functools.cache
def checkpoint():
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


def around_checkpoint(folder):
  for name, data in checkpoint().items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def checkpoint_seeds():
  """Each file, after a byte that says which one it is."""
  return [bytes([i]) + data for i, data in enumerate(checkpoint().values())]


@functools.cache
def image_seeds():
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


def tar_bytes(kind, pax=None):
  f = io.BytesIO()
  with tarfile.open(fileobj=f, mode="w", format=kind) as tar:
    contents = {"jpg": b"picture", "cls": b"3", "json": b'{"x": [1]}'}
    names = [
      f"{key}.{ext}" for key in ("a/0", "é/" + "b" * 110) for ext in contents
    ]
    for name in names:
      data = contents[name.rpartition(".")[2]]
      info = tarfile.TarInfo(name)
      info.size, info.pax_headers = len(data), pax or {}
      tar.addfile(info, io.BytesIO(data))
  return f.getvalue()


def tar_seeds():
  pax = {"comment": "x", "size": "4", "SCHILY.xattr.user": "y"}
  return [
    tar_bytes(tarfile.PAX_FORMAT), tar_bytes(tarfile.GNU_FORMAT),
    tar_bytes(tarfile.PAX_FORMAT, pax),
  ]  # fmt: skip


def around_index(folder):
  from big_vision.datasets import shards

  shard = folder / "x.tar"
  shard.write_bytes(tar_bytes(tarfile.GNU_FORMAT))
  shards.open_all([str(shard)], str(folder / "cache"))


@functools.cache
def index_seeds():
  import tempfile

  with tempfile.TemporaryDirectory() as folder:
    around_index(pathlib.Path(folder))
    (stored,) = pathlib.Path(folder, "cache", "index").glob("*.npz")
    return [stored.read_bytes()]


def records_seeds():
  from big_vision.datasets.crc32c import masked_crc32c

  out = b""
  for data in (b"first", b"second" * 9, b""):
    length = struct.pack("<Q", len(data))
    out += length + struct.pack("<I", masked_crc32c(length)) + data
    out += struct.pack("<I", masked_crc32c(data))
  return [out]


def records_index_seeds():
  return [npz_bytes(False, **{"x.tfrecord": np.array([0, 21, 91], np.int64)})]


@functools.cache
def tfds_seed():
  folder = tfds_folder()
  return [(folder / "features.json").read_bytes()]


@functools.cache
def tfds_folder():
  from big_vision.datasets import embedded, tfds

  builder = tfds.get_builder("digits", embedded.default_data_dir())
  return pathlib.Path(builder.data_dir)


def around_tfds(folder):
  for path in tfds_folder().iterdir():
    (folder / path.name).write_bytes(path.read_bytes())


def sentencepiece_seeds():
  from big_vision.pp import sentencepiece_model

  path = sentencepiece_model.KNOWN_TOKENIZERS["shapes"]
  return [pathlib.Path(path).read_bytes()]


@functools.cache
def tokenizer_seeds():
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


def unifont_seeds():
  import gzip

  text = b"0041:0000000018242442427E424242420000\n263A:" + b"0f" * 32 + b"\n"
  return [text, gzip.compress(text, mtime=0)]


def categories_seeds():
  rows = [{"id": 1, "name": "person", "isthing": 1, "supercategory": "x"}]
  rows += [{"id": 7, "name": "sky", "isthing": 0}]
  return [json.dumps(x).encode() for x in (rows, {"categories": rows})]


def coco_png():
  ids = np.array([[1, 1], [2, 0]], np.uint8)
  f = io.BytesIO()
  Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], -1)).save(f, "PNG")
  return f.getvalue()


def coco_zip():
  f = io.BytesIO()
  with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("panoptic_val/5.png", coco_png())
  return f.getvalue()


def coco_json():
  segments = [{"id": 1, "category_id": 1, "area": 2, "iscrowd": 0}]
  segments += [{"id": 2, "category_id": 7}]
  row = {"image_id": 5, "file_name": "5.png", "segments_info": segments}
  return json.dumps({"annotations": [row]}).encode()


def around_coco(folder):
  (folder / "panoptic_val.json").write_bytes(coco_json())
  (folder / "panoptic_val.zip").write_bytes(coco_zip())


def run_seeds():
  config = {"model_name": "vit", "model": {"variant": "mu/16"}, "lr": 1e-3}
  config |= {"input": {"pp": "decode|resize(8)", "data": {"name": "digits"}}}
  return [json.dumps(config).encode()]


def export_seeds():
  return [b'{"format": "none", "inputs": [{"name": "image", "shape": [1]}]}']


def request_seeds():
  return [
    json.dumps({"prompts": ["a dog", "cat"], **image}).encode()
    for image in ({"image": "aGVsbG8="}, {"hash": "00"}, {"example": 1})
  ]


def lines(*texts):
  return lambda: [text.encode() for text in texts]
