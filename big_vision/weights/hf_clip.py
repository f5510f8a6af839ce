"""CLIP of transformers: both towers, or one of them.

  CLIPModel                               proj.image_text.two_towers
  CLIPVisionModel[WithProjection], CLIPTextModel[WithProjection]

Reference: Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""
