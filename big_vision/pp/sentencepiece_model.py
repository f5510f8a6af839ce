"""Sentencepiece models: finds and loads their files, and adds pieces."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from big_vision import download, extras, fs, lookup

_PACKAGE = pathlib.Path(__file__).parent
_T5 = "gs://t5-data/vocabs"

KNOWN_TOKENIZERS = {
  "mc4": f"{_T5}/mc4.250000.100extra/sentencepiece.model",
  "mt5": f"{_T5}/mc4.250000.100extra/sentencepiece.model",
  "cc_all": f"{_T5}/cc_all.32000/sentencepiece.model",
  "c4_en": f"{_T5}/cc_en.32000/sentencepiece.model",
  "t5": f"{_T5}/cc_all.32000.100extra/sentencepiece.model",
  # Comes with the package, made by tools/train_tokenizer.py.
  "shapes": str(_PACKAGE / "vocabs" / "shapes.model"),
}


def read(model: str) -> bytes:
  """Reads a model.

  Args:
    model: str, one of KNOWN_TOKENIZERS, or a path or URL, see `download.py`.

  Returns:
    bytes, a serialized `ModelProto` of sentencepiece.

  Raises:
    ValueError: the file does not exist, or is not a model.
  """
  uri = KNOWN_TOKENIZERS.get(model, model)
  if fs.is_local(uri) and not os.path.exists(uri.partition("#sha256=")[0]):
    raise ValueError(
      f"Sentencepiece model {model!r}: no such file or name of a known model"
      f"{lookup.did_you_mean(model, KNOWN_TOKENIZERS)}"
    )
  if uri.partition("#")[0].endswith(".json"):
    raise lookup.ConfigError(
      f"{model!r} is a file for the package tokenizers, not a sentencepiece model: "
      f"write the tokenizer hf({model!r})."
    )
  path = download.fetch(uri)
  with open(path, "rb") as f:
    data = f.read()
  try:
    processor(data)
  except RuntimeError as e:
    raise ValueError(f"{path} is not a sentencepiece model: {e}") from e
  return data


@functools.lru_cache(maxsize=16)
def processor(model_bytes: bytes) -> Any:
  """Makes the processor of a model; the same object for the same bytes.

  Encoding and decoding do not change it, so threads may share it. Options must
  be passed with each call, never set on the object.

  Args:
    model_bytes: bytes of the model.

  Returns:
    `sentencepiece.SentencePieceProcessor`.
  """
  # Here, since it is needed only to tokenize.
  sentencepiece = extras.load("sentencepiece")
  return sentencepiece.SentencePieceProcessor(model_proto=model_bytes)


def add_pieces(
  model_bytes: bytes, pieces: Sequence[str]
) -> tuple[bytes, list[int]]:
  """Makes a model in which certain strings are pieces of their own.

  A piece that the model has already is replaced in place, which makes a control
  token visible when decoding; others are appended, in this order. A model must
  have an unknown piece, which therefore keeps its type, but decodes to its own
  name.

  Args:
    model_bytes: bytes of the model.
    pieces: list of str.

  Returns:
    (bytes of the new model, list of the ids of `pieces`).
  """
  from sentencepiece import sentencepiece_model_pb2 as pb2

  model = pb2.ModelProto.FromString(model_bytes)
  kinds = pb2.ModelProto.SentencePiece
  index = {p.piece: i for i, p in enumerate(model.pieces)}
  ids = []
  for text in pieces:
    piece = text.replace(" ", "\u2581")
    if piece not in index:
      index[piece] = len(model.pieces)
      model.pieces.add()
    ids.append(index[piece])
    entry = model.pieces[index[piece]]
    if entry.type == kinds.UNKNOWN:
      model.trainer_spec.unk_surface = text
    else:
      new = kinds(piece=piece, score=0.0, type=kinds.USER_DEFINED)
      entry.CopyFrom(new)
  return model.SerializeToString(), ids
