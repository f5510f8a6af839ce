"""Re-exports the public names of the library under one import.

Every name here is the same object as in its own module. New code imports that
module; this one keeps `import big_vision.utils as u` working.
"""

# ruff: noqa: F401  (Re-exports are the purpose of this module.)

from big_vision.checkpoints import (
  load_checkpoint,
  load_checkpoint_np,
  load_checkpoint_ts,
  load_params,
  npload,
  save_checkpoint,
  save_checkpoint_ts,
  tsload,
  tssave,
)
from big_vision.chrono import Chrono, chrono, hms, log_memory
from big_vision.devices import (
  assert_local_slices_same,
  create_device_mesh,
  get_local_slice_from_fsarray,
  jit_cpu,
  make_fsarray_from_local_slice,
  pad_shard_unpad,
  prefetch_scalar,
  put_cpu,
  reshard,
  sync,
  sync_all_hosts,
)
from big_vision.grads import accumulate_gradient
from big_vision.losses import (
  bidirectional_contrastive_loss,
  onehot,
  sigmoid_xent,
  softmax_xent,
  weighted_softmax_xent,
)
from big_vision.metrics import BigVisionMetricWriter
from big_vision.mixup import get_mixup, mixup
from big_vision.pp.registry import Registry
from big_vision.profiler import (
  profile,
  startstop_prof,
  startstop_prof_at_steps,
)
from big_vision.schedules import (
  create_learning_rate_schedule,
  itstime,
  steps,
)
from big_vision.trees import (
  _traverse_with_names,
  check_and_compile_patterns,
  make_mask_trees,
  recover_dtype,
  recover_tree,
  tree_broadcast,
  tree_compare,
  tree_filter,
  tree_flatten_with_names,
  tree_get,
  tree_map_with_names,
  tree_map_with_regex,
  tree_replace,
  tree_unflatten,
)
from big_vision.workdir import checkpointing_timeout, maybe_cleanup_workdir
