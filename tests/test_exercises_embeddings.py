"""The right answers of the exercises on embeddings are those of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, silhouette_samples

from dnrlib.exercises.embeddings import probe_auc, silhouette_of


def test_the_silhouette_is_that_of_scikit_learn():
    points, kinds = np.array([[0.0], [1.0], [5.0], [9.0]]), np.array([0, 0, 1, 1])
    expected = silhouette_samples(points, kinds)
    assert silhouette_of(1.0, 7.0) == pytest.approx(expected[0])
    assert silhouette_of(4.0, 4.5) == pytest.approx(expected[2])


@pytest.mark.parametrize("seed", range(5))
def test_the_auc_is_that_of_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(6, (40,), generator=generator).float()
    labels = torch.rand(40, generator=generator) < 0.3
    assert float(probe_auc(scores, labels)) == pytest.approx(roc_auc_score(labels, scores))
