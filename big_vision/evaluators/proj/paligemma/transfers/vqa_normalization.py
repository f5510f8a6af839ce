"""Brings answers to questions into the form in which VQA compares them.

The rules and tables are those of the evaluation of VQA v2, whose program is
vqaEval.py of https://github.com/GT-Vision-Lab/VQA.

Reference: Antol et al. 2015, https://arxiv.org/abs/1505.00468.
"""

import re

NUMBERS = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen"
  " fourteen fifteen sixteen seventeen eighteen nineteen twenty"
).split()

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = ("a", "an", "the")
_CONTRACTIONS = """
  ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
  hadn't've hasn't haven't he'd he'd've he's how'd how'll how's I'd've I'm I've
  isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
  needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
  shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
  someone'll someone's something'd something'd've something'll that's there'd
  there'd've there're there's they'd they'd've they'll they're they've 'twas
  wasn't we'd've we've weren't what'll what're what's what've when's where'd
  where's where've who'd who'd've who'll who's who've why'll why're why's won't
  would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
  you're you've
"""


def number_words(most: int) -> dict[str, str]:
  """Lists words of numbers.

  Args:
    most: the largest number, up to 20.

  Returns:
    Word -> digits, with "none" for 0.
  """
  digits = {word: str(i) for i, word in enumerate(NUMBERS[: most + 1])}
  return {"none": "0", **digits}


def _replaced() -> dict[str, str]:
  """Lists words and what they become: contractions that lack an apostrophe."""
  lacking = {
    full[:i] + full[i + 1 :]: full
    for full in _CONTRACTIONS.split()
    for i, char in enumerate(full)
    if char == "'"
  }
  # Three entries of the program are not of this kind.
  odd = {"let's": "let's", "she's": "she's", "somebody'd": "somebodyd"}
  return {**lacking, **odd, **number_words(10)}


# Words with capitals are never found, as in the program.
REPLACED = _replaced()


def normalize(text: str) -> str:
  """Removes punctuation, capitals and articles, and writes numbers as digits.

  Args:
    text: an answer, without spaces around it.

  Returns:
    "2 dogs don't" for "Two dogs, the dont."
  """
  has_comma = re.search(r"\d,\d", text)
  marks = {
    mark: "" if has_comma or f"{mark} " in text or f" {mark}" in text else " "
    for mark in _PUNCTUATION
  }
  text = re.sub(r"\.(?!\d)", "", text.translate(str.maketrans(marks)))
  words = [w for w in text.lower().split() if w not in _ARTICLES]
  return " ".join(REPLACED.get(word, word) for word in words)
