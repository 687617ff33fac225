"""One run on several devices. Processes are started anew, so that each of these takes seconds."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from test_training import DIRECT, DNR, TRAIN, VALIDATION, Spoiled, prm, untimed, weights
from torch import nn

from dnrlib.errors import ConfigError, TrainingError
from dnrlib.parallel import Hardware, fabric_of, train
from dnrlib.training import OneDevice, Trainer, score_lists, validation_ndcg

TWO = Hardware(devices=2)
LOSS_TOLERANCE, NDCG_TOLERANCE = 1e-4, 1e-3


def on(hardware, config, reranker=None, **options):
    return train(reranker or prm(dropout=0.0), TRAIN, VALIDATION, config, 0, hardware, **options)


def test_two_processes_train_as_one_does(tmp_path):
    """Without dropout and noise only rounding differs, although some batches divide unevenly."""
    config = replace(DIRECT, batch_size=15, epochs=3)
    reports = []
    one = on(Hardware(), config)
    two = on(TWO, config, checkpoint=tmp_path / "run.pt", on_progress=reports.append)
    for a, b in zip(one.curves, two.curves, strict=True):
        assert b.losses == pytest.approx(a.losses, rel=LOSS_TOLERANCE)
        assert b.validation == pytest.approx(a.validation, abs=NDCG_TOLERANCE)
    torch.testing.assert_close(weights(two.reranker), weights(one.reranker), rtol=1e-2, atol=1e-3)
    assert [r.epoch for r in reports if r.validation is not None] == [1, 2, 3]
    again = on(Hardware(), config, checkpoint=tmp_path / "run.pt")
    assert untimed(again.curves) == untimed(two.curves)  # finished: nothing is trained again


def test_two_processes_train_the_generator_too_and_bring_both_back():
    one, two = on(Hardware(), DNR), on(TWO, DNR)
    assert [row.phase for row in two.curves] == [1, 1, 2, 2]
    assert set(two.curves[-1].losses) == {"L_direct", "L_z", "L_adv", "L_x"}
    assert not torch.equal(weights(two.generator), weights(one.generator))
    for a, b in zip(one.curves, two.curves, strict=True):  # other noise on other lists
        assert b.losses["L_direct"] == pytest.approx(a.losses["L_direct"], rel=0.2)
    best = max(row.validation for row in two.curves)
    assert validation_ndcg(two.reranker, VALIDATION) == pytest.approx(best, abs=1e-6)


def test_an_error_in_the_processes_is_the_error_of_the_run():
    with pytest.raises(TrainingError, match="epoch 1, step 3: L_direct is nan"):
        on(TWO, DIRECT, Spoiled(3, float("nan")))


class Team(OneDevice):
    """One of several devices, of which each is asked in turn; their sums are made by the test."""

    def __init__(self, rank, size):
        self.global_rank, self.world_size = rank, size


@pytest.mark.parametrize("size", [2, 3, 5])
def test_devices_share_each_batch_and_their_weighted_mean_is_the_gradient(size):
    config = replace(DIRECT, batch_size=16)
    parts = [list(Trainer(prm(), TRAIN, VALIDATION, config, fabric=Team(r, size)).batches(1))
             for r in range(size)]  # fmt: skip
    whole = [batch for batch, _ in Trainer(prm(), TRAIN, VALIDATION, config).batches(1)]
    for step, batch in enumerate(whole):
        shared = [part[step] for part in parts]
        assert torch.cat([part.list for part, _ in shared]).tolist() == batch.list.tolist()
        mean_of_means = sum(w * part.scores.mean() for part, w in shared) / size
        torch.testing.assert_close(mean_of_means, batch.scores.mean())


def test_a_batch_too_small_for_the_devices_is_refused():
    with pytest.raises(ConfigError, match="batch_size = 7 with .* at least, two a device"):
        Trainer(prm(), TRAIN, VALIDATION, replace(DIRECT, batch_size=7), fabric=Team(0, 4))


def test_low_precision_trains_nearly_the_same_and_keeps_its_weights_whole():
    low = on(Hardware(precision="bf16-mixed"), DNR)
    full = on(Hardware(), DNR)
    assert {p.dtype for p in low.reranker.parameters()} == {torch.float32}
    assert not torch.equal(weights(low.reranker), weights(full.reranker))
    for a, b in zip(full.curves, low.curves, strict=True):
        assert b.losses["L_direct"] == pytest.approx(a.losses["L_direct"], rel=0.02)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("config", [DIRECT, DNR], ids=["direct", "DNR"])
def test_the_training_pass_compiles_to_one_graph(config):
    """No Python and no data decides what is computed, as a captured graph on a GPU needs it."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)
    counter = CompileCounter()
    reranker = prm(dropout=0.1)
    reranker.compile(backend=counter, fullgraph=True)
    made = Trainer(reranker, TRAIN, VALIDATION, config)
    batch = TRAIN[:16]
    plain = score_lists(prm(dropout=0.1), batch)
    torch.testing.assert_close(score_lists(reranker, batch), plain)
    reranker.train()
    graphs = counter.frame_count
    for phase in (1, 2) if made.generator else (1,):
        made.step(batch, phase)
    assert counter.frame_count - graphs in (1, 2)
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"accelerator": "tpu"}, "accelerator = 'tpu': choose"),
        ({"precision": "8"}, "precision = '8': choose"),
        ({"precision": "16-mixed"}, "needs a GPU"),
        ({"devices": 0}, "devices = 0: must be"),
        ({"accelerator": "cuda", "devices": 99}, "99 GPUs are asked for and"),
    ],
)
def test_hardware_that_is_not_there_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Hardware(**wrong)


def test_every_process_needs_a_validation_list():
    with pytest.raises(ConfigError, match="devices = 2: more than the 1 validation lists"):
        train(prm(), TRAIN, VALIDATION[:1], DIRECT, 0, TWO)


def test_fabric_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    import sys

    for name in ("lightning_fabric", "lightning", "lightning.fabric"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install lightning-fabric"):
        fabric_of(TWO)


class Waiting(nn.Module):
    """A reranker that looks at a number, for which a GPU would have to be waited."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, batch, scores):
        return scores * self.w if scores.max() > 0.5 else -scores * self.w


def steps_without_a_device(config, reranker):
    """Both phases' steps on tensors that have no values and a device of their own.

    A look at a value fails there, and so does an operation with a tensor of the CPU.
    """
    made = Trainer(reranker.to("meta"), TRAIN.to("meta"), VALIDATION.to("meta"), config)
    made._descend = lambda objective, *_: objective.backward()  # the optimisers know no such device
    for phase in (1, 2):
        batch, weight = next(made.batches(1))
        losses = made.step(batch, phase if made.generator else 1, weight)
        assert {loss.device.type for loss in losses.values()} == {"meta"}


@pytest.mark.parametrize("score_use", ["none", "rank", "concat", "add", "weight"])
@pytest.mark.parametrize("config", [
    DIRECT,
    replace(DNR, noise="gaussian"),
    replace(DNR, noise="gaussian", likelihood="softmax", regulariser="pooled", generator="scores"),
    replace(DNR, noise="gaussian", estimator="exact"),
], ids=["direct", "DNR", "others", "exact"])  # fmt: skip
def test_a_step_never_waits_for_the_device_and_stays_on_it(config, score_use):
    if score_use in ("none", "rank"):
        config = replace(config, generator="none")
    steps_without_a_device(config, prm(score_use=score_use))


def test_a_step_that_waits_would_be_seen():
    with pytest.raises((RuntimeError, NotImplementedError)):
        steps_without_a_device(DIRECT, Waiting())
