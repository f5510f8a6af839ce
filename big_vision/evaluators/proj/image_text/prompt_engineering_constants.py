"""Lists the prompts of zero-shot classification, as tuples.

`prompt_engineering` has the functions that choose among them.
"""

from big_vision.evaluators.proj.image_text import clip_prompts

# As in CLIP, with the bare name in addition.
CLIP_PAPER_PROMPT_TEMPLATES = (*clip_prompts.IMAGENET, "{}")
CLIP_BEST_PROMPT_TEMPLATES = (*clip_prompts.IMAGENET_SELECTED, "{}")
