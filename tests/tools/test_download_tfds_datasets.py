"""Download tool: which names it takes, what it prepares, how it fails."""

import pytest

from big_vision.tf import tfds
from big_vision.tools import download_tfds_datasets as tool

pytestmark = pytest.mark.tf


class FakeBuilder:
  """Stands in for a TFDS builder, since tests download nothing."""

  def __init__(self, name, data_dir, error=None):
    self.name, self.data_dir, self.error = name, data_dir, error
    self.prepared = 0

  def download_and_prepare(self):
    if self.error:
      raise self.error
    self.prepared += 1


@pytest.fixture
def builders(monkeypatch, tmp_path):
  made = {}

  def builder(name, data_dir=None):
    error = AssertionError("download it by hand") if "2012" in name else None
    made[name] = FakeBuilder(name, data_dir, error)
    return made[name]

  monkeypatch.setattr(tfds, "builder", builder)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  return made


def test_default_names(builders, tmp_path, capsys):
  tool.main([])
  assert list(builders) == [
    "cifar10",
    "cifar100",
    "oxford_iiit_pet",
    "oxford_flowers102",
    "imagenet_v2",
  ]
  assert all(b.prepared == 1 for b in builders.values())
  assert {b.data_dir for b in builders.values()} == {str(tmp_path)}
  assert f"cifar100: {tmp_path}" in capsys.readouterr().out


def test_names_may_carry_config_and_version(builders):
  tool.main(
    ["coco/2017_panoptic", "cifar10:3.0.2", "imagenet_v2/top-images:3.*.*"]
  )
  assert all(b.prepared == 1 for b in builders.values())
  assert len(builders) == 3


def test_embedded_datasets(builders, tmp_path, capsys):
  tool.main(["digits:1.0.0", "shapes/tiny"])
  assert not builders  # TFDS does not know these.
  assert (tmp_path / "digits/1.0.0/dataset_info.json").exists()
  assert (tmp_path / "shapes/tiny/1.0.0/dataset_info.json").exists()
  assert "shapes/tiny: " in capsys.readouterr().out


def test_failure_of_one_does_not_stop_the_others(builders):
  with pytest.raises(RuntimeError, match="imagenet2012: download it by hand"):
    tool.prepare(["imagenet2012", "cifar10"])
  assert builders["cifar10"].prepared == 1


@pytest.mark.parametrize(
  "name,message",
  [
    ("cifr10", "cifar10"),
    ("digit", "digits"),
    ("cifar10:9.9.9", "9.9.9"),
    ("coco/2099", "2099"),
    ("shapes/tinny", "Did you mean 'tiny'"),
    ("digits:2.0.0", "version 1.0.0 of 'digits' only"),
    ("digits/small", "'small'"),
    ("a b", "is not a name"),
  ],
)
def test_bad_names_fail_before_anything_is_prepared(
  name, message, tmp_path, monkeypatch
):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(ValueError, match=message):
    tool.prepare(["digits", name])
  assert not list(tmp_path.iterdir())
