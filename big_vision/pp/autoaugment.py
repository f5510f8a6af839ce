"""AutoAugment and RandAugment: random sequences of simple image changes.

The changes themselves, "kernels", are in `augment_color` and `augment_geometry`
and can be used from here too. Images are uint8 [H, W, 3], before and after.

The strength is a level, with the nominal maximum 10; more is possible:

| operation                  | argument of the kernel at level l              |
|----------------------------|------------------------------------------------|
| AutoContrast, Equalize,    | none                                           |
|   Invert                   |                                                |
| Rotate                     | +- 30 l / 10 degrees, + is counter-clockwise   |
| ShearX, ShearY             | +- 0.3 l / 10                                  |
| TranslateX, TranslateY     | +- t l / 10 pixels, t = 100 (AutoAugment: 250) |
| Cutout                     | c l / 10 pixels, c = 40 (AutoAugment: 100)     |
| SolarizeAdd                | 110 l / 10                                     |
| Posterize                  | 4 l / 10 bits                                  |
| Solarize                   | threshold 256 l / 10                           |
| Color, Contrast,           | factor 0.1 + 1.8 l / 10                        |
|   Brightness, Sharpness    |                                                |

The original code has mistakes, with which published results were trained; the
default repeats them. `corrected=True` selects other kernels:

| kernel    | default                             | corrected                |
|-----------|-------------------------------------|--------------------------|
| contrast  | blends with gray H * W / 256, which | blends with the mean of  |
|           | is 196 for 224 x 224, up to 255     | the gray image           |
| solarize  | threshold modulo 256: level 10      | from level 10 on,        |
|           | inverts everything, 15 is as 5      | inverts nothing          |
| posterize | more than 8 bits (from level 22.5   | more than 8 bits give    |
|           | on) are as 1 bit                    | the image                |

The last three rows of the first table are another flaw: Posterize and Solarize
get weaker with the level, and level 0 is a strong change. The policies of
AutoAugment were searched with these arguments and keep them. RandAugment, whose
magnitude means strength, has with `corrected=True` others, for which level 0
changes nothing (but AutoContrast, Equalize and Invert have no level):

| operation                  | argument of the kernel, corrected              |
|----------------------------|------------------------------------------------|
| Posterize                  | 8 - 4 l / 10 bits, at least 1                  |
| Solarize                   | threshold 256 - 256 l / 10, at least 0         |
| Color, Contrast,           | factor 1 +- 0.9 l / 10, at least 0.1           |
|   Brightness, Sharpness    |                                                |

References: Cubuk et al. 2018, https://arxiv.org/abs/1805.09501, and Cubuk et
  al.
2019, https://arxiv.org/abs/1909.13719.
"""

from __future__ import annotations

import functools

from big_vision import lookup
from big_vision.pp import rng, utils
from big_vision.pp.augment_bits import (
  invert,
  posterize,
  solarize,
  solarize_add,
)
from big_vision.pp.augment_color import (
  autocontrast,
  blend,
  brightness,
  color,
  contrast,
  equalize,
  sharpness,
)
from big_vision.pp.augment_geometry import (
  cutout,
  rotate,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
  unwrap,
  wrap,
)
from big_vision.pp.registry import Registry
from big_vision.pp.types import TensorFn
from big_vision.tf import tf

__all__ = [
  "NAME_TO_FUNC",
  "autocontrast",
  "blend",
  "brightness",
  "color",
  "contrast",
  "cutout",
  "distort_image_with_autoaugment",
  "distort_image_with_randaugment",
  "equalize",
  "invert",
  "policy_v0",
  "policy_vtest",
  "posterize",
  "rotate",
  "sharpness",
  "shear_x",
  "shear_y",
  "solarize",
  "solarize_add",
  "translate_x",
  "translate_y",
  "unwrap",
  "wrap",
]

# In the order that RandAugment numbers them.
NAME_TO_FUNC = {
  "AutoContrast": autocontrast,
  "Equalize": equalize,
  "Invert": invert,
  "Rotate": rotate,
  "Posterize": posterize,
  "Solarize": solarize,
  "Color": color,
  "Contrast": contrast,
  "Brightness": brightness,
  "Sharpness": sharpness,
  "ShearX": shear_x,
  "ShearY": shear_y,
  "TranslateX": translate_x,
  "TranslateY": translate_y,
  "Cutout": cutout,
  "SolarizeAdd": solarize_add,
}
# Sub-policies, each a list of (operation, probability, level).
_Policy = list[list[tuple[str, float, int]]]

FILL = (128, 128, 128)  # Color of pixels that the moved image does not cover.


def policy_v0() -> _Policy:
  """Returns the policy found for ImageNet.

  Returns:
    Sub-policies, each a list of (operation, probability, level).
  """
  return [
    [("Equalize", 0.8, 1), ("ShearY", 0.8, 4)],
    [("Color", 0.4, 9), ("Equalize", 0.6, 3)],
    [("Color", 0.4, 1), ("Rotate", 0.6, 8)],
    [("Solarize", 0.8, 3), ("Equalize", 0.4, 7)],
    [("Solarize", 0.4, 2), ("Solarize", 0.6, 2)],
    [("Color", 0.2, 0), ("Equalize", 0.8, 8)],
    [("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)],
    [("ShearX", 0.2, 9), ("Rotate", 0.6, 8)],
    [("Color", 0.6, 1), ("Equalize", 1.0, 2)],
    [("Invert", 0.4, 9), ("Rotate", 0.6, 0)],
    [("Equalize", 1.0, 9), ("ShearY", 0.6, 3)],
    [("Color", 0.4, 7), ("Equalize", 0.6, 0)],
    [("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)],
    [("Solarize", 0.6, 8), ("Color", 0.6, 9)],
    [("Solarize", 0.2, 4), ("Rotate", 0.8, 9)],
    [("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)],
    [("ShearX", 0.0, 0), ("Solarize", 0.8, 4)],
    [("ShearY", 0.8, 0), ("Color", 0.6, 4)],
    [("Color", 1.0, 0), ("Rotate", 0.6, 2)],
    [("Equalize", 0.8, 4), ("Equalize", 0.0, 8)],
    [("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)],
    [("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)],
    [("Posterize", 0.8, 2), ("Solarize", 0.6, 10)],
    [("Solarize", 0.6, 8), ("Equalize", 0.6, 1)],
    [("Color", 0.8, 6), ("Rotate", 0.4, 5)],
  ]


def policy_vtest() -> _Policy:
  """Returns a policy that always does the same, up to a sign.

  Returns:
    Sub-policies, each a list of (operation, probability, level).
  """
  return [[("TranslateX", 1.0, 4), ("Equalize", 1.0, 10)]]


_POLICIES = {"v0": policy_v0, "test": policy_vtest}


def _variants(name, level, *, cutout_const, translate_const, corrected, rising):
  """Makes the functions of an operation at a level: one, or one for each sign.

  Args:
    name: str, key of `NAME_TO_FUNC`.
    level: float, strength.
    cutout_const: pixels, half of the square's side at level 10.
    translate_const: pixels at level 10.
    corrected: bool, selects the corrected kernels.
    rising: bool, selects arguments whose strength rises with the level, from 0.

  Returns:
    List of functions (image, center) -> image, equally probable; `center` as
    `cutout` has it.
  """
  kernel = NAME_TO_FUNC[name]
  part = level / 10

  def plain(*args, **kw):
    return lambda image, center: kernel(image, *args, **kw)

  def both_signs(x, *args):
    return [plain(x, *args), plain(-x, *args)]

  if name in ("AutoContrast", "Equalize", "Invert"):
    return [plain()]
  if name == "Rotate":
    return both_signs(part * 30.0, FILL)
  if name in ("ShearX", "ShearY"):
    return both_signs(part * 0.3, FILL)
  if name in ("TranslateX", "TranslateY"):
    return both_signs(part * translate_const, FILL)
  if name == "Cutout":
    pad = int(part * cutout_const)
    return [lambda image, center: cutout(image, pad, FILL, center=center)]
  if name == "SolarizeAdd":
    return [plain(int(part * 110))]
  if name == "Posterize":
    bits = int(part * 4)
    bits = max(8 - bits, 1) if rising else bits
    return [plain(bits, corrected=corrected)]
  if name == "Solarize":
    threshold = int(part * 256)
    threshold = max(256 - threshold, 0) if rising else threshold
    return [plain(threshold, corrected=corrected)]
  kw = {"corrected": corrected} if name == "Contrast" else {}
  if rising:
    factors = [max(1 + part * 0.9, 0.1), max(1 - part * 0.9, 0.1)]
  else:
    factors = [part * 1.8 + 0.1]
  return [plain(f, **kw) for f in factors]


def _check_image(image):
  """Checks an image, and converts it to a tensor."""
  image = tf.convert_to_tensor(image)
  wanted = [None, None, 3]
  if image.dtype != tf.uint8 or not image.shape.is_compatible_with(wanted):
    raise ValueError(
      "RandAugment and AutoAugment change uint8 images of shape [H, W, 3], got "
      f"{image.dtype.name} {image.shape}. In the preprocessing string, they "
      "belong after decoding and before value_range."
    )
  return tf.ensure_shape(image, wanted)


def _switch(functions, image):
  """Makes `tf.switch_case` for a fixed list of functions of an image.

  Args:
    functions: list of functions (image, center) -> image; may have repetitions.
    image: uint8 [H, W, 3], only its static shape is used.

  Returns:
    Function (number in the list, image, center) -> image.
  """
  if tf.executing_eagerly():
    return lambda number, image, center: functions[int(number)](image, center)
  branches = list(dict.fromkeys(functions))
  table = [branches.index(fn) for fn in functions]
  # `tf.switch_case` mixes the branches into the graph around, and the executor
  # then visits the nodes of all of them. This runs the function of only one, op
  # by op in one thread, where the image stays in the cache.
  args = [image, tf.TensorSpec([2], tf.float32)]
  args = [tf.TensorSpec(x.shape, x.dtype) for x in args]
  graphs = [
    tf.function(fn, autograph=False).get_concrete_function(*args)
    for fn in branches
  ]
  assert not any(g.captured_inputs for g in graphs)
  single = tf.compat.v1.AttrValue(s=b"SINGLE_THREADED_EXECUTOR")
  calls = [
    tf.compat.v1.NameAttrList(name=g.name, attr={"executor_type": single})
    for g in graphs
  ]

  def switch(number, image, center):
    for g in graphs:
      g.add_to_graph()
    return tf.raw_ops.StatelessCase(
      branch_index=tf.gather(table, number),
      input=[image, center],
      Tout=[image.dtype],
      branches=calls,
      output_shapes=[image.shape],
    )[0]

  return switch


def _index(u, num):
  """Maps uniform numbers in [0, 1) to uniform int32 in [0, num)."""
  return tf.cast(u * num, tf.int32)


def distort_image_with_randaugment(
  image: tf.Tensor,
  num_layers: int,
  magnitude: float,
  *,
  corrected: bool = False,
) -> tf.Tensor:
  """Applies random operations, all of one strength, one after the other.

  Args:
    image: uint8 [H, W, 3].
    num_layers: int, number of operations.
    magnitude: float, their level.
    corrected: bool, see the top of the file.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: the image has another shape or type.
  """
  image = _check_image(image)
  cells = []  # All operations, each with both signs or twice.
  for name in NAME_TO_FUNC:
    variants = _variants(
      name,
      float(magnitude),
      cutout_const=40,
      translate_const=100,
      corrected=corrected,
      rising=corrected,
    )
    cells += [variants[0], variants[-1]]
  switch = _switch(cells, image)
  u = tf.random.stateless_uniform([num_layers, 3], rng.next_seed())
  for layer in range(num_layers):
    image = switch(_index(u[layer, 0], len(cells)), image, u[layer, 1:])
  return image


def distort_image_with_autoaugment(
  image: tf.Tensor, augmentation_name: str, *, corrected: bool = False
) -> tf.Tensor:
  """Applies a random sub-policy, each operation of it with its probability.

  Args:
    image: uint8 [H, W, 3].
    augmentation_name: str, "v0" or "test".
    corrected: bool, see the top of the file.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: unknown policy, or the image has another shape or type.
  """
  policy = _policy(augmentation_name)
  image = _check_image(image)
  variants = {
    (name, level): _variants(
      name,
      float(level),
      cutout_const=100,
      translate_const=250,
      corrected=corrected,
      rising=False,
    )
    for sub_policy in policy
    for name, _, level in sub_policy
  }
  # Sub-policy; then, for each operation, whether, its sign, place of cutout.
  num_ops = len(policy[0])
  u = tf.random.stateless_uniform([1 + num_ops * 4], rng.next_seed())
  chosen = _index(u[0], len(policy))
  unchanged = lambda image, center: image
  for i, u_op in enumerate(tf.split(u[1:], num_ops)):
    probabilities = tf.constant([sub[i][1] for sub in policy], tf.float32)
    applied = _index(u_op[0] + tf.gather(probabilities, chosen), 1)
    cells = []
    for sub_policy in policy:
      name, _, level = sub_policy[i]
      fns = variants[name, level]
      cells += [unchanged, unchanged, fns[0], fns[-1]]
    cell = 4 * chosen + 2 * applied + _index(u_op[1], 2)
    image = _switch(cells, image)(cell, image, u_op[2:])
  return image


def _policy(name):
  if name not in _POLICIES:
    hint = lookup.did_you_mean(name, _POLICIES)
    raise ValueError(f"Invalid augmentation_name: {name!r}{hint}")
  return _POLICIES[name]()


@Registry.register("preprocess_ops.autoaugment")
@utils.InKeyOutKey()
def get_autoaugment(name: str = "v0", corrected: bool = False) -> TensorFn:
  """Applies a random sub-policy of AutoAugment.

  Args:
    name: str, "v0" (found for ImageNet) or "test".
    corrected: bool, see the top of the file.

  Returns:
    `uint8 [H, W, 3] -> uint8 [H, W, 3]`.

  Raises:
    ValueError: unknown policy.
  """
  _policy(name)  # Raises errors now, not when the op runs.
  return functools.partial(
    distort_image_with_autoaugment, augmentation_name=name, corrected=corrected
  )
