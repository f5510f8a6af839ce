"""Builds TFDS datasets from the files that their authors publish.

One module per dataset, `big_vision.datasets.<folder>.<folder>`, has a `Builder`
that reads files which one has downloaded by hand:

  python -m big_vision.tools.prepare okvqa --source DIR

or, in the folder of this file, with TFDS' command, which needs apache-beam:

  tfds build --datasets=okvqa --manual_dir=DIR

Without DIR the files are expected in `downloads/manual/<name>` of the TFDS
folder.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import tensorflow_datasets as tfds

from big_vision import fs, lookup, untrusted
from big_vision.datasets import embedded
from big_vision.pp import decoding

# TFDS name, as configs ask for it -> module that has its builder.
MODULES = {
  name: f"big_vision.datasets.{folder}.{folder}"
  for name, folder in {
    "ai2d": "ai2d",
    "aokvqa": "aokvqa",
    "chartqa": "chartqa",
    "coco35l": "coco35l",
    "countbenchqa": "countbenchqa",
    "docvqa": "docvqa",
    "gqa": "gqa",
    "infovqa": "infovqa",
    "marvl": "marvl",
    "nlvr2": "nlvr2",
    "nocaps": "nocaps",
    "ocrvqa_id": "ocrvqa_id",
    "okvqa": "okvqa",
    "pope_adversarial": "pope",
    "pope_popular": "pope",
    "pope_random": "pope",
    "ref_coco_bv": "refcoco",
    "rsvqa_hr": "rsvqa_hr",
    "rsvqa_lr": "rsvqa_lr",
    "science_qa": "science_qa",
    "scicap": "scicap",
    "screen2_words": "screen2words",
    "stvqa": "stvqa",
    "tallyqa": "tallyqa",
    "text_caps": "textcaps",
    "textvqa": "textvqa",
    "vizwizvqa": "vizwizvqa",
    "vqa": "vqa",
    "widgetcap": "widgetcap",
    "xgqa": "xgqa",
    "xm3600": "xm3600",
  }.items()
}
_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|tar\.bz2|7z)$", re.I)
# First bytes of a format -> what is near the end of its complete files.
_ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND"}
_MAX_TAIL = 1024  # Bytes that may follow the end of an image.
# What is between the entries of a JSON object.
_START, _COLON, _COMMA = (
  re.compile(rf"\s*{c}\s*") for c in (r"\{", ":", "(?:,|(?=\\}))")
)
_CHUNK = 1 << 20  # Characters.
_MAX_ENTRY = 1 << 26  # Longer ones are damage.

# What a split consists of: (unique key, features) for each example.
Examples = Iterable[tuple[str | int, dict[str, Any]]]
Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Download:
  """One file or archive that a dataset needs.

  Attributes:
    url: where it is; a page, if `manual`.
    path: where it is expected below the source folder: the file, or what an
      archive has in it.
    what: what it is, for people.
    into: folder below the source folder that an archive is unpacked into.
    manual: whether a person has to fetch it with a browser, since there is a
      form, a login or a page between.
    also: other places for what `path` names, such as where other versions of
      the archive have it.
    splits: those that need it; () means all.
  """

  url: str
  path: str
  what: str = ""
  into: str = ""
  manual: bool = False
  also: tuple[str, ...] = ()
  splits: tuple[str, ...] = ()

  @property
  def unpack(self) -> bool:
    """Whether the URL is an archive, of which `path` is the content."""
    return bool(_ARCHIVE.search(self.url)) and not _ARCHIVE.search(self.path)

  def __str__(self) -> str:
    what = f" ({self.what})" if self.what else ""
    into = f", unpacked into {self.into or '.'}" if self.unpack else ""
    return f"{self.path}{what}: from {self.url}{into}"


class Builder(embedded.Builder, skip_registration=True):
  """Builds one dataset from files in a folder; the base of such builders.

  A subclass has the attributes below, `features` and `splits`. It may well have
  `BUILDER_CONFIGS`, TFDS' variants.

  Attributes:
    name: of the dataset, as configs ask for it.
    DESCRIPTION: one sentence.
    HOMEPAGE: page of the dataset's authors.
    LICENSE: as its authors state it, short.
    DOWNLOADS: the files.
    source: folder with the files.

  Args:
    source: folder with the files; None means that of TFDS for what is
      downloaded by hand, see `default_source`.
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, and without that
      ~/tensorflow_datasets.
    config: name of one of `BUILDER_CONFIGS`; None means the first.
    version: of the dataset, for TFDS; None means `VERSION`.
    only: names of the splits to build; None means all.
    **kw: what TFDS adds, such as `file_format`.

  Raises:
    ValueError: no such config or version.
  """

  DESCRIPTION: str = ""
  HOMEPAGE: str = ""
  LICENSE: str = "see homepage"
  DOWNLOADS: tuple[Download, ...] = ()
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}

  def __init_subclass__(cls, skip_registration: bool = True, **kw: Any):
    super().__init_subclass__(skip_registration=skip_registration, **kw)
    # Without instructions TFDS refuses `--manual_dir`.
    cls.MANUAL_DOWNLOAD_INSTRUCTIONS = "\n".join(map(str, cls.DOWNLOADS)) or "-"

  def __init__(
    self,
    *,
    source: str | None = None,
    data_dir: str | None = None,
    config: Any = None,
    version: Any = None,
    only: Sequence[str] | None = None,
    **kw: Any,
  ):
    super().__init__(
      data_dir=embedded.default_data_dir(data_dir),
      config=config,
      version=version,
      **kw,
    )
    # TFDS makes copies from these.
    self._original_state |= {"source": source, "only": only}
    self._only = only
    self._is_given = source is not None
    if source is None:
      source = default_source(self.name, self._data_dir_root)
    self.source = os.path.expanduser(os.fspath(source))

  def features(self) -> dict[str, Any]:
    """Describes an example.

    Returns:
      Dict of TFDS features.
    """
    raise NotImplementedError

  def splits(self) -> dict[str, Examples]:
    """Reads the examples.

    Returns:
      Name of a split -> pairs (key, features) in any order, which is the same
      each time. TFDS orders them by a hash of the key, a string or number that
      no other example of the split has. Images are encoded bytes.
    """
    raise NotImplementedError

  def downloads(self) -> tuple[Download, ...]:
    """Lists the files that this config needs.

    Returns:
      `DOWNLOADS`, unless the subclass knows better.
    """
    return self.DOWNLOADS

  def needed(self) -> list[Download]:
    """Lists the files that the chosen splits need.

    Returns:
      Those of `downloads`.
    """
    only = set(self._only or ())
    return [
      d
      for d in self.downloads()
      if not only or not d.splits or only.intersection(d.splits)
    ]

  def missing(self) -> list[Download]:
    """Lists what is to be downloaded yet.

    Returns:
      Those of `downloads` that are not in the source folder.
    """
    return [d for d in self.needed() if self._find(d.path) is None]

  def exists(self, *parts: str) -> bool:
    """Tells whether there is a file or folder below the source folder.

    Args:
      *parts: as in `path`.

    Returns:
      bool.
    """
    return self._find("/".join(parts)) is not None

  def path(self, *parts: str) -> str:
    """Finds a file or folder below the source folder.

    Args:
      *parts: its relative path, as `Download.path` has it; it may as well be
        in one of the places of `Download.also`.

    Returns:
      Its path.

    Raises:
      ConfigError: it is not there; says where it comes from.
    """
    path = "/".join(parts)
    found = self._find(path)
    if found is None:
      raise lookup.ConfigError(
        f"{self.name}: there is no {fs.join(self.source, path)}"
        f"{self._origin(path)}"
      )
    return found

  def _find(self, path):
    """Path of what `path` or one of its other places has; None if none does."""
    places = [path]
    for d in self.downloads():
      if f"{path}/".startswith(f"{d.path}/"):
        places += [f"{place}{path.removeprefix(d.path)}" for place in d.also]
    for place in places:
      found = fs.join(self.source, place)
      if fs.exists(found):
        return found
    return None

  def image(self, *parts: str) -> bytes:
    """Reads an image below the source folder.

    Args:
      *parts: its relative path.

    Returns:
      The encoded bytes as they are.

    Raises:
      ConfigError: it is missing or damaged; says where it comes from.
    """
    path = self.path(*parts)
    content = read_bytes(path)
    if not is_image(content):
      raise lookup.ConfigError(
        f"{self.name}: {path} is not an image, or cut off"
        f"{self._origin('/'.join(parts))}"
      )
    return content

  def _origin(self, path):
    """Ends an error about a file: where it is from."""
    known = [d for d in self.downloads() if f"{path}/".startswith(f"{d.path}/")]
    if not known:
      return f". The dataset's homepage is {self.HOMEPAGE}"
    best = max(known, key=lambda d: len(d.path))
    return f". It belongs to {best}"

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION,
      features=tfds.features.FeaturesDict(self.features()),
      homepage=self.HOMEPAGE,
      license=self.LICENSE,
    )

  def _split_generators(self, dl_manager):
    if not self._is_given:
      self._find_source(dl_manager)
    self.check()
    splits = self.splits()
    for name in self._only or ():
      if name not in splits:
        raise lookup.unknown(f"split of {self.name}", name, splits)
    return {
      k: self._checked(k, v)
      for k, v in splits.items()
      if not self._only or k in self._only
    }

  def _checked(self, split, examples):
    """Says of which dataset the files are if they lack what is read."""
    try:
      is_empty = True
      for example in examples:
        is_empty = False
        yield example
    except (AttributeError, IndexError, KeyError, TypeError) as e:
      raise lookup.ConfigError(
        f"{self.name}: the files of the split {split!r} in {self.source} are "
        f"not what its authors publish ({type(e).__name__}: {e!s:.200}). See "
        f"{self.HOMEPAGE}"
      ) from e
    if is_empty:
      raise lookup.ConfigError(
        f"{self.name}: the files of the split {split!r} in {self.source} have no "
        "examples. Leave it out by --splits, or see "
        f"{self.HOMEPAGE}"
      )

  def _generate_examples(self, *args):  # TFDS wants one, and does not call it.
    raise NotImplementedError

  def _find_source(self, dl_manager):
    """Takes the folder of `tfds build --manual_dir`, or that in it."""
    try:
      manual = os.fspath(dl_manager.manual_dir)
    except AssertionError:  # Not there: `check` says what should be.
      return
    own = fs.join(manual, self.name)
    if not fs.exists(own) and own != self.source:
      own = manual
    self.source = own

  def write(self) -> None:
    """Writes the dataset into the TFDS folder unless it is there already.

    Raises:
      ValueError: files are missing or damaged.
    """
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    self.download_and_prepare(download_config=config)

  def check(self) -> None:
    """Checks that everything is in the source folder.

    Raises:
      ConfigError: lists what is not.
    """
    missing = self.missing()
    if missing:
      lines = "".join(f"\n  {d}" for d in missing)
      raise lookup.ConfigError(
        f"{self.name}: {len(missing)} of {len(self.needed())} downloads are "
        f"missing in the folder {self.source}:{lines}\nDownload them, or name "
        "the folder that has them: python -m big_vision.tools.prepare "
        f"{self.name} --source=DIR"
      )


def default_source(name: str, data_dir: str | None = None) -> str:
  """Returns the folder for files of a dataset that are downloaded by hand.

  Args:
    name: of the dataset.
    data_dir: the TFDS folder; None means $TFDS_DATA_DIR, and without that
      ~/tensorflow_datasets.

  Returns:
    `downloads/manual/<name>` in the TFDS folder.
  """
  root = embedded.default_data_dir(data_dir) or "~/tensorflow_datasets"
  root = os.path.expanduser(os.fspath(root))
  return fs.join(root, "downloads", "manual", name)


def builder_class(name: str) -> type[Builder]:
  """Finds the builder of a dataset.

  Args:
    name: one of `MODULES`.

  Returns:
    The class.

  Raises:
    ValueError: no such dataset; names the nearest ones.
  """
  if name not in MODULES:
    raise lookup.unknown("dataset", name, MODULES)
  module = importlib.import_module(MODULES[name])
  for found in vars(module).values():
    if isinstance(found, type) and issubclass(found, Builder):
      if found.name == name:
        return found
  raise AssertionError(f"{MODULES[name]} has no builder {name!r}.")


def builders(
  name: str,
  source: str | None = None,
  data_dir: str | None = None,
  config: str | None = None,
  only: Sequence[str] | None = None,
) -> list[Builder]:
  """Makes the builders of a dataset.

  Args:
    name: one of `MODULES`.
    source: see `Builder`.
    data_dir: see `Builder`.
    config: see `Builder`; None means all of them.
    only: see `Builder`.

  Returns:
    One, or one per config.

  Raises:
    ValueError: no such dataset or config.
  """
  cls = builder_class(name)
  known = [c.name for c in cls.BUILDER_CONFIGS]
  if config is not None and config not in known:
    raise lookup.unknown(f"config of the dataset {name!r}", config, known)
  return [
    cls(source=source, data_dir=data_dir, config=chosen, only=only)
    for chosen in ([config] if config or not known else known)
  ]


def prepare(
  name: str,
  source: str | None = None,
  data_dir: str | None = None,
  config: str | None = None,
  only: Sequence[str] | None = None,
) -> list[Builder]:
  """Writes a dataset below `data_dir` unless it is there already.

  Args:
    name: see `builders`.
    source: see `builders`.
    data_dir: see `builders`.
    config: see `builders`.
    only: see `builders`; a dataset that is there is not extended.

  Returns:
    Those of `builders`.

  Raises:
    ValueError: no such dataset or config, or files are missing or damaged.
  """
  made = builders(name, source, data_dir, config, only)
  for builder in made:
    builder.write()
  return made


def read_bytes(path: str) -> bytes:
  """Reads a file.

  Args:
    path: path.

  Returns:
    Its content.
  """
  with fs.open(path, "rb") as f:
    return f.read()


def read_json(path: str) -> Any:
  """Reads a JSON file.

  Args:
    path: path.

  Returns:
    The value.

  Raises:
    ConfigError: it is not JSON; names the file.
  """
  try:
    return untrusted.json_value(read_bytes(path))
  except ValueError as e:
    raise _damaged(path, e) from e


def read_jsonl(path: str) -> Iterator[Any]:
  """Reads a file with one JSON value per line, line by line.

  Args:
    path: path.

  Yields:
    The values; empty lines are left out.

  Raises:
    ConfigError: a line is not JSON; names the file and the line.
  """
  with fs.open(path, "rb") as f:
    for number, line in enumerate(f, 1):
      if line.strip():
        try:
          yield untrusted.json_value(line)
        except ValueError as e:
          raise _damaged(f"{path}, line {number}", e) from e


def read_items(path: str) -> Iterator[tuple[str, Any]]:
  """Reads a JSON object entry by entry, for files larger than memory.

  Args:
    path: path.

  Yields:
    (key, value).

  Raises:
    ConfigError: it is not a JSON object, or cut off; names the file.
  """
  decode = json.JSONDecoder().raw_decode
  with fs.open(path, "rb") as f:
    text = io.TextIOWrapper(f, encoding="utf-8")
    buffer, position, start = "", 0, _START
    while True:
      try:
        end = _skip(start, buffer, position)
        if buffer[end] == "}":
          return
        key, end = decode(buffer, end)
        value, end = decode(buffer, _skip(_COLON, buffer, end))
        buffer[end]  # Else a number may go on.
      except (ValueError, IndexError) as e:
        buffer, position = buffer[position:], 0
        more = text.read(_CHUNK) if len(buffer) < _MAX_ENTRY else ""
        if not more:
          raise _damaged(path, e) from e
        buffer += more
      else:
        yield key, value
        position, start = end, _COMMA


def _skip(pattern, buffer, position):
  """Position after what has to come next."""
  match = pattern.match(buffer, position)
  if not match:
    raise ValueError(f"{buffer[position : position + 20]!r} is unexpected")
  return match.end()


def read_csv(path: str, delimiter: str = ",") -> Iterator[dict[str, str]]:
  """Reads a table whose first line has the names of the columns.

  Args:
    path: path; the text is UTF-8.
    delimiter: what is between columns.

  Yields:
    A dict per row: column -> text.

  Raises:
    ConfigError: it is not a table; names the file.
  """
  with fs.open(path, "rb") as f:
    text = io.TextIOWrapper(f, encoding="utf-8-sig", newline="")
    rows = csv.DictReader(text, delimiter=delimiter)
    try:
      for row in rows:
        if None in row or None in row.values():
          raise ValueError(f"line {rows.line_num} has other columns")
        yield row
    except (ValueError, csv.Error) as e:
      raise _damaged(path, e) from e


def _damaged(where, error):
  return lookup.ConfigError(
    f"{where} is damaged ({error!s:.200}): download it again."
  )


def is_image(content: bytes) -> bool:
  """Tells whether bytes are an image that the preprocessing can decode.

  JPEG and PNG images that are complete by their first and last bytes are not
  decoded: that would take hours for millions.

  Args:
    content: of a file.

  Returns:
    bool.
  """
  for start, end in _ENDS.items():
    if content.startswith(start) and end in content[-_MAX_TAIL:]:
      return True
  try:
    decoding.decode(content)
  except ValueError:
    return False
  return True


def group_by(
  rows: Iterable[Row], key: Callable[[Row], Key]
) -> dict[Key, list[Row]]:
  """Groups rows that have the same key.

  Args:
    rows: anything.
    key: function of a row.

  Returns:
    Key -> its rows; both in the order of `rows`.
  """
  groups = {}
  for row in rows:
    groups.setdefault(key(row), []).append(row)
  return groups


def coco_name(image_id: int, part: str = "") -> str:
  """Returns the file name of an image of COCO.

  Args:
    image_id: COCO's number.
    part: "train2014", "val2014" or "test2015", whose names have it in them;
      "" for those of 2017, whose names do not.

  Returns:
    For example "COCO_val2014_000000000042.jpg", or "000000000042.jpg".
  """
  prefix = f"COCO_{part}_" if part else ""
  return f"{prefix}{image_id:012d}.jpg"


def coco_images(part: str, splits: Sequence[str] = ()) -> Download:
  """Describes an archive of images of COCO.

  Args:
    part: such as "train2014", "val2017" or "test2015".
    splits: see `Download`.

  Returns:
    Download of a folder of that name.
  """
  url = f"http://images.cocodataset.org/zips/{part}.zip"
  return Download(url, part, "images of COCO", splits=tuple(splits))
