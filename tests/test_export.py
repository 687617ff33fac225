import functools
import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn
from worlds import field_of, make_lists, with_made_up_words

from dnrlib.errors import ConfigError, DataError
from dnrlib.export import (
    INPUTS,
    check_onnx,
    export_program,
    first_difference,
    onnx_logits,
    onnx_session,
    same_program,
    save_onnx,
    serving_inputs,
)
from dnrlib.rerankers import RERANKERS, SCORE_USES, Reranker, build
from dnrlib.training import Trainer, TrainingConfig, score_lists

LISTS = make_lists(signal=0.5)
DESCRIBED = field_of(
    LISTS, features=torch.randn(*LISTS.items.shape, 3, generator=torch.Generator().manual_seed(1))
)
SMALL = {"dim": 8, "heads": 2, "feed_forward": 12}
DNR = {"epochs": 2, "lambda_e": 1, "noise": "beta", "generator": "epsilon"}


def options_of(name):
    return inspect.signature(RERANKERS[name]).parameters


def cases():
    """PRM in each way that it can use the scores, the other rerankers in one."""
    bounds = {"oracle", "behaviours-oracle"}  # which read labels
    for name in [name for name in RERANKERS if name not in bounds]:
        uses = SCORE_USES if name == "prm" else ["concat"]
        for score_use in uses if "score_use" in options_of(name) else (None,):
            yield pytest.param(name, score_use, id=f"{name}-{score_use}")


each_reranker = pytest.mark.parametrize(("name", "score_use"), list(cases()))


def small(name, score_use, seed=0):
    torch.manual_seed(seed)
    options = {k: v for k, v in SMALL.items() if k in options_of(name)}
    if score_use:
        options["score_use"] = score_use
    model = build(name, with_made_up_words(LISTS), **options)
    if name == "prm":  # others choose: weights that make candidates alike make near-ties
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


@functools.cache
def program_of(name, score_use):
    return export_program(small(name, score_use), LISTS)


@functools.cache
def trained(score_use, **config):
    model = small("prm", score_use)
    config = TrainingConfig(**{"epochs": 1, "batch_size": 16} | config)
    Trainer(model, LISTS.of_split("train"), LISTS.of_split("validation"), config).run()
    return model


class Custom(Reranker):
    """A reader's reranker, which does with the batch what `function` does."""

    def __init__(self, function):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, batch, scores):
        return self.scale * self.function(batch, scores)


# torch.export -----------------------------------------------------------------------------


@each_reranker
@pytest.mark.parametrize("count", [1, 2, 7, len(LISTS)])
def test_the_program_gives_the_reranker_s_logits(name, score_use, count):
    lists = LISTS[:count]
    logits = program_of(name, score_use).module()(*serving_inputs(lists))
    torch.testing.assert_close(logits, score_lists(small(name, score_use), lists))


def test_one_list_is_enough_to_export():
    program = export_program(small("prm", "rank"), LISTS[:1])
    assert same_program(program, program_of("prm", "rank"))
    with pytest.raises(ConfigError, match="at least one list"):
        export_program(small("prm", "rank"), LISTS[:0])


def test_the_reranker_stays_as_it_is_and_the_program_too():
    model = small("prm", "concat").train()
    model.dropout.eval()
    program = export_program(model, LISTS)
    assert model.training
    assert not model.dropout.training
    before = program.module()(*serving_inputs(LISTS))
    nn.init.zeros_(model.item.weight)
    assert torch.equal(program.module()(*serving_inputs(LISTS)), before)


def test_a_program_has_no_dropout():
    assert not any("dropout" in str(node.target) for node in program_of("prm", "rank").graph.nodes)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda batch, scores: scores if scores.max() > 0.5 else -scores, "must not branch"),
        (lambda batch, scores: scores if len(scores) == 2 else -scores, "must not branch"),
        (lambda batch, scores: scores * batch.shown, "reads `shown`"),
        (lambda batch, scores: scores + batch.labels.float(), "reads `labels`"),
        (lambda batch, scores: scores + batch.meta["users"], "reads `meta`"),
        (lambda batch, scores: scores + batch.prices, "prices"),
    ],
)
def test_what_cannot_be_served_is_refused(function, message):
    with pytest.raises(ConfigError, match=f"Custom cannot be exported: .*{message}"):
        export_program(Custom(function), LISTS)


def test_a_custom_reranker_is_exported():
    model = Custom(lambda batch, scores: scores * (batch.history > 0).sum(dim=1, keepdim=True))
    logits = export_program(model, LISTS).module()(*serving_inputs(LISTS[:5]))
    torch.testing.assert_close(logits, score_lists(model, LISTS[:5]))


# Features ----------------------------------------------------------------------------------


def priced(batch, scores):
    return scores + (batch.features * torch.tensor([1.0, -2.0, 0.5])).sum(dim=2)


def priced_if_possible(batch, scores):
    return scores if batch.features is None else priced(batch, scores)


def inputs_of(program):
    return program.graph_signature.user_inputs


@pytest.mark.parametrize("function", [priced, priced_if_possible])
def test_features_are_one_more_input(function):
    model = Custom(function)
    program = export_program(model, DESCRIBED)
    assert inputs_of(program) == (*INPUTS, "features")
    for count in (1, 5):
        lists = DESCRIBED[:count]
        logits = program.module()(*serving_inputs(lists))
        torch.testing.assert_close(logits, score_lists(model, lists))
        assert not torch.allclose(logits, lists.scores)


def test_lists_without_features_have_no_such_input():
    model = Custom(priced_if_possible)
    program = export_program(model, LISTS)
    assert inputs_of(program) == inputs_of(program_of("prm", "concat")) == INPUTS
    torch.testing.assert_close(program.module()(*serving_inputs(LISTS)), LISTS.scores)
    assert not same_program(program, export_program(model, DESCRIBED))
    with pytest.raises(ConfigError, match="Custom cannot be exported"):
        export_program(Custom(priced), LISTS)


@pytest.mark.parametrize(("lists", "names"), [(LISTS, INPUTS), (DESCRIBED, (*INPUTS, "features"))])
def test_onnx_takes_features_where_the_lists_have_them(lists, names, tmp_path):
    model, path = Custom(priced_if_possible), tmp_path / "reranker.onnx"
    assert save_onnx(model, lists, path) < 1e-5
    session = onnx_session(path, threads=1)
    assert tuple(taken.name for taken in session.get_inputs()) == names
    for count in (1, 5):
        logits = onnx_logits(session, lists[:count])
        torch.testing.assert_close(logits, score_lists(model, lists[:count]))
    other = LISTS if lists is DESCRIBED else DESCRIBED
    with pytest.raises(DataError, match="does not fit these lists .*features"):
        check_onnx(path, model, other)


# The same program -------------------------------------------------------------------------


@pytest.mark.parametrize("score_use", ["concat", "add", "weight"])
def test_dnr_serves_with_the_program_of_direct_training(score_use):
    direct = trained(score_use)
    for denoised in (trained(score_use, **DNR), trained(score_use, noise="gaussian")):
        pairs = zip(direct.parameters(), denoised.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)
        difference = first_difference(
            export_program(direct, LISTS), export_program(denoised, LISTS)
        )
        assert difference is None


@pytest.mark.parametrize("score_use", SCORE_USES)
def test_another_score_use_is_another_program(score_use):
    others = [
        other
        for other in SCORE_USES
        if same_program(program_of("prm", score_use), program_of("prm", other))
    ]
    assert others == [score_use]


@pytest.mark.parametrize("change", [{"dim": 12}, {"feed_forward": 16}, {"heads": 4}, {"layers": 1}])
def test_another_size_is_another_program(change):
    sizes = SMALL | {"score_use": "concat"}
    a, b = (export_program(build("prm", LISTS, **(sizes | o)), LISTS) for o in ({}, change))
    assert first_difference(a, b) is not None


@pytest.mark.parametrize(
    ("function", "other"),
    [
        (lambda batch, scores: scores * 2.0, lambda batch, scores: scores * 3.0),
        (lambda batch, scores: scores.cumsum(0), lambda batch, scores: scores.cumsum(1)),
        (
            lambda batch, scores: scores + torch.ones(scores.shape[1]),
            lambda batch, scores: scores + torch.ones(1),
        ),
        (
            lambda batch, scores: scores,
            lambda batch, scores: scores + (batch.history > 0).sum(dim=1, keepdim=True),
        ),
    ],
)
def test_the_first_difference_is_named(function, other):
    a, b = export_program(Custom(function), LISTS), export_program(Custom(other), LISTS)
    one, another = first_difference(a, b)
    assert one != another
    assert first_difference(a, a) is None


# ONNX -------------------------------------------------------------------------------------


@each_reranker
def test_onnx_runtime_gives_the_reranker_s_logits(name, score_use, tmp_path):
    model, path = small(name, score_use), tmp_path / "served" / "reranker.onnx"
    largest = float(score_lists(model, LISTS).abs().max())
    assert save_onnx(model, LISTS, path) < 1e-6 * max(largest, 10)
    assert [file.name for file in path.parent.iterdir()] == ["reranker.onnx"]
    session = onnx_session(path, threads=1)
    for count in (1, 5):
        logits = onnx_logits(session, LISTS[:count])
        torch.testing.assert_close(logits, score_lists(model, LISTS[:count]), rtol=1e-4, atol=1e-5)


def test_onnx_breaks_ties_of_the_scores_as_torch_does(tmp_path):
    ties = field_of(LISTS, scores=(LISTS.scores * 2).round() / 2)
    model = small("prm", "rank")
    save_onnx(model, LISTS, tmp_path / "reranker.onnx")
    assert check_onnx(tmp_path / "reranker.onnx", model, ties) < 1e-5


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "reranker.onnx"
    save_onnx(small("prm", "concat"), LISTS, path)
    return path


def test_a_file_of_another_reranker_is_found_out(onnx_file):
    with pytest.raises(DataError, match="differ from the reranker's by"):
        check_onnx(onnx_file, small("prm", "concat", seed=1), LISTS)


def test_lists_of_another_size_are_found_out(onnx_file):
    with pytest.raises(DataError, match="does not fit these lists"):
        check_onnx(onnx_file, small("prm", "concat"), make_lists(history=7))


def test_logits_that_are_not_numbers_are_found_out(tmp_path):
    with pytest.raises(DataError, match="by nan"):
        save_onnx(Custom(lambda batch, scores: scores * torch.nan), LISTS, tmp_path / "r.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failed_check_leaves_the_older_file(onnx_file, monkeypatch):
    before = onnx_file.read_bytes()
    monkeypatch.setattr("dnrlib.export.TOLERANCE", -1.0)
    with pytest.raises(DataError, match="differ"):
        save_onnx(small("prm", "rank"), LISTS, onnx_file)
    assert onnx_file.read_bytes() == before
    assert list(onnx_file.parent.iterdir()) == [onnx_file]


def test_a_path_that_cannot_be_written_leaves_nothing(tmp_path):
    taken = tmp_path / "reranker.onnx"
    taken.mkdir()
    with pytest.raises(OSError, match="reranker.onnx"):
        save_onnx(small("prm", "concat"), LISTS, taken)
    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_damaged_file_is_a_data_error(content, tmp_path, onnx_file):
    path = tmp_path / "reranker.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="ONNX Runtime cannot load it"):
        onnx_session(path)
    path.write_bytes(onnx_file.read_bytes()[:-200])
    with pytest.raises(DataError, match="ONNX Runtime cannot load it"):
        onnx_session(path)


def test_an_operation_without_counterpart_is_refused(tmp_path):
    model = Custom(lambda batch, scores: torch.special.bessel_j0(scores))
    with pytest.raises(ConfigError, match="Custom cannot be exported: .*bessel_j0"):
        save_onnx(model, LISTS, tmp_path / "reranker.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_says_what_to_install(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package} .*pip install 'dnrlib\[onnx\]'"):
        save_onnx(small("prm", "concat"), LISTS, tmp_path / "reranker.onnx")


def test_importing_export_does_not_import_onnx():
    code = "import sys, dnrlib.export; sys.exit(any(m.startswith('onnx') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
