"""Rules of configs: pairs, and patterns that match nothing."""

import pytest

from big_vision import lookup, rules

NAMES = [
  "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel",
  "Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel",
  "head/bias",
  "head/kernel",
  "pos_embedding",
]


def test_check_pairs():
  given = [("head/.*", 0.1), [".*", None]]
  assert rules.check_pairs(given, "k") == [("head/.*", 0.1), (".*", None)]
  for bad in ("head/.*", 3, {"head/.*": 1}, [("a",)], ["ab"], [(1, 2)]):
    with pytest.raises(lookup.ConfigError, match="^config.x .*list of pairs"):
      rules.check_pairs(bad, "config.x")
  with pytest.raises(lookup.ConfigError, match=r"'\*' cannot be read as a reg"):
    rules.check_pairs([("*", 1)], "config.x")


@pytest.mark.parametrize(
  "pattern, hint",
  [
    ("hed/.*", "The nearest names are 'head/bias', 'head/kernel'."),
    ("pos_embeding", "'pos_embedding'"),
    ("head", "only a part of 'head/bias', 'head/kernel'.*'.*head.*'"),
    (".*/MlpBlok_0/.*", "'Transformer/encoderblock_0/Mlp"),
    ("encoderblock_.*", "only a part of 'Transformer/encoderblock_0"),
    ("^haed/(kernel|bias)$", "'head/"),
    ("txt/.*", "Names start with 'Transformer', 'head', 'pos_embedding'."),
  ],
)
def test_check_used_suggests(pattern, hint):
  with pytest.raises(lookup.ConfigError, match=f"^config.x: .*{hint}") as e:
    rules.check_used(["head/.*", pattern], NAMES, "config.x")
  assert "\n" not in str(e.value)


def test_check_used_accepts():
  patterns = (".*", ".*FREEZE_ME.*", "head/.*", ".*/kernel", "^pos_embedding$")
  rules.check_used(patterns, NAMES, "config.x")
  rules.check_used(["nothing"], [], "config.x")
