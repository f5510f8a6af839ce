"""Average normalized Levenshtein similarity of answers to questions.

Reference: Biten et al. 2019, Scene Text Visual Question Answering,
https://arxiv.org/abs/1905.13648.
"""


def edit_distance(a: str, b: str) -> int:
  """Counts the edits that turn a text into another.

  Args:
    a: a text.
    b: another one.

  Returns:
    Smallest number of characters to insert, delete or replace.
  """
  row = list(range(len(b) + 1))  # From the first i characters of a.
  for i, x in enumerate(a):
    before, row[0] = row[0], i + 1
    for j, y in enumerate(b):
      edits = min(row[j] + 1, row[j + 1] + 1, before + (x != y))
      before, row[j + 1] = row[j + 1], edits
  return row[-1]


def anls(target: str, prediction: str, theta: float = 0.5) -> float:
  """Scores an answer by its similarity to the truth.

  Args:
    target: the truth.
    prediction: the answer.
    theta: edits per character from which on an answer counts as wrong.

  Returns:
    1 for equal texts, 0 for very different ones. Only an empty answer is right
    for an empty target.
  """
  if not target:
    return float(not prediction)
  longest = max(len(target), len(prediction))
  distance = edit_distance(target, prediction) / longest
  return 1 - distance if distance < theta else 0.0
