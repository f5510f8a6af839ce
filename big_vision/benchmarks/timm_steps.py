"""Training steps of timm's models in PyTorch, to compare with.

Each has the sizes of one of this package's models, read from its fields, AdamW,
clipping by the global norm and the same precision; PyTorch runs them eagerly, on all
cores. Both packages are imported when they are called for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from big_vision import lookup
from big_vision.benchmarks import steps
from big_vision.models import convnet, vit

_POOLS = {"gap": "avg", "tok": "token", "map": "map"}


def _vit(model: Any, size: int) -> Any:
  from timm.models.vision_transformer import VisionTransformer

  return VisionTransformer(
    img_size=size,
    patch_size=model.patch_size[0],
    embed_dim=model.width,
    depth=model.depth,
    num_heads=model.num_heads,
    mlp_ratio=(model.mlp_dim or 4 * model.width) / model.width,
    class_token=model.pool_type == "tok",
    no_embed_class=True,
    global_pool=_POOLS[model.pool_type],
    fc_norm=False,
    num_classes=model.num_classes or 0,
  )


def _mixer(model: Any, size: int) -> Any:
  from timm.models.mlp_mixer import MlpMixer

  width = model.hidden_dim
  return MlpMixer(
    img_size=size,
    patch_size=model.patch_size[0],
    num_blocks=model.num_blocks,
    embed_dim=width,
    mlp_ratio=(model.tokens_mlp_dim / width, model.channels_mlp_dim / width),
    num_classes=model.num_classes,
  )


def _bit(model: Any, size: int) -> Any:
  from timm.layers import GroupNormAct, StdConv2d
  from timm.models.resnetv2 import ResNetV2

  del size  # It takes any.
  return ResNetV2(
    layers=list(convnet.num_blocks(model.depth)),
    channels=[int(model.width * c) for c in (256, 512, 1024, 2048)],
    stem_chs=int(64 * model.width),
    stem_type="fixed",
    conv_layer=StdConv2d,
    norm_layer=GroupNormAct,
    num_classes=model.num_classes,
  )


def _text(config: dict[str, Any], out_dim: int) -> Any:
  """Makes the text tower of SigLIP; its embedding is made of the last token."""
  import torch
  from timm.models.vision_transformer import Block
  from torch import nn

  sizes = {**vit.decode_variant(config["variant"]), **config}
  width, heads = sizes["width"], sizes["num_heads"]
  ratio = (sizes.get("mlp_dim") or 4 * width) / width
  blocks = (
    Block(width, heads, mlp_ratio=ratio, qkv_bias=True)
    for _ in range(sizes["depth"])
  )

  class Text(nn.Module):
    def __init__(self):
      super().__init__()
      self.embed = nn.Embedding(sizes["vocab_size"], width)
      positions = 0.02 * torch.randn(1, steps.TOKENS, width)
      self.positions = nn.Parameter(positions)
      self.blocks = nn.Sequential(*blocks)
      self.norm = nn.LayerNorm(width, eps=1e-6)
      self.head = nn.Linear(width, out_dim)

    def forward(self, tokens):  # [B, L]
      x = self.blocks(self.embed(tokens) + self.positions)
      return self.head(self.norm(x)[:, -1])

  return Text()


def _two_towers(model: Any, size: int) -> Any:
  """Makes SigLIP; calling it returns the logits of all pairs."""
  import torch
  from torch import nn
  from torch.nn import functional

  class TwoTowers(nn.Module):
    def __init__(self):
      super().__init__()
      self.img = _vit(vit.Model(**model.image), size)
      self.txt = _text(dict(model.text), model.out_dim[1])
      self.t = nn.Parameter(torch.tensor(np.log(model.temperature_init)))
      self.b = nn.Parameter(torch.tensor(float(model.bias_init)))

    def forward(self, image, text):
      x = functional.normalize(self.img(image), dim=-1)
      y = functional.normalize(self.txt(text), dim=-1)
      return x @ y.T * self.t.exp() + self.b

  return TwoTowers()


_MAKE = {
  "vit": _vit,
  "mlp_mixer": _mixer,
  "bit_paper": _bit,
  steps.TWO_TOWERS: _two_towers,
}


def make(
  name: str, model: Any, batch: dict[str, Any], dtype: str
) -> tuple[Callable[[int], None], int]:
  """Makes a step of PyTorch.

  Args:
    name: of the model.
    model: its linen module, which determines the sizes.
    batch: dict with `image` [B, H, W, 3] and one-hot `labels` [B, C] or, of pairs,
      tokens [B, L].
    dtype: of the computation; parameters are float32.

  Returns:
    Tuple (`run(steps)`, which runs steps and waits for the last one; number of
    parameters).

  Raises:
    ValueError: it is not compared.
  """
  import torch
  from torch import nn
  from torch.nn import functional

  device = "cuda" if torch.cuda.is_available() else "cpu"
  put = lambda x: torch.from_numpy(np.array(x)).to(device)
  image = put(batch["image"]).permute(0, 3, 1, 2).contiguous()
  labels = put(batch["labels"])
  size = image.shape[-1]
  if name not in _MAKE:
    raise lookup.unknown("model of timm", name, _MAKE, "--model")
  net = _MAKE[name](model, size)
  if name == steps.TWO_TOWERS:
    signs = 2 * torch.eye(len(image), device=device) - 1
    terms = lambda: functional.logsigmoid(signs * net(image, labels))
    loss_of = lambda: -terms().sum() / len(image)
  else:
    classes = labels.argmax(-1)
    loss_of = lambda: functional.cross_entropy(net(image), classes)
  net = net.to(device).train()
  parameters = list(net.parameters())
  optimizer = torch.optim.AdamW(
    parameters, lr=1e-3, weight_decay=1e-4, fused=True
  )

  def run(num):
    for _ in range(num):
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast(
        device, getattr(torch, dtype), enabled=dtype != "float32"
      ):
        loss = loss_of()
      loss.backward()
      nn.utils.clip_grad_norm_(parameters, 1.0)
      optimizer.step()
    loss.item()

  run(1)  # Allocates.
  return run, sum(p.numel() for p in parameters)
