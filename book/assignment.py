"""Assignment: Reranking as denoising.

Fill in the functions, keep their names, and have them marked as often as you like:

    dnr grade assignment.py --assignment

The page *Assignment* of the book has the tasks in words and the points. Import NumPy, PyTorch and
SciPy as you need them; functions of your own may stand beside these.
"""


def ndcg(labels, k):
    """NDCG@k of the labels [n] of one list, each 0 or 1, best place first; one at least is 1."""
    return ...  # yours


def expected_random_ndcg(positives, n, k):
    """Expected NDCG@k of n candidates in random order, of which some are positive."""
    return ...  # yours


def posterior(p_x, p_z_given_x):
    """The table p(x | z), [z, x], from p_x, [x], and p(z | x), [x, z]."""
    return ...  # yours


def bound_gap(phi, world):
    """How far L_z + L_adv + L_x lies above -log p(z): a tensor [z].

    phi is the generator, [z, x]; world.p_x_given_z is the table of the real noise, [z, x].
    """
    return ...  # yours


def reranker_loss(logits, noisy_logits, labels, lambda_m):
    """L_theta in nats a candidate, from tensors [lists, n] of numbers; the labels are 0 or 1."""
    return ...  # yours


def best_response(p_x, q_z, weight):
    """The law of x, [X], that minimises weight * E log q_z + KL to p_x; q_z is q(z | x), [X]."""
    return ...  # yours


def holm_adjusted(p):
    """Holm's adjusted p-values, an array like p, each in its own place."""
    return ...  # yours


def small_experiment(settings, seeds):
    """Runs of the score alone, of concat and of DNR-B, and what DNR-B adds.

    settings is for dnrlib.experiments.run_config, with a method and a seed besides; seeds is a
    list of whole numbers. Returns {"runs": rows, "gain": ..., "low": ..., "high": ...}, where each
    row is {"method": ..., "seed": ..., "ndcg": NDCG@6 on the test lists}.
    """
    return ...  # yours
