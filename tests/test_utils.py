"""`big_vision.utils` is a door: same objects, every public name."""

import importlib
import inspect

import pytest

from big_vision import utils

PUBLIC = """
  onehot sigmoid_xent softmax_xent weighted_softmax_xent
  bidirectional_contrastive_loss accumulate_gradient steps itstime
  create_learning_rate_schedule get_mixup mixup _traverse_with_names
  tree_flatten_with_names tree_unflatten tree_map_with_names
  tree_map_with_regex tree_get tree_replace tree_compare tree_filter
  tree_broadcast recover_tree recover_dtype check_and_compile_patterns
  make_mask_trees Chrono chrono hms log_memory BigVisionMetricWriter npload
  load_checkpoint_np load_params save_checkpoint_ts load_checkpoint_ts tssave
  tsload create_device_mesh put_cpu jit_cpu reshard
  make_fsarray_from_local_slice get_local_slice_from_fsarray
  assert_local_slices_same sync pad_shard_unpad prefetch_scalar Registry
  maybe_cleanup_workdir checkpointing_timeout startstop_prof
  startstop_prof_at_steps profile save_checkpoint load_checkpoint
  sync_all_hosts
""".split()


@pytest.mark.parametrize("name", PUBLIC)
def test_same_object_as_at_home(name):
  obj = getattr(utils, name)
  home = inspect.getmodule(obj if callable(obj) else type(obj))
  assert home.__name__ != "big_vision.utils"
  # `sync_all_hosts` is a second name of `sync`.
  names = [
    n
    for n, v in vars(importlib.import_module(home.__name__)).items()
    if v is obj
  ]
  assert name in names


def test_nothing_else():
  public = {n for n in vars(utils) if not n.startswith("__")}
  assert public == set(PUBLIC)
