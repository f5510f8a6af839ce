"""Trains a sentencepiece vocabulary on texts of a dataset or a file.

  python -m big_vision.tools.train_tokenizer --out=shapes.model --type=bpe \\
      --dataset=shapes --features=captions,qa/question,qa/answer

  python -m big_vision.tools.train_tokenizer --out=my.model \\
      --text=corpus.txt --vocab_size=8000

The first command made the model that the package ships as "shapes". The same
texts and options give the same file, byte by byte. Special pieces: 0 `<pad>`, 1
`</s>`, 2 `<unk>`, 3 `<s>`. All printable ASCII characters are in the vocabulary,
whether they occur or not.
"""

import io
import string
import sys
from collections.abc import Iterable, Iterator, Sequence

from big_vision import command_line, extras, fs

_REQUIRED = string.ascii_letters + string.digits + string.punctuation


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the model.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser("big_vision.tools.train_tokenizer", __doc__)
  parser.add_argument("--out", required=True, help="Path of the new .model.")
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--text", help="Text file, one sentence a line.")
  source.add_argument("--dataset", help="TFDS dataset, for example shapes.")
  parser.add_argument("--split", default="train", help="Of the dataset.")
  parser.add_argument("--data_dir", help="TFDS folder of the dataset.")
  parser.add_argument(
    "--features",
    default="captions",
    help="Of the dataset: strings or lists of strings, separated by commas; "
    "a/b for b inside of a.",
  )
  parser.add_argument("--vocab_size", type=int, default=512, help="At most.")
  parser.add_argument(
    "--type",
    default="unigram",
    choices=["unigram", "bpe"],
    help="Of the model.",
  )
  parser.add_argument(
    "--normalization",
    default="identity",
    help="Rule of sentencepiece, for example nmt_nfkc (adds 240 kB).",
  )
  args = parser.parse_args(argv)
  try:
    if args.text:
      with fs.open(args.text) as f:
        texts = f.read().splitlines()
    else:
      names = args.features.split(",")
      texts = list(
        dataset_texts(args.dataset, args.split, names, args.data_dir)
      )
    model = train(
      texts, args.vocab_size, type=args.type, normalization=args.normalization
    )
  except (ValueError, FileNotFoundError, ModuleNotFoundError) as e:
    if args.debug:
      raise
    from big_vision.training import user_errors

    print(f"Error: {user_errors.message(e)}", file=sys.stderr)
    return 1
  with fs.open(args.out, "wb") as f:
    f.write(model)
  print(f"Wrote {args.out}, {len(model):,} bytes, from {len(texts):,} texts")
  return 0


def dataset_texts(
  name: str, split: str, features: Sequence[str], data_dir: str | None = None
) -> Iterator[str]:
  """Yields the texts of a TFDS dataset, in the order of its files.

  Args:
    name: a prepared or an embedded dataset.
    split: a TFDS split.
    features: "a/b" for the feature b inside of a.
    data_dir: TFDS folder.

  Yields:
    The texts.

  Raises:
    ValueError: the dataset, split or feature does not exist, or the feature is
      not a text.
  """
  import tensorflow_datasets as tfds

  from big_vision import lookup
  from big_vision.datasets import embedded
  from big_vision.datasets import tfds as tfds_source

  builder = tfds_source.get_builder(name, embedded.default_data_dir(data_dir))
  tfds_source.check_split(builder, split)
  texts = [
    "/".join(path)
    for path, feature in _leaves(builder.info.features)
    if isinstance(feature, tfds.features.Text)
  ]
  for feature in features:
    if feature not in texts:
      raise lookup.unknown(f"text feature of {name!r}", feature, texts)
  wanted = {}
  for feature in features:
    *parents, leaf = feature.split("/")
    inner = wanted
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[leaf] = True
  ds = builder.as_dataset(
    split=split,
    decoders=tfds.decode.PartialDecoding(wanted),
    shuffle_files=False,
  )
  for example in tfds.as_numpy(ds):
    for feature in features:
      value = example
      for key in feature.split("/"):
        value = value[key]
      values = [value] if isinstance(value, bytes) else value.ravel()
      yield from (v.decode() for v in values)


def train(
  texts: Iterable[str],
  vocab_size: int,
  *,
  type: str = "unigram",
  normalization: str = "identity",
) -> bytes:
  """Trains a sentencepiece model.

  Args:
    texts: iterable of str.
    vocab_size: largest number of pieces; the texts may give fewer.
    type: "unigram" or "bpe".
    normalization: name of a rule of sentencepiece.

  Returns:
    bytes of the model.

  Raises:
    ValueError: there are no texts, or sentencepiece refuses the options.
  """
  sentencepiece = extras.load("sentencepiece")
  texts = [t for t in texts if t.strip()]
  if not texts:
    raise ValueError("There are no texts to train on.")
  out = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      # Not from and to files: their names would be in the model.
      sentence_iterator=iter(texts),
      model_writer=out,
      vocab_size=vocab_size,
      hard_vocab_limit=False,
      model_type=type,
      normalization_rule_name=normalization,
      character_coverage=1.0,
      required_chars=_REQUIRED,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=3,
      num_threads=1,  # Sums over more threads depend on their timing.
      minloglevel=2,
    )
  except (RuntimeError, OSError) as e:
    raise ValueError(f"sentencepiece: {e}") from e
  return out.getvalue()


def _leaves(features, path=()):
  """Yields (path, feature) of all leaves; a list counts as its elements."""
  inner = getattr(features, "feature", features)  # Of a sequence.
  if hasattr(inner, "items"):
    for key, value in inner.items():
      yield from _leaves(value, (*path, key))
  else:
    yield path, inner


if __name__ == "__main__":
  sys.exit(main())
