"""Answers prompts about an image for the demo: text, boxes and masks.

The model is passed in (`big_vision.pretrained.VisionLanguage` or an object with its
methods).
"""

import base64
import collections
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from big_vision.pp import image_files
from big_vision.tools.demo import similarity

CACHED_IMAGES = 32  # Pixels of the model's input, up to 10 MB each.
MAX_ANSWERS = 4  # At the same time: each has a cache on the device.
# Each choice is a program to compile: visitors should not make up others.
SAMPLERS = ("greedy", "temperature(0.5)", "temperature(1)", "nucleus(0.9)")
MAX_LENS = (64, 16, 32, 128, 256)  # Tokens; the first is the default.
MAX_SEED = 2**31 - 1
PROMPTS = (
  "caption en",
  "describe en",
  "answer en what is in the picture?",
  "detect person ; cat ; dog",
  "segment cat",
  "ocr",
)


class Demo(similarity.Pictures):
  """Holds a model that answers prompts, and example images.

  Args:
    vision_language: `VisionLanguage`.
    examples: list of `similarity.Example`.
    prompts: examples of prompts; the page starts with the first.
    masks: decodes the codes of masks, see `mask_codec.get_reconstruct_masks`;
      None: answers have boxes only.
  """

  path = "/api/answer"

  def __init__(
    self,
    vision_language: Any,
    examples: Sequence[similarity.Example] = (),
    prompts: Sequence[str] = PROMPTS,
    masks: Callable[[Any], np.ndarray] | None = None,
  ) -> None:
    super().__init__(examples)
    self.vision_language = vision_language
    self.prompts = list(prompts)
    self._masks = masks
    self._images = similarity.Cache(CACHED_IMAGES)
    self._answering = threading.Semaphore(MAX_ANSWERS)

  @property
  def name(self) -> str:
    """Name of the model."""
    return self.vision_language.name

  def model(self) -> dict[str, Any]:
    """Returns the facts about the model that the page shows."""
    return super().model() | {
      "prompts": self.prompts,
      "samplers": SAMPLERS,
      "max_lens": MAX_LENS,
      "max_prompt_chars": similarity.MAX_PROMPT_CHARS,
      "masks": self._masks is not None,
    }

  def answer(self, request: Any) -> Iterator[dict[str, Any]]:
    """Answers a prompt about an image.

    Args:
      request: dict with "prompt", str; one of "image", a file in base64;
        "example", its number; "hash", of an image sent before; and, if wanted,
        "sampler", one of `SAMPLERS`; "max_len", one of `MAX_LENS`; "seed", of a
        sampler that draws.

    Returns:
      Iterator of dicts. Each but the last has "text", a piece of the answer. The
      last has "done", true; "objects", a list of dicts of "box", (ymin, xmin,
      ymax, xmax) in [0, 1], "label", and "mask", PNG of 64 x 64 pixels in base64
      that covers the box, white inside of the object, or None; and "hash", which
      stands for the image in later requests.

    Raises:
      RequestError: 400 if the request is wrong, 404 if the example does not
        exist, 410 if the image of the hash must be sent again, 413 if it is
        too large.
    """
    if not isinstance(request, dict):
      raise similarity.RequestError(400, "The request should be a JSON object.")
    prompt = request.get("prompt")
    similarity.check_prompt(prompt, "The prompt")
    options = _checked_options(request)
    image, key = self._image(request)
    return self._lines(image, key, prompt, options)

  def warm_up(self) -> None:
    """Asks about the first example: the model is compiled before visitors."""
    lines = self.answer({"example": 0, "prompt": self.prompts[0]})
    collections.deque(lines, maxlen=0)

  def _prepare(self, data):
    image_files.check_format(data, image_files.FORMATS)
    return self.vision_language.prepare(data)

  def _compute(self, image):
    return image  # What is kept of it.

  def _lines(self, image, key, prompt, options):
    text = ""
    with self._answering:
      pieces = self.vision_language.stream(image, prompt, **options)
      try:
        while (piece := self._next(pieces)) is not None:
          text += piece
          if piece:
            yield {"text": piece}
      finally:
        pieces.close()
    yield {"done": True, "objects": self._objects(text), "hash": key}

  def _next(self, pieces):
    """Waits for a piece; between two of them others have their turn."""
    with self.lock:
      return next(pieces, None)

  def _objects(self, text):
    from big_vision.models.proj.paligemma import locations  # Imports jax.

    return [
      {"box": o.box, "label": o.label, "mask": self._mask(o.codes)}
      for o in locations.parse(text)
    ]

  def _mask(self, codes):
    """Makes PNG in base64 of the codes of a mask."""
    if codes is None or self._masks is None:
      return None
    from PIL import Image

    inside = self._masks(np.array([codes]))[0, :, :, 0] > 0
    png = io.BytesIO()
    Image.fromarray(np.where(inside, np.uint8(255), 0)).save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()


def _checked_options(request):
  """Returns arguments of `stream`."""
  sampler = request.get("sampler", SAMPLERS[0])
  max_len = request.get("max_len", MAX_LENS[0])
  seed = request.get("seed", 0)
  if sampler not in SAMPLERS:
    raise similarity.RequestError(
      400, f'"sampler" should be one of {", ".join(SAMPLERS)}.'
    )
  if type(max_len) is not int or max_len not in MAX_LENS:
    raise similarity.RequestError(
      400, f'"max_len" should be one of {", ".join(map(str, MAX_LENS))}.'
    )
  if type(seed) is not int or not 0 <= seed <= MAX_SEED:
    raise similarity.RequestError(
      400, f'"seed" should be an integer from 0 to {MAX_SEED}.'
    )
  return {"sampler": sampler, "max_len": max_len, "seed": seed}
