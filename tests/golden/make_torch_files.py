"""Files of torch.save, in both of its forms, and the same arrays as npz.

  hf_venv/bin/python tests/golden/make_torch_files.py

writes `torch_files/{zip,older}.pth` and `torch_files/expected.npz`. Made with
torch 2.14.1. bfloat16 is float32 in the npz file.
"""

import argparse
import collections
import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent / "torch_files"


def _checkpoint():
  torch.manual_seed(0)
  layer = torch.nn.Linear(4, 3)
  optimizer = torch.optim.AdamW(layer.parameters())
  layer(torch.ones(2, 4)).sum().backward()
  optimizer.step()
  whole = torch.randn(7, 6)
  with_state = torch.nn.Parameter(torch.randn(2))
  with_state.note = "attributes of a tensor, which are stored, too"
  with_state.beside = torch.randn(3)
  return {
    "model": layer.state_dict(),
    "teacher": collections.OrderedDict(
      half=torch.randn(4).half(),
      bfloat16=torch.randn(2, 2).bfloat16(),
      float64=torch.randn(3).double(),
      int64=torch.arange(5),
      uint8=torch.arange(4).byte(),
      bool=torch.tensor([True, False]),
      complex64=torch.randn(2) * 1j,
      scalar=torch.tensor(2.5),
      empty=torch.zeros(0, 3),
      transposed=whole.t(),
      part=whole[2:5, 1:4],
      steps=whole[::3, ::2],
      with_state=with_state,
    ),
    "optimizer": optimizer.state_dict(),
    "args": argparse.Namespace(
      lr=0.1, out=pathlib.PurePosixPath("x"), device=torch.device("cpu")
    ),
    "epoch": 3,
    "metric": np.float64(0.5),
    "table": np.arange(3.0),
    "more": [torch.ones(2), "x", None, {1, 2}, torch.Size([1]), torch.float32],
    "pairs": {(1, 2): torch.zeros(2)},
  }


def _flat(x, name=""):
  if isinstance(x, torch.Tensor):
    x = x.detach()
    x = x.float() if x.dtype == torch.bfloat16 else x
    return {name[1:]: x.numpy()}
  items = x.items() if isinstance(x, dict) else ()
  items = enumerate(x) if isinstance(x, list) else items
  out = {}
  for k, v in items:
    if isinstance(k, str | int):  # Others are not read.
      out |= _flat(v, f"{name}.{k}")
  return out


if __name__ == "__main__":
  FOLDER.mkdir(exist_ok=True)
  checkpoint = _checkpoint()
  torch.save(checkpoint, FOLDER / "zip.pth")
  torch.save(
    checkpoint,
    FOLDER / "older.pth",
    _use_new_zipfile_serialization=False,
    pickle_protocol=4,
  )
  np.savez(FOLDER / "expected.npz", **_flat(checkpoint))
