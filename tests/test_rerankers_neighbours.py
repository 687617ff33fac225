"""HetComp, RankFlow, COPR, IRGAN and AdvIR: what each changes in the cascade, and nothing else."""

import math

import numpy as np
import pytest
import torch
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build
from dnrlib.rerankers.advir import loss_of
from dnrlib.rerankers.copr import alignment
from dnrlib.rerankers.hetcomp import discrepancy, distillation

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]
SMALL = {"dim": 16, "heads": 2, "feed_forward": 24, "dropout": 0.0}
STAGED = [("rankflow", "retriever"), ("copr", "retriever"), ("irgan", "discriminator")]


def small(name, seed=0, lists=LISTS, **options):
    torch.manual_seed(seed)
    return build(name, lists, **SMALL | options)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def with_gradient(loss, module):
    """The names of the module's parameters that a loss moves."""
    module.zero_grad()
    loss.backward()
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


# Both stages ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "other"), STAGED)
def test_serve_chooses_the_stage_and_nothing_else(name, other):
    first, second = small(name, score_use="concat"), small(name, score_use="concat", serve=other)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first(BATCH, BATCH.scores), second(BATCH, BATCH.scores))
    expected = getattr(second, other)(BATCH, BATCH.scores)
    assert torch.equal(second(BATCH, BATCH.scores), expected)
    with pytest.raises(ConfigError, match="serve 'both' is unknown: choose one of"):
        small(name, serve="both")


@pytest.mark.parametrize("name", ["rankflow", "copr"])
def test_the_earlier_stage_sees_no_score_and_one_candidate_at_a_time(name):
    model = small(name, score_use="concat", serve="retriever").eval()
    logits = model(BATCH, BATCH.scores)
    assert torch.equal(logits, model(BATCH, 1 - BATCH.scores))
    items = BATCH.items.clone()
    items[:, 0] = LISTS.meta["items"] - items[:, 0] + 1
    changed = model(field_of(BATCH, items=items), BATCH.scores)
    assert torch.equal(changed[:, 1:], logits[:, 1:])
    assert not torch.equal(changed[:, 0], logits[:, 0])


@pytest.mark.equation("eq-neighbours-stages")
def test_the_earlier_stage_is_a_dot_product_and_a_bias():
    model = small("copr", serve="retriever").retriever
    with torch.no_grad():
        model.bias.normal_()
    weight = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    batch = LISTS[(LISTS.history == 0).any(dim=1)][:1]
    real = [item for item in batch.history[0].tolist() if item]  # equal weights at first
    history = sum(weight["item.weight"][item] for item in real) / len(real)
    joined = np.concatenate([weight["user.weight"][batch.users[0]], history])
    request = weight["request.weight"] @ joined + weight["request.bias"]
    wanted = [weight["item.weight"][i] @ request + weight["bias"][i] for i in batch.items[0]]
    assert model(batch)[0].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rankflow", {"passed": 0.0}, "passed = 0.0"),
        ("rankflow", {"places": 12}, "places = 12 of 12 candidates"),
        ("copr", {"chunks": 1}, "chunks = 1"),
        ("copr", {"weight": -1.0}, "weight = -1.0"),
        ("irgan", {"liked_share": 1.0}, "liked_share = 1.0"),
        ("advir", {"epsilon": -0.1}, "epsilon = -0.1"),
        ("hetcomp", {"snapshots": 0}, "snapshots = 0"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        small(name, **options)


# RankFlow ---------------------------------------------------------------------------------


@pytest.mark.equation("eq-rankflow-tutor")
def test_the_tutor_s_loss_by_hand():
    model = small("rankflow", places=2, alpha=0.25)
    student, teacher = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[2.0, -2.0, 0.0]])
    s, t = sigmoid([0, 1, -1]), sigmoid([2, -2, 0])
    ahead = (s[0] + s[2]) / 2 - s[1]  # the teacher's first two are candidates 0 and 2
    wanted = 0.75 * np.mean((s - t) ** 2) + 0.25 * math.log(1 + math.exp(-ahead))
    assert model.tutor(student, teacher).item() == pytest.approx(wanted, abs=1e-6)


def test_the_tutor_moves_the_earlier_stage_alone():
    model = small("rankflow")
    later = model.reranker(BATCH, BATCH.scores)
    moved = with_gradient(model.tutor(model.retriever(BATCH), later.detach()), model)
    assert moved
    assert all(name.startswith("retriever.") for name in moved)


@pytest.mark.equation("eq-rankflow-samples")
def test_what_is_handed_on_follows_the_earlier_stage_and_holds_the_liked():
    model = small("rankflow", passed=0.25)
    torch.manual_seed(0)
    retrieved = torch.zeros(4000, 12)
    retrieved[:, 3] = 2.0
    labels = torch.zeros(4000, 12, dtype=torch.bool)
    labels[:, 7] = True
    kept = model.hand_on(retrieved, labels)
    assert (kept.sum(dim=1) == 3).all()
    assert kept[:, 7].all()
    share = kept.float().mean(dim=0)
    # two of eleven are drawn one after the other, of which one has e² times the weight
    first, second = (math.e**2 / (math.e**2 + others) for others in (10, 9))
    assert share[3].item() == pytest.approx(first + (1 - first) * second, abs=0.02)
    others = (1 + (1 - first) * (1 - second)) / 10
    assert share[[0, 11]].tolist() == pytest.approx([others] * 2, abs=0.02)


def test_the_later_stage_learns_from_the_samples_alone():
    torch.manual_seed(1)
    model = small("rankflow", passed=0.1)
    later = model.reranker(BATCH, BATCH.scores)
    later.retain_grad()
    model.reranker.forward = lambda batch, scores: later
    model.hand_on = lambda retrieved, labels: labels
    model.loss(BATCH, BATCH.scores).backward()
    assert torch.equal(later.grad != 0, BATCH.labels)


# COPR -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-copr")
def test_the_alignment_by_hand():
    earlier, later = [0.3, -0.2, 0.5], [1.0, 0.0, -1.0]
    gain, discount = sigmoid(later), [1 / math.log2(place + 1) for place in (1, 2, 3)]
    ideal = sum(g * d for g, d in zip(gain, discount, strict=True))
    wanted = 0.0
    for i in range(3):
        for j in range(i + 1, 3):
            delta = (gain[i] - gain[j]) * (discount[i] - discount[j]) / ideal
            wanted += delta * math.log(1 + math.exp(earlier[j] - earlier[i]))
    found = alignment(torch.tensor([earlier, earlier]), torch.tensor([later, later]))
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_the_alignment_cares_for_the_order_and_for_the_first_places():
    later = torch.tensor([[3.0, 1.0, 0.5, 0.0, -1.0]])

    def loss(*earlier):
        return alignment(torch.tensor([earlier]), later).item()

    right, first_wrong, last_wrong = (5, 4, 3, 2, 1), (4, 5, 3, 2, 1), (5, 4, 3, 1, 2)
    assert loss(*map(float, right)) < loss(*map(float, last_wrong)) < loss(*map(float, first_wrong))


def test_one_candidate_is_drawn_of_each_chunk():
    model = small("copr", chunks=5)
    torch.manual_seed(0)
    later = torch.randn(2000, 12)
    place = later.argsort(dim=1, descending=True).argsort(dim=1).gather(1, model.draw(later))
    edges = [0, 2.4, 4.8, 7.2, 9.6, 12]
    for chunk in range(5):
        found = set(place[:, chunk].tolist())
        assert found == set(range(int(edges[chunk]), math.ceil(edges[chunk + 1])))
    assert small("copr", chunks=20).draw(later).shape == (2000, 12)


def test_the_alignment_does_not_move_the_later_stage():
    torch.manual_seed(0)
    with_it, without = (small("copr", weight=weight) for weight in (1.0, 0.0))
    for model in (with_it, without):
        torch.manual_seed(3)
        model.loss(BATCH, BATCH.scores).backward()
    pairs = list(zip(with_it.named_parameters(), without.named_parameters(), strict=True))
    same = {n for (n, a), (_, b) in pairs if torch.equal(a.grad, b.grad)}
    assert {name for name, _ in with_it.reranker.named_parameters()} == {
        name.removeprefix("reranker.") for name in same if name.startswith("reranker.")
    }
    assert "retriever.item.weight" not in same


# IRGAN ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-irgan-generator")
def test_the_policy_s_gradient_is_that_of_the_expected_reward():
    model = small("irgan", samples=200_000)
    generated = torch.tensor([[0.5, -0.3, 0.1, 0.0]], requires_grad=True)
    judged = torch.tensor([[1.0, -1.0, 0.3, 2.0]])
    labels = torch.tensor([[True, False, False, True]])
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(model.policy_loss(generated, judged, labels), generated)
    expected = (generated.softmax(dim=1) * (2 * judged.sigmoid() - 1)).sum()
    (wanted,) = torch.autograd.grad(-expected, generated)
    torch.testing.assert_close(found, wanted, atol=3e-3, rtol=0)


@pytest.mark.equation("eq-irgan-discriminator")
def test_the_discriminator_s_loss_by_hand():
    model = small("irgan", samples=200_000, temperature=0.5)
    generated, judged = torch.tensor([[0.5, -0.3, 0.1]]), torch.tensor([[1.0, -1.0, 0.3]])
    labels = torch.tensor([[True, False, False]])
    torch.manual_seed(0)
    weight = np.exp(np.array([-0.3, 0.1]) / 0.5)  # what was liked is no pick
    wrong = -np.log(1 - sigmoid([-1.0, 0.3]))
    wanted = -math.log(sigmoid(1.0)) + float((weight / weight.sum()) @ wrong)
    assert model.judge_loss(judged, generated, labels).item() == pytest.approx(wanted, abs=3e-3)


def test_each_player_has_a_gradient_of_its_own():
    model = small("irgan")
    generated, judged = (p(BATCH, BATCH.scores) for p in (model.generator, model.discriminator))
    loss = model.policy_loss(generated, judged.detach(), BATCH.labels)
    assert all(name.startswith("generator.") for name in with_gradient(loss, model))
    loss = model.judge_loss(judged, generated.detach(), BATCH.labels)
    assert all(name.startswith("discriminator.") for name in with_gradient(loss, model))


# AdvIR ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-advir")
def test_the_perturbation_is_the_worst_of_its_ball_to_first_order():
    model = small("advir", epsilon=0.05, score_use="concat").eval()
    vectors = model.ranker.encode(BATCH)
    examples = torch.ones_like(BATCH.labels)

    def loss(h):
        return loss_of(model.ranker.score(h, BATCH.scores), BATCH.labels, examples)

    step = model.perturbation(loss(vectors), vectors)
    torch.testing.assert_close(step.norm(dim=2), torch.full(BATCH.labels.shape, 0.05))
    gradient = torch.autograd.grad(loss(vectors), vectors)[0]
    first_order = (gradient * step).sum()
    torch.testing.assert_close(first_order, 0.05 * gradient.norm(dim=2).sum())
    torch.manual_seed(0)
    with torch.no_grad():
        worst = loss(vectors + step)
        for _ in range(20):
            other = torch.nn.functional.normalize(torch.randn_like(step), dim=2) * 0.05
            assert loss(vectors + other) < worst


@pytest.mark.equation("eq-advir-sampling")
def test_as_many_hard_negatives_as_liked_candidates():
    model = small("advir", temperature=0.5)
    torch.manual_seed(0)
    logits = torch.zeros(4000, 6)
    logits[:, 4] = 1.0
    labels = torch.zeros(4000, 6, dtype=torch.bool)
    labels[:, 0] = True
    examples = model.examples(logits, labels)
    assert examples[:, 0].all()
    assert (examples.sum(dim=1) == 2).all()
    hard = examples[:, 4].float().mean().item()
    assert hard == pytest.approx(math.e**2 / (math.e**2 + 4), abs=0.03)


def test_the_loss_adds_that_of_the_moved_examples():
    clean, double = small("advir", epsilon=0.0), small("advir", epsilon=0.0, weight=0.0)
    values = []
    for model in (clean, double):
        torch.manual_seed(5)
        values.append(model.loss(BATCH, BATCH.scores).item())
    assert values[0] == pytest.approx(2 * values[1])
    torch.manual_seed(5)
    assert small("advir", epsilon=0.5).loss(BATCH, BATCH.scores).item() > values[0]


# HetComp ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-hetcomp")
def test_the_distillation_by_hand():
    student = np.array([0.2, -0.5, 1.0, 0.4])
    importance, labels = [0.9, 0.1, 0.5, 0.7], [False, True, False, False]
    order = [1, 0, 3, 2]  # the liked one, then by importance
    s = np.exp(student[order])
    coarse = np.mean([-math.log(s[k] / (s[k] + s[2:].sum())) for k in (0, 1)])
    fine = np.mean([-math.log(s[k] / s[k:].sum()) for k in (0, 1)])
    given = torch.tensor(student)[None].float(), torch.tensor([importance]), torch.tensor([labels])
    assert distillation(*given, 2, fine=False).item() == pytest.approx(coarse, abs=1e-6)
    assert distillation(*given, 2, fine=True).item() == pytest.approx(fine, abs=1e-6)


def test_the_discrepancy_by_hand():
    teacher, student = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    gain, discount = [1.0, math.exp(-0.1)], [1.0, 1 / math.log2(3)]
    found = gain[1] * discount[0]  # candidate 1 first, candidate 3 second: no gain
    ideal = gain[0] * discount[0] + gain[1] * discount[1]
    assert discrepancy(student, teacher, 2).item() == pytest.approx(1 - found / ideal, abs=1e-6)
    assert discrepancy(teacher, teacher, 2).item() == pytest.approx(0, abs=1e-6)


def test_the_ensemble_averages_what_a_rank_is_worth():
    model = small("hetcomp")
    ranks = torch.stack([torch.arange(12).expand(9, 12), torch.arange(12).flip(0).expand(9, 12)])
    model.teachers = torch.nn.ModuleList(Fixed(-rank.float()) for rank in ranks)
    wanted = [(math.exp(-k / 10) + math.exp(-(11 - k) / 10)) / 2 for k in range(12)]
    assert model.importance(BATCH, BATCH.scores)[0].tolist() == pytest.approx(wanted, abs=1e-6)


class Fixed(torch.nn.Module):
    """A teacher that says the same whatever it is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, batch, scores):
        return self.logits


def test_teachers_first_then_the_student_and_snapshots_from_easy_to_hard():
    model = small("hetcomp", snapshots=2, pace=1e9)  # never ready: the even pace alone
    steps, reached = [], []
    for epoch in range(1, 9):
        model.begin_epoch(epoch, 8, LISTS)
        model.train()
        names = with_gradient(model.loss(BATCH, BATCH.scores), model)
        moved = {name.split(".")[0] for name in names}
        assert moved == ({"teachers"} if epoch <= 4 else {"student"})
        if epoch <= 4:
            with torch.no_grad():
                for p in model.teachers.parameters():
                    p.fill_(epoch)  # the weights tell the epoch
        else:
            steps.append({p.unique().item() for p in model.teachers.parameters()})
            reached.append(model.reached.tolist())
    assert model.trajectory.unique(dim=1).tolist() == [[2.0], [4.0]]
    assert steps == [{2.0}, {4.0}, {4.0}, {4.0}]
    assert reached == [[0] * 3, [1] * 3, [1] * 3, [1] * 3]


def test_a_student_that_has_come_closer_goes_on_to_harder_knowledge():
    model = small("hetcomp", snapshots=4)
    found = {1: 0.5, 2: 0.45}  # place of a snapshot: how far the student is from it
    model.gaps = lambda places, lists: torch.tensor([found[place] for place in places.tolist()])
    model.load = lambda places: None
    model.gap.fill_(0.5)
    model.go_on(0, LISTS)  # as far away as before
    assert model.reached.tolist() == [0, 0, 0]
    found[1] = 0.4
    model.go_on(0, LISTS)  # 1.25 times closer; the next aim is snapshot 2
    assert model.reached.tolist() == [1, 1, 1]
    assert model.gap.tolist() == pytest.approx([0.45] * 3)


def test_a_teacher_is_given_the_weights_of_its_own_snapshot():
    model = small("hetcomp", snapshots=3)
    with torch.no_grad():
        for place in range(3):
            model.trajectory[place] = place
        model.load(torch.tensor([2, 0, 1]))
    found = [{p.unique().item() for p in t.parameters()} for t in model.teachers]
    assert found == [{2.0}, {0.0}, {1.0}]
