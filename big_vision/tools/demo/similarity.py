"""Computes the similarities of an image and prompts for the demo.

`Pictures` is what demos of all kinds share. The model is passed in
(`big_vision.embedder.Embedder` or an object with its methods), so that this file
needs neither jax nor TensorFlow. Letters of shapes: E embedding, M prompts.
"""

import base64
import collections
import dataclasses
import hashlib
import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from big_vision.pp import image_files

MAX_IMAGE_BYTES = 20_000_000
MAX_PROMPTS = 64
MAX_PROMPT_CHARS = 500
CACHED_IMAGES, CACHED_TEXTS = 256, 4096  # Embeddings, a few KB each.

PROMPTS = (
  "a photo of a cat",
  "a photo of a dog",
  "a photo of a person",
  "a landscape",
  "a drawing",
)


class RequestError(Exception):
  """A request is wrong; has an HTTP status and one sentence."""

  def __init__(self, status: int, message: str) -> None:
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Example:
  """Holds an image to click on.

  Attributes:
    data: the image file.
    content_type: such as "image/png".
    title: caption or file name.
  """

  data: bytes
  content_type: str
  title: str


class Cache:
  """Keeps the values of the `size` keys that were used last."""

  def __init__(self, size: int) -> None:
    self._size = size
    self._values = collections.OrderedDict()

  def get(self, key: Hashable) -> Any:
    """Returns the value of a key, or None.

    Args:
      key: any hashable value.

    Returns:
      The value.
    """
    if key in self._values:
      self._values.move_to_end(key)
    return self._values.get(key)

  def put(self, key: Hashable, value: Any) -> None:
    """Stores a value and forgets the one that was used the longest time ago.

    Args:
      key: any hashable value.
      value: the value.
    """
    self._values[key] = value
    self._values.move_to_end(key)
    if len(self._values) > self._size:
      self._values.popitem(last=False)


class Pictures:
  """Receives pictures, and keeps what a model computes from them.

  Subclasses define `model`, `answer` and `_compute`.

  Args:
    examples: list of `Example`.
  """

  path = "/api/answer"  # Where the page asks.

  def __init__(self, examples: Sequence[Example] = ()) -> None:
    self.examples = list(examples)
    self.lock = threading.Lock()  # Of the model and the caches.
    # A large image takes a second, and nobody else should wait for that. Two at
    # a time would take twice the memory.
    self._decoding = threading.Lock()
    self._images = Cache(CACHED_IMAGES)  # SHA-256 of the file -> array.

  @property
  def name(self) -> str:
    """Name of the model."""
    raise NotImplementedError

  def model(self) -> dict[str, Any]:
    """Returns the facts about the model that the page shows."""
    return {
      "name": self.name,
      "examples": [e.title for e in self.examples],
      "max_image_bytes": MAX_IMAGE_BYTES,
    }

  def answer(self, request: Any) -> dict[str, Any] | Iterator[dict[str, Any]]:
    """Answers a request of the page.

    Args:
      request: what was sent as JSON.

    Returns:
      What JSON can hold; or an iterator, of an answer that comes in pieces. It
      is closed when nobody wants the rest.
    """
    raise NotImplementedError

  def warm_up(self) -> None:
    """Asks about the first example: the model is compiled before visitors."""
    self.answer({"example": 0})

  def example(self, number: Any) -> Example:
    """Returns an example.

    Args:
      number: index of the example.

    Returns:
      The `Example`.

    Raises:
      RequestError: 404 if it does not exist.
    """
    # True is an int, and -1 would be the last one.
    if type(number) is int and 0 <= number < len(self.examples):
      return self.examples[number]
    shown = (
      number if type(number) in (bool, int, float, str) else "of this kind"
    )
    raise RequestError(
      404,
      f"There is no example {shown!s:.40}, only {len(self.examples)} of them.",
    )

  def _prepare(self, data: bytes) -> Any:
    """Decodes a file, which may be from a stranger; raises ValueError."""
    return data

  def _compute(self, image: Any) -> np.ndarray:
    """Computes what is kept of an image that is prepared."""
    raise NotImplementedError

  def _image(self, request):
    """Returns (array of `_compute`, hash)."""
    given = [k for k in ("image", "example", "hash") if k in request]
    if len(given) != 1:
      raise RequestError(
        400, 'Choose an image: one of "image", "example" or "hash".'
      )
    data = None  # If only the hash is known.
    if given == ["hash"]:
      if not isinstance(request["hash"], str):
        raise RequestError(400, '"hash" should be a text.')
      return self._computed(data, request["hash"])
    if given == ["example"]:
      data = self.example(request["example"]).data
    else:
      try:
        data = base64.b64decode(request["image"], validate=True)
      except (TypeError, ValueError):
        raise RequestError(400, '"image" should be a file in base64.') from None
      if len(data) > MAX_IMAGE_BYTES:
        raise RequestError(413, too_large(len(data)))
    return self._computed(data, hashlib.sha256(data).hexdigest())

  def _computed(self, data, key):
    with self.lock:
      value = self._images.get(key)
    if value is not None:
      return value, key
    if data is None:
      raise RequestError(410, "This image is forgotten: choose it again.")
    try:
      with self._decoding:
        image = self._prepare(data)
      with self.lock:
        value = self._compute(image)
        self._images.put(key, value)
    except ValueError as e:
      raise RequestError(400, str(e)) from e
    return value, key


class Demo(Pictures):
  """Holds a model, example images and the embeddings computed so far.

  Args:
    embedder: `Embedder`; what has no method `prepare` does all in `images`.
    examples: list of `Example`.
    prompts: first prompts of the page.
  """

  path = "/api/similarity"

  def __init__(
    self,
    embedder: Any,
    examples: Sequence[Example] = (),
    prompts: Sequence[str] = PROMPTS,
  ) -> None:
    super().__init__(examples)
    self.embedder = embedder
    self.prompts = list(prompts)
    self._texts = Cache(CACHED_TEXTS)

  @property
  def name(self) -> str:
    """Name of the model."""
    return self.embedder.name

  def model(self) -> dict[str, Any]:
    """Returns the facts about the model that the page shows."""
    return super().model() | {
      "loss_fn": self.embedder.loss_fn,
      "prompts": self.prompts,
    }

  def answer(self, request: Any) -> dict[str, Any]:
    """Answers a request of the page.

    Args:
      request: see `similarity`.

    Returns:
      See `similarity`.
    """
    return self.similarity(request)

  def warm_up(self) -> None:
    """Asks about the first example: the model is compiled before visitors."""
    self.answer({"example": 0, "prompts": self.prompts})

  def similarity(self, request: Any) -> dict[str, Any]:
    """Compares an image with prompts.

    Args:
      request: dict with "prompts", list of str, and one of "image", a file in
        base64; "example", its number; "hash", of an image sent before.

    Returns:
      Dict: "logits", "sigmoid" and "softmax", lists of M floats, and "hash",
      which stands for the image in later requests.

    Raises:
      RequestError: 400 if the request is wrong, 404 if the example does not
        exist, 410 if the image of the hash must be sent again, 413 if it is
        too large, 500 if the model gives no finite numbers.
    """
    if not isinstance(request, dict):
      raise RequestError(400, "The request should be a JSON object.")
    prompts = _checked_prompts(request.get("prompts"))
    zimg, key = self._image(request)  # [E]
    with self.lock:
      logits = self.embedder.logits(zimg[None], self._embed_texts(prompts))
      values = {
        "logits": logits[0],
        "sigmoid": self.embedder.probabilities(logits, "sigmoid")[0],
        "softmax": self.embedder.probabilities(logits, "softmax")[0],
      }
    if not np.isfinite(logits).all():  # Neither are they JSON.
      raise RequestError(500, "The model's logits are NaN or infinite.")
    return {k: np.asarray(v).tolist() for k, v in values.items()} | {
      "hash": key
    }

  def _prepare(self, data):
    if not hasattr(self.embedder, "prepare"):
      return data
    return self.embedder.prepare(data, formats=image_files.FORMATS)

  def _compute(self, image):
    return self.embedder.images([image])[0]

  def _embed_texts(self, prompts):
    found = {text: self._texts.get(text) for text in prompts}
    new = [text for text, ztxt in found.items() if ztxt is None]
    if new:
      for text, ztxt in zip(new, self.embedder.texts(new), strict=True):
        found[text] = ztxt
        self._texts.put(text, ztxt)
    return np.stack([found[text] for text in prompts])  # [M, E]


def _checked_prompts(prompts):
  if not isinstance(prompts, list) or not prompts:
    raise RequestError(400, "Give at least one prompt.")
  if len(prompts) > MAX_PROMPTS:
    raise RequestError(
      400, f"There are {len(prompts)} prompts, at most {MAX_PROMPTS} can be."
    )
  for i, text in enumerate(prompts, 1):
    check_prompt(text, f"Prompt {i}")
  return prompts


def check_prompt(text: Any, name: str) -> None:
  """Checks a prompt.

  Args:
    text: what was sent.
    name: for the error, such as "Prompt 2".

  Raises:
    RequestError: 400 if it is not a text, empty or too long.
  """
  if not isinstance(text, str) or not text.strip():
    raise RequestError(400, f"{name} is not a text.")
  if len(text) > MAX_PROMPT_CHARS:
    raise RequestError(
      400,
      f"{name} has {len(text)} characters, at most {MAX_PROMPT_CHARS} can be.",
    )
  try:
    text.encode()
  except UnicodeEncodeError:  # Half of a pair, such as "\ud800".
    raise RequestError(400, f"{name} is not valid Unicode.") from None


def too_large(num_bytes: float) -> str:
  """Makes the sentence about an image that is too large.

  Args:
    num_bytes: size of the image.

  Returns:
    The sentence.
  """
  return (
    f"The image is too large: {num_bytes / 1e6:.1f} MB, at most "
    f"{MAX_IMAGE_BYTES / 1e6:.0f} MB can be."
  )
