"""Names and prompts against the checksums of the facts."""

import hashlib

import pytest

from big_vision.datasets.imagenet import class_names as imagenet
from big_vision.evaluators.proj.image_text import prompt_engineering as pe
from big_vision.evaluators.proj.image_text import (
  prompt_engineering_constants,
)


@pytest.mark.parametrize(
  "name,number,checksum",
  [
    (
      "clip_paper",
      81,
      "617764ae37ca494aff67b36e2f3b3919d44fd3eeb5b4dba56f207ad6723c3d05",
    ),
    (
      "clip_best",
      8,
      "5c945b4b35da9f638c63452151f797454d084aead4c1a8a90a8b592e93ed91ba",
    ),
    ("class_name_only", 1, hashlib.sha256(b"{}").hexdigest()),
  ],
)
def test_templates(name, number, checksum):
  templates = pe.get_prompt_templates(name, canonicalize=False)
  assert len(templates) == number
  assert hashlib.sha256("\n".join(templates).encode()).hexdigest() == checksum
  uniform = pe.get_prompt_templates(name)
  assert all(t.count("{}") == 1 and "." not in t for t in uniform)
  templates.clear()  # Whoever asked may do with it what they like.
  assert len(pe.get_prompt_templates(name)) == number
  assert pe.get_prompt_templates(prompt_templates_name=name) == uniform


def test_constants():
  for name in ("CLIP_PAPER_PROMPT_TEMPLATES", "CLIP_BEST_PROMPT_TEMPLATES"):
    assert getattr(prompt_engineering_constants, name) is getattr(pe, name)
  assert pe.CLIP_PAPER_PROMPT_TEMPLATES[0] == "a bad photo of a {}."
  assert pe.CLIP_BEST_PROMPT_TEMPLATES[-2:] == (
    "a photo of the small {}.",
    "{}",
  )


def test_unknown_templates():
  with pytest.raises(KeyError, match="clip_pape'.*clip_paper"):
    pe.get_prompt_templates("clip_pape")


@pytest.mark.parametrize(
  "text,keep,expected",
  [
    ("A_b  C!", None, "a b c"),
    ("  a photo of {}.\t", "{}", "a photo of {}"),
    ("{ {} }", "{}", "{}"),
    ("don't, (or) do", ",", "dont, or do"),
    ("don't, (or) do", None, "dont or do"),
    ("Straße…", None, "straße…"),  # Only ASCII counts as punctuation.
    ("", "{}", ""),
  ],
)
def test_canonicalize_text(text, keep, expected):
  got = pe.canonicalize_text(text, keep_punctuation_exact_string=keep)
  assert got == expected


def test_given_names():
  given = ("Tench_fish, Tinca", "b!")
  names = pe.get_class_names(dataset_name="any", source=given)
  assert names == ["tench fish, tinca", "b"]
  kw = dict(dataset_name="any", canonicalize=False)
  assert pe.get_class_names(source=given, **kw) == list(given)
  mine = ["a", "b"]
  pe.get_class_names(source=mine, **kw).append("c")
  assert mine == ["a", "b"]
  for bad in ({"a": 1}, [1, 2], 3, None):
    with pytest.raises(AssertionError, match="sequence of str"):
      pe.get_class_names(source=bad, **kw)


def test_names_of_clip():
  kw = dict(source="clip", canonicalize=False)
  names = imagenet.CLIP_IMAGENET_CLASS_NAMES
  for dataset in ("imagenet2012", "grand-vision:imagenet2012", "imagenet_v2"):
    assert pe.get_class_names(dataset_name=dataset, **kw) == names
  for dataset, labels in (
    ("imagenet_a", imagenet.IMAGENET_A_LABELSET),
    ("imagenet_r", imagenet.IMAGENET_R_LABELSET),
  ):
    got = pe.get_class_names(dataset_name=dataset, **kw)
    assert got == [names[i] for i in labels] and len(got) == 200


def test_unknown_names():
  with pytest.raises(KeyError, match="dataset_info:<feature>.*imagenet_a"):
    pe.get_class_names(dataset_name="imagenet2012")
  with pytest.raises(KeyError, match="'cifar100'.*class_names_dataset_name"):
    pe.get_class_names(dataset_name="cifar100", source="clip")


@pytest.mark.tf
def test_names_of_tfds(tfds_data_dir):
  get = lambda source, name="digits", **kw: pe.get_class_names(
    dataset_name=name, source=source, **kw
  )
  expected = [str(i) for i in range(10)]
  assert get("dataset_info:label") == expected
  assert get("dataset_info:label", data_dir=tfds_data_dir) == expected
  with pytest.raises(KeyError, match="dataset_info:nope.*label"):
    get("dataset_info:nope")
  with pytest.raises(ValueError, match="no names for this feature"):
    get("dataset_info:image")
  with pytest.raises(ValueError, match="no dataset 'diggits'.*digits"):
    get("dataset_info:label", "diggits")
  # Nobody needs the images of a dataset to know its classes.
  assert len(get("dataset_info:label", "cifar10")) == 10


def test_own_templates():
  own = ["A photo of {}!", "{}"]
  assert pe.get_prompt_templates(own) == ["a photo of {}", "{}"]
  assert pe.get_prompt_templates(own, canonicalize=False) == own


def test_class_names_of_a_file(tmp_path):
  path = tmp_path / "names.txt"
  path.write_text("Tabby_cat, tabby\nDog\n\n")
  names = pe.get_class_names(dataset_name="mine", source=f"file:{path}")
  assert names == ["tabby cat, tabby", "dog"]
  # As Windows writes it; U+2028 belongs to the name.
  path.write_bytes("\ufeffDog\r\nCat\u2028y\r\n".encode())
  names = pe.get_class_names(
    dataset_name="mine", source=f"file:{path}", canonicalize=False
  )
  assert names == ["Dog", "Cat\u2028y"]
  path.write_text("a\n\nb")
  with pytest.raises(ValueError, match="names.txt.*line 2 is empty"):
    pe.get_class_names(dataset_name="mine", source=f"file:{path}")
  path.write_text("\n")
  with pytest.raises(ValueError, match="names.txt.*it is empty"):
    pe.get_class_names(dataset_name="mine", source=f"file:{path}")
  with pytest.raises(ValueError, match="other.txt"):
    pe.get_class_names(dataset_name="mine", source=f"file:{path}/other.txt")
