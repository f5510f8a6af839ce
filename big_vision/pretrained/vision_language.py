"""A model that answers about pictures: PaliGemma, trained or published.

  m = pretrained.load("workdirs/forkme")
  m.answer(["cat.jpg"], ["caption en"])[0].text
  m.answer(["cat.jpg"], ["detect cat"])[0].objects
  for piece in m.stream("cat.jpg", "describe en"): print(piece, end="")

Shapes: I pictures, T tokens of a prompt, L of an answer, V vocabulary.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from big_vision.models.proj.paligemma import decode, locations
from big_vision.pretrained import backbone, preprocessing
from big_vision.pretrained.embedder import Prepared
from big_vision.pretrained.pixels import Preprocess
from big_vision.types import Batch, ConfigLike

MODELS = ("proj.paligemma.paligemma",)
MAX_LEN = 64
BATCH_SIZE = 16
# Of PaliGemma, where a config does not say it.
_TOKENIZER = 'gemma(tokensets=("loc", "seg"))'
_SEPARATOR = "\n"
# The first of these ops in a preprocessing ends that of pictures.
_OF_TEXTS = (
  "boxes2str", "choice", "copy", "drop", "flatten", "getidx", "keep",
  "masked_concat", "setdefault", "strfmt", "strjoin", "tok", "tolen",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Answer:
  """Holds what a model says about a picture.

  Attributes:
    text: the answer.
    tokens: its tokens, without the end.
    logp: their log-probabilities, with that of the end; None of a beam search.
  """

  text: str
  tokens: tuple[int, ...]
  logp: tuple[float, ...] | None

  @property
  def objects(self) -> list[Any]:
    """Boxes and masks in the text, see `locations.parse`."""
    return locations.parse(self.text)


class VisionLanguage:
  """A model with its parameters, preprocessing and tokenizer.

  Attributes:
    config: ConfigDict of the run, or what one needs to use this model.
    model: linen module.
    params: tree of arrays on the first device.
    preprocess: picture -> the model's input, without a batch axis.
    pp: preprocessing string of pictures.
    tokenizer: from text to tokens and back.
    name: where the parameters are from.
    smallest_prompt: tokens, to which shorter prompts are padded; longer ones are to
      a power of two.
  """

  smallest_prompt = 16

  def __init__(
    self,
    config: ConfigLike,
    init: str,
    *,
    pp: Preprocess,
    pp_txt: str | None = None,
    name: str | None = None,
  ) -> None:
    """Builds the model and loads its parameters.

    Args:
      config: reads the model's keys, and how prompts become tokens.
      init: a checkpoint of the model, or any that `config.model_init` may be.
      pp: preprocessing of pictures.
      pp_txt: preprocessing of prompts, with the op `tok` for the text after them;
        None is that of the config.
      name: None is `init`.

    Raises:
      ValueError: the checkpoint does not fit the model.
    """
    from big_vision.pp import tokenizer

    self.config, self.name = config, name or init
    self.preprocess, self.pp = pp, pp.pp
    tokens, self._separator = texts_of(
      [pp_txt] if pp_txt else preprocessing.all_pps(config)
    )
    self.tokenizer: Any = tokenizer.get_tokenizer(tokens)
    text = np.zeros((1, 1), np.int32)
    self.model, self.params = backbone.load_network(
      config, "model", init, pp.example(), text, text
    )
    self._compiled = functools.lru_cache(None)(self._compile)
    self._streams = functools.lru_cache(None)(self._stream)

  def prepare(self, image: Any) -> Prepared:
    """Reads and preprocesses a picture, also in another thread.

    Args:
      image: path, content of a file, image of Pillow, or uint8 [H, W, C]; what is
        prepared stays as it is.

    Returns:
      What `answers` takes.

    Raises:
      ValueError: it is not a picture.
    """
    if isinstance(image, Prepared):
      return image
    return Prepared(self.preprocess(image))

  def answer(
    self, images: Sequence[Any], prompts: Sequence[str], **kw: Any
  ) -> list[Answer]:
    """Answers prompts about pictures.

    Args:
      images: list of what `prepare` takes.
      prompts: one for each picture, such as "caption en".
      **kw: see `answers`.

    Returns:
      List of I answers.

    Raises:
      ValueError: as `prepare` and `answers`.
    """
    prepared = [self.prepare(image) for image in backbone.listed(images)]
    return self.answers(prepared, prompts, **kw)

  def answers(
    self,
    prepared: Sequence[Prepared],
    prompts: Sequence[str],
    *,
    max_len: int = MAX_LEN,
    sampler: str = "greedy",
    best_of_n: int = 1,
    beam_size: int = 0,
    seed: int = 0,
    only: Iterable[str] = (),
    batch_size: int = BATCH_SIZE,
  ) -> list[Answer]:
    """Answers prompts about prepared pictures.

    Args:
      prepared: results of `prepare`.
      prompts: one for each.
      max_len: L, at most so many tokens.
      sampler: "greedy", "temperature(t)" or "nucleus(p, t)".
      best_of_n: of so many answers the most probable one is returned.
      beam_size: looks for the most probable answer, with so many at a time; 0
        draws.
      seed: of what is drawn.
      only: sets of tokens, such as "loc", which alone may be drawn, besides the
        end.
      batch_size: pictures at once on the device; all batches have this size.

    Returns:
      List of answers.

    Raises:
      ValueError: not as many prompts as pictures, or an unknown sampler.
    """
    if isinstance(prompts, str) or len(prepared) != len(prompts):
      raise ValueError(
        f"{len(prepared)} pictures need as many prompts, in a list; there are "
        f"{1 if isinstance(prompts, str) else len(prompts)}."
      )
    kw: dict[str, Any] = dict(sampler=sampler, best_of_n=best_of_n)
    kw = dict(beam_size=beam_size) if beam_size else kw
    run = self._compiled(max_len, **kw)
    batch_size = min(batch_size, len(prompts))
    # Of similar length together: fewer programs, less padding.
    tokens = [self.prompt(text) for text in prompts]
    order = sorted(range(len(tokens)), key=lambda i: self._padded(tokens[i]))
    out: list[Any] = [None] * len(tokens)
    for first in range(0, len(order), batch_size):
      rows = order[first : first + batch_size]
      batch = self.batch(
        [prepared[i] for i in rows], [tokens[i] for i in rows], only, batch_size
      )
      args = () if beam_size else (jax.random.PRNGKey(seed),)
      found = jax.device_get(run(self.params, batch, *args))
      for row, i in enumerate(rows):
        out[i] = self._answer(found, row, bool(beam_size))
    return out

  def stream(
    self,
    image: Any,
    prompt: str,
    *,
    max_len: int = MAX_LEN,
    sampler: str = "greedy",
    seed: int = 0,
    only: Iterable[str] = (),
  ) -> Iterator[str]:
    """Answers a prompt about a picture, piece by piece.

    Args:
      image: what `prepare` takes.
      prompt: the text.
      max_len: see `answers`.
      sampler: see there.
      seed: see there.
      only: see there.

    Yields:
      Texts, which joined are the answer.
    """
    batch = self.batch([self.prepare(image)], [self.prompt(prompt)], only, 1)
    tokens: list[int] = []
    shown = ""
    rng = jax.random.PRNGKey(seed)
    for (token,) in self._streams(max_len, sampler)(self.params, batch, rng):
      if token == self.tokenizer.eos_token:
        break
      tokens.append(token)
      text = self.tokenizer.to_str(tokens)
      # Parts of a character are no text yet.
      if not text.endswith("\ufffd"):
        yield text[len(shown) :]
        shown = text

  def prompt(self, text: str) -> list[int]:
    """Makes tokens of a prompt.

    Args:
      text: such as "caption en".

    Returns:
      T ints: beginning, text, separator.
    """
    first = self.tokenizer.to_int(text, bos=True)
    return [*first, *self.tokenizer.to_int(self._separator)]

  def _padded(self, tokens):
    """Returns how many tokens a prompt is padded to."""
    return max(self.smallest_prompt, 1 << (len(tokens) - 1).bit_length())

  def batch(
    self,
    prepared: Sequence[Prepared],
    prompts: Sequence[Sequence[int]],
    only: Iterable[str] = (),
    batch_size: int | None = None,
  ) -> Batch:
    """Makes a batch for `decode`.

    Args:
      prepared: results of `prepare`.
      prompts: tokens of each.
      only: see `answers`.
      batch_size: with copies of the last example, which are marked; None is as many
        as there are.

    Returns:
      See `models/proj/paligemma/decode.py`. Prompts are padded to the same length,
      one of few.
    """
    num = batch_size or len(prompts)
    length = max(map(self._padded, prompts))
    text = np.zeros((num, length), np.int32)
    mask = np.zeros((num, length), bool)
    for row, tokens in enumerate(prompts):
      text[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
    missing = num - len(prompts)
    text[len(prompts) :], mask[len(prompts) :] = text[0], mask[0]
    images = [p.value for p in prepared]
    batch = dict(
      image=backbone.stacked(images + images[-1:] * missing),
      text=text,
      mask_ar=np.where(mask, 0, 1),
      mask_input=mask,
      _mask=np.arange(num) < len(prompts),
    )
    if only := tuple(only):
      batch["mask_logits"] = np.tile(self._all_but(only), (num, 1))
    return batch

  @functools.cache  # noqa: B019  (Few sets, and few models.)
  def _all_but(self, names):
    """Returns which tokens are not of these sets, bool [V]."""
    from big_vision.pp import tokenizer

    texts = tokenizer.get_extra_tokens(names)
    # The last one: some tokenizers put a space in front of every text.
    ids = [self.tokenizer.to_int(text)[-1] for text in texts]
    if self.tokenizer.to_str(ids) != "".join(texts):
      raise ValueError(
        f"only={names}: the tokenizer of {self.name} does not have these tokens."
      )
    logits = jax.eval_shape(self._logits, self.params).shape[-1]
    forbidden = np.ones(logits, bool)
    forbidden[[*ids, self.tokenizer.eos_token]] = False
    return forbidden

  def _logits(self, params):
    image = backbone.stacked([self.preprocess.example()])
    text = np.zeros((1, 1), np.int32)
    return self.model.apply({"params": params}, image, text, text)[0]

  def _compile(self, max_len, beam_size=0, **kw):
    """Compiles decoding, once for each length of prompts."""
    shared = dict(
      model=self.model,
      max_decode_len=max_len,
      eos_token=self.tokenizer.eos_token,
    )
    if beam_size:
      fn = functools.partial(decode.beam_search, beam_size=beam_size, **shared)
    else:
      fn = functools.partial(decode.sample, **kw, **shared)
    return jax.jit(fn)

  def _stream(self, max_len, sampler):
    eos = self.tokenizer.eos_token
    return decode.Stream(self.model, max_len, eos, sampler)

  def _answer(self, found, row, is_beam):
    """Makes the Answer of one row of what is decoded."""
    tokens = (found if is_beam else found.tokens)[row].tolist()
    eos = self.tokenizer.eos_token
    num = tokens.index(eos) if eos in tokens else len(tokens)
    logp = None if is_beam else tuple(found.logp[row, : num + 1].tolist())
    text = self.tokenizer.to_str(tokens[:num])
    return Answer(text, tuple(tokens[:num]), logp)


def is_vision_language(config: ConfigLike) -> bool:
  """Tells whether a config is of such a model."""
  return config.get("model_name") in MODELS


def image_pp(config: ConfigLike) -> str:
  """Finds how a run preprocesses pictures.

  Args:
    config: ConfigDict of a run.

  Returns:
    The ops of its evaluations, or of its training, before those of texts.

  Raises:
    ValueError: there are none.
  """
  from big_vision.pp import builder, registry

  pp = preprocessing.evaluation_pp(config)
  is_text = lambda op: registry.parse_name(op)[0].strip() in _OF_TEXTS
  ops = itertools.takewhile(
    lambda op: not is_text(op), builder.split_pipeline(pp)
  )
  return "|".join(ops)


def texts_of(pps: Iterable[str]) -> tuple[str, str]:
  """Finds the tokenizer in preprocessing, and the text after prompts.

  Args:
    pps: preprocessing strings.

  Returns:
    (tokenizer, text); those of PaliGemma if they are not there.
  """
  from big_vision.pp import builder, registry

  for pp in pps:
    for section in builder.split_pipeline(pp):
      name, args, kw = registry.parse_name(section)
      if name.strip() != "tok":
        continue
      model = args[0] if args else kw.get("model")
      if kw.get("text") is not None:
        return str(model), str(kw["text"])
  return _TOKENIZER, _SEPARATOR
