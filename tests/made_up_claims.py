"""A claim that no paper makes."""

from dataclasses import replace

from dnrlib.claims import Claim, claims_history, load_claims, load_rules, rules_history


def claim(id="made-up", **changed):
    plain = Claim(
        id, "main", "DNR over PRM", "simulated", "ndcg@6 difference", "", "points", "a table",
        "difference", "small/concat - small/none", "50 %",
    )  # fmt: skip
    return replace(plain, **changed)


def forget():
    """Claims and rules are read once for each path, which means another file in another folder."""
    for function in (load_claims, load_rules, rules_history, claims_history):
        function.cache_clear()
