"""Probes: simple predictors on the features of a frozen model.

Functions of arrays, which know nothing of models and datasets: `neighbors` (k
nearest neighbors), `ridge` (closed form), `logistic` (L-BFGS) and `sgd` fit
classifiers, `dense` fits them to each patch and `maps` measures their maps.
`selection` chooses settings on held-out examples, `table` prints results.

Shapes: N training examples, M test examples, D features, C classes.
"""
