"""Finding the images in folders of classes, in one order for all hosts."""

from __future__ import annotations

import collections
import concurrent.futures
import posixpath
from collections.abc import Sequence

from absl import logging

from big_vision import fs, lookup
from big_vision.datasets import slices

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_NUM_THREADS = 32  # To list a remote folder is mostly to wait.
_SPLITS = frozenset(
  "train training val valid validation dev test testing eval".split()
)


def list_splits(
  root: str, names: Sequence[str], classes: Sequence[str] | None = None
) -> tuple[Sequence[str], dict[str, tuple[list[str], list[str]]]]:
  """Lists the images of some splits.

  Args:
    root: ends in "/".
    names: sub-folders of `root` to list; "all" is `root` itself.
    classes: names of the classes, or None: those of the folders.

  Returns:
    (classes, dict of split name -> (files, class names)): lists of paths
    relative to `root` and of their classes, sorted folder by folder.

  Raises:
    ValueError: no such split, no images, folders that are not in `classes`.
  """
  folders, _ = _scan(root)
  for name in names:
    if name != slices.ALL and name not in folders:
      raise lookup.unknown(
        f"split (sub-folder of {root})", name, folders, "input.data.split"
      )
  looks_split = folders and _SPLITS.issuperset(f.lower() for f in folders)
  if slices.ALL in names and looks_split and classes is None:
    raise ValueError(
      f"config.input.data.split: {root} has the sub-folders {folders}, which "
      "look like splits, not like classes. Set split to one of them (to join "
      f"them: {'+'.join(folders)!r})."
    )
  bases = {n: "" if n == slices.ALL else n + "/" for n in names}
  found = {n: _class_folders(root, base) for n, base in bases.items()}
  if classes is None:
    classes = _all_classes(root, folders, found)
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    out = {}
    for name, base in bases.items():
      _check_classes(root + base, found[name], classes)
      one = lambda c, base=base: _list_images(root, f"{base}{c}/")
      out[name] = _join(root + base, found[name], pool.map(one, found[name]))
  return classes, out


def split_names(root: str) -> list[str]:
  """Lists the sub-folders that are splits, not classes.

  Args:
    root: ends in "/".

  Returns:
    Names such as "train" and "val"; none if no training data is among them: a
    class may be called "train", but then it has no sub-folders.
  """
  splits = [
    name
    for name in _scan(root)[0]
    if name.lower() in _SPLITS and _scan(root + name)[0]
  ]
  return splits if any(s.lower().startswith("train") for s in splits) else []


def _class_folders(root, base):
  folders, files = _scan(root + base)
  if not folders and any(_is_image(f) for f in files):
    raise ValueError(
      f"config.input.data.path: the images of {root + base} are not in folders "
      "of classes. Move them there, or give a CSV file as data.labels."
    )
  return folders


def _all_classes(root, folders, found):
  """Lists the classes of the splits in `found` and of those that go with them.

  A class may be absent from one split: labels must not depend on that. A folder
  beside that has none of the classes is not a split of this dataset.
  """
  classes = set().union(*found.values())
  if slices.ALL in found:
    return sorted(classes)
  others = [set(_scan(root + f)[0]) for f in folders if f not in found]
  while related := [other for other in others if other & classes]:
    classes = classes.union(*related)
    others = [other for other in others if other not in related]
  return sorted(classes)


def _check_classes(folder, found, classes):
  known = set(classes)
  for name in found:
    if name not in known:
      raise ValueError(
        f"config.input.data.classes: the folder {folder + name} is none of the "
        f"{len(classes)} classes{lookup.did_you_mean(name, classes)}"
      )


def _join(folder, names, listings):
  """Joins the listings of class folders."""
  files, classes, others = [], [], collections.Counter()
  for name, (images, ignored) in zip(names, listings, strict=True):
    files += images
    classes += [name] * len(images)
    others += ignored
  other_text = ", ".join(f"{n} of type {k!r}" for k, n in others.items())
  if not files:
    raise ValueError(
      f"config.input.data.path: no images ({', '.join(EXTENSIONS)}) in the "
      f"sub-folders of {folder}"
      + (f", but other files: {other_text}." if others else ".")
    )
  if others:
    logging.warning("%s: left out files that are %s.", folder, other_text)
  return files, classes


def _list_images(root, base):
  """(paths of images below, Counter of the extensions of other files)."""
  images, others = [], collections.Counter()
  for name, is_folder in _entries(root + base):
    if is_folder:
      more, ignored = _list_images(root, f"{base}{name}/")
      images += more
      others += ignored
    elif _is_image(name):
      images.append(base + name)
    else:
      others[posixpath.splitext(name)[1].lower()] += 1
  return images, others


def _is_image(name):
  return name.lower().endswith(EXTENSIONS)


def _scan(path):
  """Lists a folder: sorted names of (folders, files)."""
  entries = _entries(path)
  folders = [name for name, is_folder in entries if is_folder]
  return folders, [name for name, is_folder in entries if not is_folder]


def _entries(path):
  """Lists (name, is it a folder), sorted, without hidden ones."""
  entries = fs.scan(path, _is_image)
  return [e for e in entries if not e[0].startswith((".", "__MACOSX"))]
