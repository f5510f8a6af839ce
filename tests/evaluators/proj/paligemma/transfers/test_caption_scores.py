"""Scores of captions: by hand, and as COCO's own programs compute them."""

import math

import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import caption_scores


def words(*texts):
  return [text.split() for text in texts]


# Results of the program that COCO's evaluation uses, Stanford's PTBTokenizer.
@pytest.mark.parametrize(
  "text, tokens",
  [
    ('A man (with a hat) is "riding" a horse.',
     "a man -lrb- with a hat -rrb- is riding a horse"),
    ("It's a dog's life, don't you think?",
     "it 's a dog 's life do n't you think"),
    ("The U.S. flag; St. Mary's -- wow...", "the u.s. flag st. mary 's wow"),
    ("black-and-white t-shirt", "black-and-white t-shirt"),
    ("and/or cats/dogs", "and/or cats/dogs"),
    ("I cannot go, gonna", "i can not go gon na"),
    ("costs $3.50, 1,000 people & 50% off",
     "costs $ 3.50 1,000 people & 50 % off"),
    ("café naïve 你好 हिन्दी ภาษา", "café naïve 你好 हिन्दी ภาษา"),
    ("“quoted” ‘single’ it’s — em – en", "quoted single it 's em en"),
    ("semi;colon co:lon 16:9", "semi colon co lon 16:9"),
    ("hello,world a cat.a dog", "hello world a cat.a dog"),
    ("end of it.... really?! no!!", "end of it really ?! no !!"),
    ("can't CAN'T won't o'clock", "ca n't ca n't wo n't o'clock"),
    ("I'd've a plan b.", "i 'd 've a plan b."),
    ("dogs' '' 'quote' -foo foo- 1-2 -5", "dogs quote foo foo 1-2 -5"),
    ("[a] {b} #tag # 1", "-lsb- a -rsb- -lcb- b -rcb- #tag # 1"),
    ("a\nb\tc", "a b c"),
    ("...", ""),
    ("", ""),
  ],
)  # fmt: skip
def test_tokenize(text, tokens):
  assert caption_scores.tokenize(text) == tokens.split()


def test_bleu():
  bleu = caption_scores.bleu4
  same = words("a b c d e")
  assert bleu(same, [same]) == pytest.approx(1)
  # 4 of 5 words, 3 of 4 pairs, 2 of 3, 1 of 2.
  product = 4 / 5 * 3 / 4 * 2 / 3 * 1 / 2
  assert bleu(words("a b c d e"), [words("a b c d f")]) == pytest.approx(
    product**0.25
  )
  # Of two references together, and of two captions together: sums, no means.
  got = bleu(words("a b c d e", "x y"), [words("a b c d f", "a b"), same])
  product = 4 / 7 * 3 / 5 * 2 / 3 * 1 / 2
  # Lengths 5 and 2, wanted 5 and 5.
  assert got == pytest.approx(product**0.25 * math.exp(1 - 10 / 7))
  # A word counts as often as in the reference with the most of it.
  got = bleu(words("a a a a a"), [words("a a", "b", "a a a a b")])
  assert got == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
  # Of 3 and 5 words, both one off, the shorter one is wanted.
  assert bleu(words("a b c d"), [words("a b c", "a b c d e")]) == (
    pytest.approx(1)
  )
  got = bleu(words("a b c d"), [words("a b c d e")])
  assert got == pytest.approx(math.exp(1 - 5 / 4))
  assert bleu([[]], [same]) == 0
  assert bleu(words("a b c d"), [words("v w x y")]) < 1e-9
  # COCO's values.
  near = bleu(words("a b x y"), [words("a b c d")])
  assert near == pytest.approx(1.699e-8, rel=1e-3)
  assert bleu(words("a cat"), [words("a cat")]) == pytest.approx(1e-3)


# Candidate 1 of Papineni et al. 2002, example 1, and the references.
GUIDE = (
  "it is a guide to action which ensures that the military always obeys the"
  " commands of the party"
)
GUIDES = (
  "it is a guide to action that ensures that the military will forever heed"
  " party commands",
  "it is the guiding principle which guarantees the military forces always"
  " being under the command of the party",
  "it is the practical guide for the army always to heed the directions of the"
  " party",
)


def test_published_bleu():
  """Counts of the paper, and BLEU as NLTK computes it, in its documentation."""
  bleu = caption_scores.bleu4
  captions, references = words(GUIDE), [words(*GUIDES)]
  # Of all words of the candidate but "obeys", section 2.1; of pairs 10 of 17.
  count = 1
  for n, (same, num) in enumerate([(17, 18), (10, 17), (7, 16), (4, 15)], 1):
    grams = lambda x, n=n: [tuple(x[i : i + n]) for i in range(len(x) - n + 1)]
    found = grams(captions[0])
    most = {g: max(grams(r).count(g) for r in references[0]) for g in found}
    assert sum(min(found.count(g), most[g]) for g in most) == same
    assert len(found) == num
    count *= same / num
  assert bleu(captions, references) == pytest.approx(count**0.25)
  assert bleu(captions, references) == pytest.approx(0.5045666840)
  captions += words(
    "he read the book because he was interested in world history"
  )
  references += [
    words("he was interested in world history because he read the book")
  ]
  assert bleu(captions, references) == pytest.approx(0.5920778869)


def test_published_rouge():
  """The example of Lin 2004, section 3.1; any weight, as lengths are equal."""
  reference = words("police killed the gunman")
  for beta in (1.0, 1.2, 8.0):
    rouge = lambda x, beta=beta: caption_scores.rouge_l(
      words(x), [reference], beta
    )
    assert rouge("police kill the gunman") == pytest.approx(0.75)
    assert rouge("the gunman kill police") == pytest.approx(0.5)
    assert rouge("the gunman police killed") == pytest.approx(0.5)


def test_rouge():
  rouge = caption_scores.rouge_l
  assert rouge(words("a b"), [words("a b")]) == pytest.approx(1)
  # Precision 2/3 is that of the first reference, recall 1 of the second.
  want = (1 + 1.44) * (2 / 3) * 1 / (1 + 1.44 * 2 / 3)
  got = rouge(words("a b c"), [words("a x b", "c")])
  assert got == pytest.approx(want)
  got = rouge(words("a b c", "z", ""), [words("a x b", "c"), words("c"), [[]]])
  assert got == pytest.approx(want / 3)
  # In order: "b a" has one word of "a b".
  assert rouge(words("b a"), [words("a b")]) == pytest.approx(1 / 2)


def test_cider_by_hand():
  cider = caption_scores.cider
  # All n-grams of one and two words, no others.
  got = cider(words("a b", "c d"), [words("a b"), words("c d")])
  assert got == pytest.approx(10 * 2 / 4)
  # "a" is everywhere and counts nothing; "c a" is in no reference.
  got = cider(words("a b", "c a"), [words("a b"), words("a c")])
  assert got == pytest.approx((10 * 2 / 4 + 10 * 1 / 4) / 2)
  # Twice the word: clipped, cosine 1 / 2; one bigram more than the reference.
  got = cider(words("b b", "x"), [words("b"), words("y")])
  assert got == pytest.approx(10 / 4 / 2 * math.exp(-1 / 72) / 2)
  # The mean over references.
  got = cider(words("b", "x"), [words("b", "c", "d"), words("y")])
  assert got == pytest.approx(10 / 4 / 3 / 2)
  assert cider(words("a b"), [words("a b")]) == 0
  assert cider(words("", "b"), [words("a c"), words("b")]) == pytest.approx(
    10 / 4 / 2
  )


def test_cider_by_formula():
  """Equation 3 of the paper, over all n-grams that there are."""
  random = np.random.default_rng(0)
  text = lambda: random.choice(list("abcde"), random.integers(2, 9)).tolist()
  captions = [text() for _ in range(5)]
  references = [[text() for _ in range(1 + i % 3)] for i in range(5)]
  total = 0
  for n in (1, 2, 3, 4):
    grams = lambda x, n=n: [tuple(x[i : i + n]) for i in range(len(x) - n + 1)]
    every = sorted(
      {g for x in [*captions, *sum(references, [])] for g in grams(x)}
    )
    in_image = np.array(
      [
        [any(g in grams(r) for r in others) for g in every]
        for others in references
      ]
    )
    idf = np.log(5 / np.maximum(1, in_image.sum(0)))
    vector = lambda x, e=every, f=idf, g=grams: (
      np.array([g(x).count(y) for y in e]) * f
    )
    for words, others in zip(captions, references, strict=True):
      a = vector(words)
      for other in others:
        b = vector(other)
        norm = np.linalg.norm(a) * np.linalg.norm(b)
        value = np.minimum(a, b) @ b / norm if norm else 0
        value *= np.exp(-((len(words) - len(other)) ** 2) / (2 * 6**2))
        total += 10 / 4 * value / len(others) / 5
  assert caption_scores.cider(captions, references) == pytest.approx(total)
  assert total > 0.1


def test_values_of_coco():
  """What pycocoevalcap 1.2 says about the same texts."""
  texts = [
    ("A man's dog (brown) is running on the beach.",
     ["A brown dog runs on the beach.", "The man's dog is running on a beach",
      "Dog, running!"]),
    ("Two people don't sit on a red bench",
     ["Two people sit on a bench.",
      "A couple sitting on a red bench in the park"]),
    ("a plate",
     ["A plate of food with rice -- and meat",
      "There's a white plate on the table", "food"]),
    ("", ["A bus parked at the U.S. border.", "the bus at the border"]),
  ]  # fmt: skip
  captions = [caption_scores.tokenize(t) for t, _ in texts]
  references = [[caption_scores.tokenize(t) for t in x] for _, x in texts]
  want = {
    "bleu-4": 0.30125362653715615,
    "cider": 1.2703785920212778,
    "rouge": 0.49110736074723177,
  }
  got = {k: f(captions, references) for k, f in caption_scores.SCORES.items()}
  assert got == pytest.approx(want, rel=1e-9)
