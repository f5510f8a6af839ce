"""Serves a page to try a trained model in the browser.

  python -m big_vision.tools.demo --workdir workdirs/pets

Drop an image and see the classes that a classifier takes it for; or, of models of
images and texts such as SigLIP, LiT and CLIPPO, type prompts and see how probable
each is; or ask PaliGemma about it, which answers with text, boxes and masks. Example
images are those of the config's data, or of a folder
(`--images`). The page comes from this process alone, and only to this machine
unless `--host` says otherwise.
"""

import argparse
import io
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from big_vision import command_line, fs
from big_vision.tools.demo import classes, questions, server, similarity

TYPES = {  # File name extension -> content type.
  "jpg": "image/jpeg",
  "jpeg": "image/jpeg",
  "png": "image/png",
  "webp": "image/webp",
  "gif": "image/gif",
  "bmp": "image/bmp",
}
MAX_DEFAULT_PROMPTS = 8


def folder_examples(folder: str, num: int) -> list[similarity.Example]:
  """Reads the first images of a folder, by name.

  Args:
    folder: local or remote folder.
    num: largest number of images.

  Returns:
    List of `similarity.Example`.

  Raises:
    ValueError: the folder does not exist, or contains no image.
  """
  if not fs.isdir(folder):
    raise ValueError(f"--images {folder} is not a folder.")
  type_of = lambda name: TYPES.get(name.lower().rpartition(".")[2])
  names = [n for n in fs.listdir(folder) if type_of(n)]
  if not names:
    raise ValueError(f"--images {folder} has no {', '.join(TYPES)} files.")
  examples = []
  for name in names[:num]:
    with fs.open(fs.join(folder, name), "rb") as f:
      examples.append(similarity.Example(f.read(), type_of(name), name))
  return examples


def array_example(image: np.ndarray, caption: str) -> similarity.Example:
  """Makes an example of an array.

  Args:
    image: uint8 [H, W, 3].
    caption: title of the example.

  Returns:
    The example, with the image as PNG.
  """
  from PIL import Image

  png = io.BytesIO()
  Image.fromarray(image).save(png, "PNG")
  return similarity.Example(png.getvalue(), "image/png", caption)


def caption_prompts(captions: Iterable[str]) -> list[str]:
  """Selects the first distinct captions that may be prompts.

  Args:
    captions: texts, of any number of lines.

  Returns:
    List of at most `MAX_DEFAULT_PROMPTS` lines.
  """
  lines = dict.fromkeys(" ".join(caption.split()) for caption in captions)
  fits = lambda line: 0 < len(line) <= similarity.MAX_PROMPT_CHARS
  return [line for line in lines if fits(line)][:MAX_DEFAULT_PROMPTS]


def stop_at_ctrl_c(httpd: server.Server) -> None:
  """Makes Ctrl-C end `serve_forever`.

  A KeyboardInterrupt can be lost: where it comes in a callback of the garbage
  collector, such as the one of JAX, Python prints and ignores it.

  Args:
    httpd: serves in the main thread, which must not wait for its own end.
  """
  shut_down = lambda *_: threading.Thread(target=httpd.shutdown).start()
  signal.signal(signal.SIGINT, shut_down)


def load(args: argparse.Namespace) -> similarity.Pictures:
  """Loads the demo for the arguments of the command line.

  Args:
    args: the arguments.

  Returns:
    A `similarity.Demo`, a `classes.Demo` or a `questions.Demo`.

  Raises:
    ValueError, FileNotFoundError: an argument is wrong.
  """
  if fs.is_local(args.workdir) and not fs.isdir(args.workdir):
    raise ValueError(
      f"--workdir {args.workdir} is not a folder: give the one of a run that has "
      "saved its config and a checkpoint."
    )
  examples = []
  if args.images:
    examples = folder_examples(args.images, args.num_examples)
  own = args.pp_modules.split(",") if args.pp_modules else []
  make = _maker(args.workdir)
  if args.mask_codec and make is not _of_questions:
    raise ValueError(
      f"--mask_codec decodes masks of PaliGemma, which {args.workdir} is not: "
      "leave it out."
    )
  demo = make(args, own, examples)
  if demo.examples:
    try:  # Compiles now, not when the first visitor waits.
      demo.warm_up()
    except similarity.RequestError as e:
      raise ValueError(f"Example {demo.examples[0].title!r} fails: {e}") from e
  return demo


def _maker(workdir):
  """Finds which of the functions below makes the demo of a model."""
  # Imports jax: seconds.
  from big_vision.models.weights import sources
  from big_vision.pretrained import embedder, published, run_files
  from big_vision.pretrained import vision_language as vl

  if sources.is_source(workdir):
    config = published.describe(workdir).config
    return _of_questions if vl.is_vision_language(config) else _of_texts
  if not fs.exists(fs.join(workdir, "config.json")):
    return _of_texts
  config = run_files.read_config(workdir)
  if vl.is_vision_language(config):
    return _of_questions
  named = config.get("model_name") or config.get("student_name")
  is_other = named and named not in embedder.MODELS
  return _of_classifier if is_other else _of_texts


def _of_classifier(args, own, examples):
  if args.pp_txt:
    raise ValueError(f"{args.workdir} is a classifier: leave out --pp_txt.")
  from big_vision import pretrained
  from big_vision.pretrained import examples as examples_lib

  model: Any = pretrained.load(
    args.workdir, init=args.init, pp=args.pp_img, pp_modules=own
  )
  if not hasattr(model, "class_names"):
    raise ValueError(
      f"{args.workdir} predicts numbers, which the page does not show: use "
      "tools.predict."
    )
  if not args.images:
    found = examples_lib.labeled_images(
      model.config, model.class_names, args.num_examples
    )
    examples = [
      _example(image, f"labeled {name}" if name else "example")
      for image, name in found
    ]
  return classes.Demo(model, examples)


def _of_questions(args, own, examples):
  if args.pp_txt:
    raise ValueError(f"{args.workdir} answers prompts: leave out --pp_txt.")
  from big_vision import pretrained
  from big_vision.models.proj.paligemma import mask_codec
  from big_vision.pretrained import examples as examples_lib

  masks = None
  if args.mask_codec:
    try:
      masks = mask_codec.get_reconstruct_masks(args.mask_codec)
    except ValueError as e:
      raise ValueError(f"--mask_codec: {e}") from e
  model: Any = pretrained.load(
    args.workdir, init=args.init, pp=args.pp_img, pp_modules=own
  )
  prompts = []
  if not args.images:
    found = examples_lib.questions(model.config, args.num_examples)
    examples = [_example(image, prompt or "example") for image, prompt in found]
    prompts = caption_prompts(prompt for _, prompt in found)
  return questions.Demo(model, examples, prompts or questions.PROMPTS, masks)


def _example(image, title):
  """Makes an example of a file or an array."""
  from big_vision.pp import image_files
  from big_vision.pretrained import images

  if isinstance(image, bytes):
    if kind := image_files.format_of(image):
      return similarity.Example(image, f"image/{kind.lower()}", title)
    image = images.decode(image)  # Browsers do not show it.
  return array_example(np.squeeze(image), title)


def _of_texts(args, own, examples):
  from big_vision import embedder  # Imports jax: seconds.

  model = embedder.load(
    args.workdir,
    init=args.init,
    pp_img=args.pp_img,
    pp_txt=args.pp_txt,
    **({"pp_modules": own} if own else {}),
  )
  prompts = []
  if not args.images:
    pairs = embedder.example_images(model.config, args.num_examples)
    examples = [array_example(image, caption) for image, caption in pairs]
    prompts = caption_prompts(caption for _, caption in pairs)
  return similarity.Demo(model, examples, prompts or similarity.PROMPTS)


def main(argv: Sequence[str] | None = None) -> int:
  """Serves the page until Ctrl-C.

  Args:
    argv: arguments; None takes those of the process.

  Returns:
    Exit status.
  """
  parser = command_line.make_parser("big_vision.tools.demo", __doc__)
  parser.add_argument(
    "--workdir",
    required=True,
    help="Of a run that trained the model, or hf://org/repo of the hub (SigLIP, "
    "PaliGemma).",
  )
  parser.add_argument(
    "--init", help="Another checkpoint than the last one of the workdir."
  )
  parser.add_argument("--pp_img", help="Preprocessing of images.")
  parser.add_argument("--pp_txt", help="Preprocessing of texts.")
  parser.add_argument(
    "--pp_modules",
    help="Modules of your own that the config of the run may import, with "
    "commas between them.",
  )
  parser.add_argument(
    "--mask_codec",
    metavar="FILE.npz",
    help="Decodes masks in answers of PaliGemma; 'oi' is the published one.",
  )
  parser.add_argument(
    "--images", metavar="FOLDER", help="Example images instead of the data's."
  )
  parser.add_argument("--num_examples", type=int, default=12, help="At most.")
  parser.add_argument(
    "--port", type=int, default=8000, help="0 is any free one."
  )
  parser.add_argument(
    "--host",
    default="127.0.0.1",
    help="Address to listen at; 0.0.0.0 lets other machines in, without a "
    "password.",
  )
  args = parser.parse_args(argv)
  try:
    httpd = server.Server(args.host, args.port)  # Before minutes of loading.
  except (OSError, OverflowError) as e:
    print(
      f"Cannot listen at {args.host}:{args.port} "
      f"({getattr(e, 'strerror', None) or e}): give another --port, such as 0 "
      "for any free one, or another --host.",
      file=sys.stderr,
    )
    return 1
  try:
    httpd.demo = load(args)
    name = httpd.demo.name
    stop_at_ctrl_c(httpd)
    print(f"Demo of {name}: {httpd.url} (Ctrl-C stops it)", flush=True)
    httpd.serve_forever()
    print("Stopped.")
  except (ValueError, FileNotFoundError) as e:
    if args.debug:
      raise
    print(e, file=sys.stderr)
    return 1
  except KeyboardInterrupt:  # While it loads.
    print("Stopped.")
  finally:
    httpd.server_close()
  if httpd.demo is not None:
    httpd.demo.lock.acquire()  # Waits for a request that is being answered.
  return 0


if __name__ == "__main__":
  sys.exit(main())
