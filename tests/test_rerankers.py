import pytest
import torch
from torch import nn
from worlds import field_of, make_lists, with_made_up_words

from dnrlib.errors import ConfigError
from dnrlib.losses import bernoulli
from dnrlib.metrics import expected_random_ndcg, ndcg, rank
from dnrlib.rerankers import PRM, RERANKERS, SCORE_USES, build
from dnrlib.rerankers.base import initial_rank
from dnrlib.rerankers.prm import EncoderLayer

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def prm(score_use="rank", lists=LISTS, **options):
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, "feed_forward": 24, "dropout": 0.0} | options
    model = build("prm", lists, score_use=score_use, **sizes)
    nn.init.normal_(model.recency)
    return model


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def permuted(batch, seed=1):
    """The batch with the candidates of each list in another order, and that order."""
    torch.manual_seed(seed)
    order = torch.rand(batch.items.shape).argsort(dim=1)
    names = ("items", "scores", "labels", "shown")
    return field_of(batch, **{n: getattr(batch, n).gather(1, order) for n in names}), order


@pytest.mark.parametrize("shared", [True, False])
def test_dropout_is_shared_by_the_candidates_of_a_list_if_wanted(shared):
    torch.manual_seed(0)
    drop = prm(dropout=0.25, shared_dropout=shared).dropout.train()
    x = torch.ones(400, 5, 8)
    y = drop(x)
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert (y == y[:, :1]).all() == shared
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("score_use", SCORE_USES)
def test_prm_is_permutation_equivariant(score_use):
    model = prm(score_use)
    other, order = permuted(BATCH)
    assert_close(model(other, other.scores), model(BATCH, BATCH.scores).gather(1, order))


@pytest.mark.parametrize("score_use", SCORE_USES)
def test_each_score_use_reads_what_it_says(score_use):
    model = prm(score_use)
    logits = model(BATCH, BATCH.scores)
    same_ranks = model(BATCH, BATCH.scores / 2)
    other_ranks = model(BATCH, 1 - BATCH.scores)
    assert torch.equal(logits, same_ranks) == (score_use in ("none", "rank"))
    assert torch.equal(logits, other_ranks) == (score_use == "none")


def test_candidates_see_each_other():
    scores = BATCH.scores.clone()
    scores[:, 0] = 1 - scores[:, 0]
    model = prm("concat")
    assert (model(BATCH, scores) != model(BATCH, BATCH.scores))[:, 1:].all()


def test_lists_do_not_see_each_other():
    model = prm()
    assert_close(model(BATCH[2:3], BATCH.scores[2:3]), model(BATCH, BATCH.scores)[2:3])


def test_initial_rank_by_hand():
    scores = torch.tensor([[0.2, 0.9, 0.1, 0.5]])
    assert initial_rank(scores).tolist() == [[2, 0, 3, 1]]


@pytest.mark.parametrize("score_use", SCORE_USES)
def test_the_gradient_reaches_every_parameter(score_use):
    model = prm(score_use)
    bernoulli(model(LISTS, LISTS.scores), LISTS.labels).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("score_use", SCORE_USES)
def test_the_gradient_reaches_the_scores_where_they_are_used_as_numbers(score_use):
    scores = BATCH.scores.clone().requires_grad_()
    prm(score_use)(BATCH, scores).sum().backward()
    assert (scores.grad is not None) == (score_use not in ("none", "rank"))


def test_prm_does_not_read_labels_shown_split_or_number():
    model = prm("concat")
    other = field_of(
        BATCH, labels=~BATCH.labels, shown=~BATCH.shown, split=2 - BATCH.split, list=BATCH.list + 7
    )
    assert torch.equal(model(other, BATCH.scores), model(BATCH, BATCH.scores))


def test_encode_does_not_read_the_scores():
    model = prm("concat")
    other = field_of(BATCH, scores=1 - BATCH.scores)
    assert torch.equal(model.encode(other), model.encode(BATCH))
    assert torch.equal(model.score(model.encode(other), BATCH.scores), model(BATCH, BATCH.scores))


@pytest.mark.parametrize("name", ["users", "history", "items"])
def test_prm_reads_user_history_and_items(name):
    model = prm("none")
    tensor = getattr(BATCH, name)
    other = field_of(BATCH, **{name: tensor.flip(0)})
    assert not torch.equal(model(other, BATCH.scores), model(BATCH, BATCH.scores))


def test_padding_in_the_history_has_no_effect():
    model = prm()
    batch = LISTS[(LISTS.history == 0).any(dim=1)]
    logits = model(batch, batch.scores)
    model.item.weight.data[0] = 9.0
    assert torch.equal(model(batch, batch.scores), logits)
    longer = prm(lists=make_lists(history=8))
    longer.load_state_dict(model.state_dict() | {"recency": longer.recency.data})
    longer.recency.data[-5:] = model.recency.data
    wide = field_of(batch, history=nn.functional.pad(batch.history, (3, 0)))
    assert_close(longer(wide, batch.scores), logits)


def test_the_history_is_weighed_by_recency():
    model = prm()
    full = LISTS[(LISTS.history > 0).all(dim=1)]
    turned = field_of(full, history=full.history.flip(1))
    assert not torch.allclose(model(turned, full.scores), model(full, full.scores))


def test_prm_can_learn_lists_by_heart():
    lists = LISTS[:64]
    model = prm("none", dim=32)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        bernoulli(model(lists, lists.scores), lists.labels).backward()
        optimiser.step()
    assert ndcg(rank(model(lists, lists.scores), lists.labels), 6).mean() > 0.99


def copied(ours, dim, heads, feed_forward):
    """torch's layer with the weights of ours."""
    theirs = nn.TransformerEncoderLayer(dim, heads, feed_forward, 0.0, batch_first=True)
    pairs = [
        (theirs.self_attn.out_proj, ours.output),
        (theirs.linear1, ours.widen),
        (theirs.linear2, ours.narrow),
        (theirs.norm1, ours.norm_attention),
        (theirs.norm2, ours.norm_feed_forward),
    ]
    for to, origin in pairs:
        to.load_state_dict(origin.state_dict())
    theirs.self_attn.in_proj_weight.data = ours.query_key_value.weight.data
    theirs.self_attn.in_proj_bias.data = ours.query_key_value.bias.data
    return theirs


@pytest.mark.parametrize("training", [True, False])
def test_encoder_layer_agrees_with_torch(training):
    torch.manual_seed(0)
    ours = EncoderLayer(12, 3, 20, dropout=nn.Identity())
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    theirs = copied(ours, 12, 3, 20).train(training)
    x = torch.randn(4, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only():
    model = prm(dropout=0.5)
    assert not torch.equal(model(BATCH, BATCH.scores), model(BATCH, BATCH.scores))
    model.eval()
    assert torch.equal(model(BATCH, BATCH.scores), model(BATCH, BATCH.scores))


def test_score_and_score_reversed():
    keep, turn = build("score", LISTS), build("score-reversed", LISTS)
    assert torch.equal(keep(BATCH, BATCH.scores), BATCH.scores)
    assert torch.equal(turn(BATCH, BATCH.scores), -BATCH.scores)
    forward = rank(keep(LISTS, LISTS.scores), LISTS.labels)
    backward = rank(turn(LISTS, LISTS.scores), LISTS.labels)
    assert torch.equal(forward, backward.flip(1))
    assert ndcg(forward, 6).mean() > expected_random_ndcg(LISTS.labels, 6).mean() + 0.1


def test_metrics_of_an_equivariant_reranker_do_not_depend_on_the_input_order():
    model = prm("concat").eval()
    other, _ = permuted(LISTS)
    ours = ndcg(rank(model(LISTS, LISTS.scores), LISTS.labels), 6)
    theirs = ndcg(rank(model(other, other.scores), other.labels), 6)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", RERANKERS)
def test_build_takes_the_sizes_from_the_lists(name):
    logits = build(name, with_made_up_words(LISTS))(BATCH, BATCH.scores)
    assert logits.shape == BATCH.scores.shape
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bert", {}, "'bert' is unknown: choose one of score, score-reversed, popularity"),
        ("prm", {"width": 8}, "width"),
        ("prm", {"n": 8}, "n"),
        ("score", {"dim": 8}, "dim"),
        ("prm", {"score_use": "multiply"}, "'multiply' is unknown: choose one of none, rank"),
        ("prm", {"dim": 10, "heads": 4}, "dim = 10 is not a multiple of heads = 4"),
    ],
)
def test_build_refuses_what_it_does_not_know(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, LISTS, **options)


def test_prm_s_defaults_are_the_paper_s():
    model = PRM(3, 5)
    assert model.item.weight.shape == (6, 128)
    assert len(model.layers) == 2
    assert model.score_input.position.weight.shape == (50, 128)
