r"""Zero-shot classification on many datasets, with a table at the end.

  python -m big_vision.trainers.proj.image_text.siglip \
    --config big_vision/configs/proj/image_text/zeroshot_suite.py:demo \
    --workdir /path/to/workdir

With `model=workdirs/siglip` or `model=hf://org/repo` in place of `demo` it evaluates
two towers that a run has trained, or published ones. Nothing is trained.
Expected: `z/0shot/<dataset>_accuracy` and `z/0shot/mean_accuracy`; `zeroshot.csv`
in the workdir has the table. Datasets that are not prepared are rows that say how
to prepare them.

Arguments:
  model: the workdir, or a published checkpoint with two towers.
  datasets: some of `SUITE`, for example datasets=cifar10+dtd; by default all.
  batch_size: of images and texts.
  demo: tiny towers, random unless `--config.model_init` is the checkpoint of
    `siglip_pretrain.py:demo`, on generated pictures.
"""

import ml_collections as mlc

import big_vision.configs.common as bvcc
from big_vision import lookup
from big_vision.configs import load_and_eval
from big_vision.configs.proj.image_text import common, siglip_pretrain

_EUROSAT = (
  "annual crop land", "forest", "brushland or shrubland", "highway or road",
  "industrial buildings or commercial buildings", "pasture land",
  "permanent crop land", "residential buildings or homes or apartments",
  "river", "lake or sea",
)  # fmt: skip


def _photo(text="a photo of a {}.", **kw):
  """Settings of a dataset with one prompt, mostly that of CLIP's paper."""
  return dict(prompt_templates=(text,), **kw)


# Name in the table -> settings that differ from those of the evaluator, see
# `evaluators/proj/image_text/overrides.py`; pp_img may be a function of the size.
SUITE = {
  "imagenet2012": common.DISCLF_DATASET_OVERRIDES["imagenet2012"],
  "imagenet_v2": common.DISCLF_DATASET_OVERRIDES["imagenet_v2"],
  "imagenet_a": common.DISCLF_DATASET_OVERRIDES["imagenet_a"],
  "imagenet_r": common.DISCLF_DATASET_OVERRIDES["imagenet_r"],
  "caltech101": _photo(),
  "cars196": _photo(),
  "cifar10": _photo(),
  "cifar100": _photo(),
  "dtd": _photo("a photo of a {} texture."),
  "eurosat": _photo(
    "a centered satellite photo of {}.",
    dataset_name="eurosat/rgb", split="train[21600:]", class_names=_EUROSAT,
  ),
  "food101": _photo("a photo of {}, a type of food.", split="validation"),
  "mnist": _photo('a photo of the number: "{}".'),
  "oxford_flowers102": _photo("a photo of a {}, a type of flower."),
  "oxford_iiit_pet": _photo("a photo of a {}, a type of pet."),
  "patch_camelyon": _photo(
    "this is a photo of {}.",
    class_names=("lymph node", "lymph node containing metastatic tumor tissue"),
  ),
  "resisc45": _photo("satellite imagery of {}.", split="train[25200:]"),
  "stl10": _photo(),
  "svhn": _photo(
    'a street view image of the number: "{}".', dataset_name="svhn_cropped"
  ),
}  # fmt: skip


def get_config(arg: str | None = None) -> mlc.ConfigDict:
  """Returns the config.

  Args:
    arg: see the top of this file.

  Returns:
    ConfigDict.
  """
  arg = bvcc.parse_arg(
    arg, model="", datasets=("", bvcc.Names), batch_size=256, demo=False
  )
  if arg.demo:
    return _demo()
  if not arg.model:
    raise lookup.ConfigError(
      "Config arg model: name the workdir of a run that has trained two towers."
    )
  trained, init, pp_img, pp_txt = _find(arg.model)
  names = arg.datasets.split("+") if arg.datasets else [*SUITE]
  for name in names:
    if name not in SUITE:
      raise lookup.unknown(
        "dataset", name, SUITE, "datasets", lookup.ConfigError
      )
  evaluator = dict(
    dataset_names=names,
    dataset_overrides={name: _settings(name, pp_img) for name in names},
    pp_img=f'{_decoded(pp_img)}|keep("image", "label")',
    pp_txt=pp_txt,
  )
  config = _config(trained, evaluator, pp_img, pp_txt, arg.batch_size)
  config.model_init = init
  return config


def _find(model):
  """Returns (config, checkpoint, preprocessing of pictures, that of texts)."""
  from big_vision.pretrained import preprocessing, published, run_files

  if published.is_checkpoint(model):
    about = published.describe(model)
    if about.pp is None or about.pp_txt is None:
      raise lookup.ConfigError(
        f"Config arg model={model}: it does not have two towers."
      )
    return about.config, model, about.pp, about.pp_txt
  config = run_files.read_config(model)
  pp_img, pp_txt = preprocessing.preprocessing_of(config)
  return config, run_files.checkpoint_of(model), pp_img, pp_txt


def _settings(name, pp_img):
  """Completes the settings of a dataset."""
  settings = dict(SUITE[name])
  if callable(settings.get("pp_img")):  # What it maps is the label.
    label_op = settings["pp_img"](224).rsplit("|", 1)[1]
    settings["pp_img"] = f"{_decoded(pp_img)}|{label_op}"
  return settings


def _decoded(pp_img):
  """Makes preprocessing of pictures that the evaluator has decoded."""
  from big_vision.pp import builder

  ops = builder.split_pipeline(pp_img)
  ops = [op for op in ops if op.split("(")[0].strip() not in ("decode", "keep")]
  return "|".join(ops)


def _config(trained, evaluator, pp_img, pp_txt, batch_size):
  """Makes a config that evaluates the towers of another one."""
  from big_vision.evaluators.proj.image_text import embedding
  from big_vision.pipeline import abstract
  from big_vision.tf import tf

  lookup.preprocessing(trained)
  image = {"image": tf.TensorSpec([None, None, 3], tf.uint8)}
  sizes = {}
  for spec, pp in ((image, _decoded(pp_img)), (embedding.text_spec(), pp_txt)):
    for key, x in abstract.features(spec, pp, {}).items():
      if isinstance(x, tuple):
        raise lookup.ConfigError(
          "Config arg model: images of any aspect ratio (NaFlex) are not supported "
          "here; add the evaluator zeroshot_suite to the config that trains it."
        )
      if key in ("image", "labels"):
        sizes[key] = dict(shape=tuple(x.shape), dtype=x.dtype.name)
  config = mlc.ConfigDict(type_safe=False)
  load_and_eval.eval_only(config, batch_size, sizes)
  for key in ("model_name", "model", "pp_modules"):
    if key in trained:
      config[key] = trained[key]
  config.embed = dict(pp_img=pp_img, pp_txt=pp_txt)
  config.evals = dict(
    suite=dict(
      evaluator,
      type="proj.image_text.zeroshot_suite",
      prefix="z/0shot/",
      cache_final=False,
      log_steps=1,
    )
  )
  return config


def _demo():
  """Evaluates as the demo of the training does."""
  trained = siglip_pretrain.get_config("demo")
  disclf = trained.evals.disclf.to_dict()
  keep = ("dataset_names", "dataset_overrides", "split", "prompt_templates")
  evaluator = {k: disclf[k] for k in keep}
  evaluator |= {k: disclf[k] for k in ("pp_img", "pp_txt")}
  pp = disclf["pp_img"], disclf["pp_txt"]
  config = _config(trained, evaluator, *pp, disclf["batch_size"])
  config.model_init = ""
  return config
