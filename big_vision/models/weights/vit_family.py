"""Makes families of ViTs, of text transformers, and of pairs of them.

Names of tensors come in two forms: those of the file, and plain ones, which are
those of `vit_layout`. With two towers plain names begin with "img/" or "txt/".
"""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision.models import vit
from big_vision.models.proj.image_text import text_transformer
from big_vision.models.weights import family, tables, vit_layout
from big_vision.models.weights.family import (
  TEXT_MODEL,
  TWO_TOWERS,
  Family,
  Found,
)


def make(
  name: str,
  library: str,
  kinds: str,
  *,
  read: Callable[[Mapping[str, Any], Mapping[str, tuple[int, ...]]], Found],
  settings: Callable[[Found], dict[str, Any]],
  layout: Callable[[Any, Found], vit_layout.Layout],
  text_layout: Callable[[Any, Found], vit_layout.Layout] | None = None,
  plain: Callable[[str, Found], str | None] = lambda name, found: name,
  named: Callable[[str, Found], str] = lambda name, found: name,
  tokens: Callable[[Any], Sequence[str]] = lambda model: ("cls", "dist"),
  extra: Callable[[Found], dict[str, np.ndarray]] = lambda found: {},
  models: tuple[str, ...] = (),
  prefixes: Mapping[str, tuple[str, ...]] = types.MappingProxyType({}),
) -> Family:
  """Makes a family.

  Args:
    name: see `Family`, as `library`, `kinds` and `read`.
    library: whose it is.
    kinds: what it reads.
    read: reads its settings.
    settings: `Found` -> settings.
    layout: (image model, `Found`) -> names of its tensors.
    text_layout: the same of text models.
    plain: (name of the file, `Found`) -> plain name, or None for tensors that
      are not used.
    named: (plain name, `Found`) -> name of the file.
    tokens: image model -> parts of the layout that have positions in files that
      are written.
    extra: `Found` -> further tensors that the library expects.
    models: see `Family`; by default as there are layouts.
    prefixes: see `Family`.

  Returns:
    The family.
  """
  title = family.title(library, name)

  def image_table(found, model, num):
    model = vit.Model(num, **model)
    names = {**layout(model, found), "title": title}
    table = vit_layout.table(names, model, _positions(model, found))
    return table, names, model

  def text_table(found, model, num):
    assert text_layout is not None
    model = text_transformer.Model(num, **model)
    names = {**text_layout(model, found), "title": title}
    return vit_layout.text_table(names, model, found.text_length)

  def table_of(found):
    """Returns (table, prefix of the image tower, its layout, its model)."""
    if found.model_name == "vit":
      table, names, model = image_table(found, found.model, found.num_classes)
      return table, "", names, model
    if found.model_name == TEXT_MODEL:
      return text_table(found, found.model, found.num_classes), "", {}, None
    for key, known in (("image_model", "vit"), ("text_model", TEXT_MODEL)):
      value = found.model.get(key, known)
      if value != known:
        raise ValueError(
          f"config.model.{key}={value!r}: {title} has {known!r}."
        )
    image_dim, text_dim = out_dims(found)
    table, names, model = image_table(found, found.model["image"], image_dim)
    table = [
      *tables.within(table, "img/"),
      *tables.within(text_table(found, found.model["text"], text_dim), "txt/"),
      *tables.same("logit_scale", "t", 1, there=()),
    ]
    if found.model.get("bias_init") is not None:
      table += tables.same("logit_bias", "b", 1, there=())
    return table, "img/", names, model

  def to_params(tensors, found):
    table, prefix, names, model = table_of(found)
    tensors = {
      new: x
      for old, x in tensors.items()
      if x.size and (new := plain(old, found)) is not None
    }
    for name in ("logit_scale", "logit_bias"):  # Some have a dimension.
      if prefix and name in tensors and tensors[name].size == 1:
        tensors[name] = tensors[name].reshape(())
    if model is not None and (pos := names.get("pos_embedding")):
      having = [prefix + names[p] for p in vit_layout.TOKENS if p in names]
      num = _positions(model, found)
      tensors = vit_layout.fold(tensors, prefix + pos, having, num)
    return tables.to_params(table, tensors, "the checkpoint", title)

  def having_positions(names, prefix, model, tensors):
    if prefix + names.get("pos_embedding", "") not in tensors:
      return []
    names = [prefix + names[p] for p in tokens(model) if p in names]
    return [name for name in names if name in tensors]

  def shapes_of(found: Found) -> tuple[dict[str, Any], dict[str, Any]]:
    table, prefix, names, model = table_of(found)
    shapes = {e.name: e.tensor for e in table}
    for token in having_positions(names, prefix, model, shapes):
      pos = prefix + names["pos_embedding"]
      *first, num, width = shapes[pos]
      num += int(np.prod(shapes[token])) // width
      shapes[pos] = (*first, num, width)
    shapes = {named(k, found): shape for k, shape in shapes.items()}
    more = {k: x.shape for k, x in extra(found).items()}
    return shapes | more, settings(found)

  def to_tensors(params, found):
    table, prefix, names, model = table_of(found)
    tensors = tables.to_tensors(table, params, title)
    having = having_positions(names, prefix, model, tensors)
    if having:
      pos = prefix + names["pos_embedding"]
      tensors = vit_layout.unfold(tensors, pos, having)
    tensors = {named(k, found): x for k, x in tensors.items()}
    return tensors | extra(found), settings(found)

  towers = (TEXT_MODEL, TWO_TOWERS) if text_layout else ()
  models = models or ("vit", *towers)
  return Family(
    name,
    library,
    kinds,
    read,
    to_params,
    to_tensors,
    prefixes,
    models,
    shapes_of,
  )


def out_dims(found: Found) -> tuple[int | None, int | None]:
  """Returns the sizes of the heads of two towers, (image, text)."""
  dim = found.model.get("out_dim", 128)
  return tuple(dim) if isinstance(dim, Sequence) else (dim, dim)


def _positions(model, found):
  """Counts the learned positions of patches."""
  if model.posemb != "learn":
    return 0
  sizes = zip(found.image_size, model.patch_size, strict=True)
  rows, columns = (s // p for s, p in sizes)
  return rows * columns
