"""How well the doc alone tells positives from negatives, without the query: .5 where nothing is learned that way."""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

FOLDS = 3
FEATURES = 2**16  # words are hashed into as many
MOST = 20_000  # pairs that the words are learned from


class QueryBlind(NamedTuple):
    """Areas under the ROC curve of telling positives from negatives by the doc."""

    identity: float  # by how often the doc itself is a positive and a negative: what training can learn by heart
    words: float | None  # by a linear model of its words, on docs that it was not fitted on; None with too few docs

    @property
    def said(self):
        """A line for people."""
        words = "" if self.words is None else f"; by the words of docs not seen before {self.words:.2f}"
        return (
            f"query_blind: without reading the query, positives are told from negatives with an AUC of "
            f"{self.identity:.2f} by which doc it is{words} (0.50: not at all)"
        )


def query_blind(collection, split, queries, docs):
    """The QueryBlind of the negatives docs (n,) of the query rows queries (n,), and of these queries' positives.

    A query's positives weigh as much as its negatives, 1 each. None if no query has both.
    """
    qrels, groups = collection.split(split), collection.docs.groups
    owner = np.repeat(qrels.queries, np.diff(qrels.indptr))
    relevant = (qrels.grades >= 1) & np.isin(owner, queries)
    listed = np.isin(queries, owner[relevant])
    asked = np.concatenate([owner[relevant], queries[listed]])
    found = groups[np.concatenate([qrels.docs[relevant], docs[listed]])]
    pulled = np.arange(len(asked)) < relevant.sum()
    if not len(asked):
        return None
    rows = len(collection.queries)
    weights = 1 / np.bincount(asked + rows * pulled, minlength=2 * rows)[asked + rows * pulled]
    pulls, all_of_it = (np.bincount(found, weights * of, minlength=len(groups)) for of in (pulled, 1))
    from sklearn import metrics  # here: heavy, and this is the only one that wants it

    identity = metrics.roc_auc_score(pulled, pulls[found] / all_of_it[found], sample_weight=weights)
    return QueryBlind(float(identity), _by_words(collection, found, pulled, weights))


def _by_words(collection, docs, pulled, weights):
    """The area for docs that a logistic regression of hashed words was not fitted on; a text is in one fold only."""
    from sklearn import feature_extraction, linear_model, metrics, model_selection

    few = np.linspace(0, len(docs) - 1, min(len(docs), MOST)).astype(int)  # positives and negatives alike
    docs, pulled, weights = docs[few], pulled[few], weights[few]
    texts, rows = np.unique(docs, return_inverse=True)
    if len(texts) < 10 * FOLDS:
        return None
    words = feature_extraction.text.HashingVectorizer(n_features=FEATURES)
    found = words.transform(collection.docs.text(int(doc)) for doc in texts)[rows]
    scores = np.zeros(len(docs))
    folds = list(model_selection.GroupKFold(FOLDS).split(docs, groups=docs))
    for fit, test in tqdm(folds, unit="fold", desc="telling docs apart without queries", delay=2):
        if len(set(pulled[fit])) < 2:
            return None
        model = linear_model.LogisticRegression(max_iter=200).fit(found[fit], pulled[fit], weights[fit])
        scores[test] = model.decision_function(found[test])
    return float(metrics.roc_auc_score(pulled, scores, sample_weight=weights))
