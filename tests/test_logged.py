import gzip
from collections import defaultdict
from datetime import datetime, timedelta

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dnrlib.errors import ConfigError, DataError
from dnrlib.lists import CandidateLists
from dnrlib.logged import check, read_lists
from dnrlib.rerankers import build
from dnrlib.training import Trainer, TrainingConfig


def log_of(requests=20, length=4, items=9, users=3, seed=0, **columns):
    """A log in time order: two liked candidates in each request, scores in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    rows = requests * length
    number = torch.arange(rows) // length
    item = torch.rand(requests, items, generator=generator).argsort(dim=1)[:, :length].flatten()
    frame = {
        "request": [f"r{n:03}" for n in number.tolist()],
        "item": [f"i{n}" for n in item.tolist()],
        "score": torch.rand(rows, dtype=torch.float64, generator=generator).tolist(),
        "label": (torch.rand(requests, length, generator=generator).argsort(dim=1) < 2)
        .int()
        .flatten()
        .tolist(),
        "time": number.tolist(),
        "user": (number % users).tolist(),
        "shown": [1] * rows,
        "feature_a": torch.randn(rows, dtype=torch.float64, generator=generator).tolist(),
    }
    return {name: column for name, column in (frame | columns).items() if column is not None}


def write(path, columns):
    frame = pl.DataFrame(columns)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        getattr(frame, f"write_{path.suffix[1:]}")(path)
    return path


def with_value(name, row, value):
    """The log with one value changed; all of the column is text if the value is."""
    columns = log_of()
    if isinstance(value, str):
        columns[name] = [str(old) for old in columns[name]]
    columns[name][row] = value
    return columns


# Against plain Python ----------------------------------------------------------------------


def expected(rows, n, history, split):
    """List number -> what it must be, from rows of request, item, score, label, time and user."""
    requests = defaultdict(list)
    for row, (request, *_) in enumerate(rows):
        requests[request].append(row)
    order = sorted(requests.values(), key=lambda members: (rows[members[0]][4], members[0]))
    items = sorted({row[1] for row in rows})
    users = sorted({row[5] for row in rows})
    kept = {}
    for number, members in enumerate(order):
        best = sorted(members, key=lambda row: -rows[row][2])[:n]
        if len(members) < n or not any(rows[row][3] for row in best):
            continue
        _, _, _, _, time, user = rows[members[0]]
        past = [
            (rows[row][4], row)
            for row in range(len(rows))
            if rows[row][3] and rows[row][5] == user and rows[row][4] < time
        ]
        past = [items.index(rows[row][1]) + 1 for _, row in sorted(past)][-history:]
        kept[number] = {
            "time": time,
            "user": users.index(user),
            "history": [0] * (history - len(past)) + past,
            "candidates": {(items.index(rows[row][1]) + 1, rows[row][2:4]) for row in best},
        }
    bounds = [round(len(kept) * split[0]), round(len(kept) * (split[0] + split[1]))]
    for entry in kept.values():
        earlier = sum(other["time"] < entry["time"] for other in kept.values())
        entry["split"] = sum(earlier >= bound for bound in bounds)
    return kept


@st.composite
def logs(draw):
    """Rows of a log in any order; a request has one time and one user, scores never tie."""
    rows = []
    for number in range(draw(st.integers(5, 12))):
        items = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True))
        time, user = draw(st.integers(0, 12)), draw(st.sampled_from("ab"))
        rows += [(f"r{number}", f"i{item}", draw(st.booleans()), time, user) for item in items]
    rows = draw(st.permutations(rows))
    places = draw(st.permutations(range(len(rows))))
    return [
        (request, item, place / 64, label, time, user)
        for (request, item, label, time, user), place in zip(rows, places, strict=True)
    ]


@settings(max_examples=60)
@given(rows=logs(), n=st.integers(2, 3))
def test_lists_are_those_of_plain_python(rows, n, tmp_path_factory):
    split = (0.5, 0.25, 0.25)
    wanted = expected(rows, n, 3, split)
    path = tmp_path_factory.mktemp("logs") / "log.parquet"
    names = ["request", "item", "score", "label", "time", "user"]
    write(path, {name: [row[place] for row in rows] for place, name in enumerate(names)})
    if {entry["split"] for entry in wanted.values()} != {0, 1, 2}:
        with pytest.raises(DataError, match="leave none for|no request has|no list of"):
            read_lists(path, n=n, history=3, split=split)
        return
    lists = read_lists(path, n=n, history=3, split=split)
    assert lists.list.tolist() == list(wanted)
    for row, entry in enumerate(wanted.values()):
        labels = zip(lists.scores[row].tolist(), lists.labels[row].tolist(), strict=True)
        candidates = set(zip(lists.items[row].tolist(), labels, strict=True))
        found = {
            "time": entry["time"],
            "user": int(lists.users[row]),
            "history": lists.history[row].tolist(),
            "candidates": candidates,
            "split": int(lists.split[row]),
        }
        assert found == entry
    assert torch.equal(lists.shown, lists.labels)


# What a file may be ------------------------------------------------------------------------


def test_parquet_csv_and_zipped_csv_give_the_same_lists(tmp_path):
    found = {
        read_lists(write(tmp_path / f"log.{ending}", log_of())).fingerprint
        for ending in ("parquet", "csv", "csv.gz")
    }
    assert len(found) == 1


def test_lists_are_what_the_rest_of_the_package_takes(tmp_path):
    lists = read_lists(write(tmp_path / "log.parquet", log_of()))
    lists.save(tmp_path / "lists.safetensors")
    assert CandidateLists.load(tmp_path / "lists.safetensors").fingerprint == lists.fingerprint
    assert [len(lists.of_split(name)) for name in ("train", "validation", "test")] == [16, 2, 2]
    assert (lists.meta["users"], lists.meta["items"]) == (3, 9)
    assert (lists.meta["dataset"], lists.meta["protocol"]) == ("lists", "logged")


@pytest.mark.parametrize(
    "times",
    [
        [float(n // 4) for n in range(80)],
        [datetime(2024, 5, 1) + timedelta(hours=n // 4) for n in range(80)],
        [(datetime(2024, 5, 1) + timedelta(days=n // 4)).date() for n in range(80)],
        [f"2024-05-01 {n // 4:02}:30:00" for n in range(80)],
        [f"2024-05-01T{n // 4:02}:30:00Z" for n in range(80)],
        [str(n // 4) for n in range(80)],
    ],
    ids=["numbers", "datetimes", "dates", "ISO text", "ISO text with a zone", "numerals"],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_times_of_any_kind_give_the_same_order(times, ending, tmp_path):
    usual = read_lists(write(tmp_path / "usual.parquet", log_of()))
    reversed_log = {name: column[::-1] for name, column in log_of(time=times).items()}
    lists = read_lists(write(tmp_path / f"log.{ending}", reversed_log))
    assert torch.equal(lists.users, usual.users)
    assert torch.equal(lists.split, usual.split)


@pytest.mark.parametrize(
    "labels",
    [lambda z: z, bool, float, lambda z: str(bool(z)), lambda z: str(z)],
    ids=["whole numbers", "booleans", "floats", "words", "text"],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_of_any_kind_are_the_same(labels, ending, tmp_path):
    plain = log_of()
    usual = read_lists(write(tmp_path / "usual.parquet", plain))
    path = write(tmp_path / f"log.{ending}", plain | {"label": [labels(z) for z in plain["label"]]})
    assert torch.equal(read_lists(path).labels, usual.labels)


def test_ids_are_numbered_in_the_order_of_their_kind(tmp_path):
    """10 is after 9 as a number, before it as text; 07 is no number, as it would become 7."""
    texts = ["7", "10", "9", "7"] * 20
    requests = [f"r{n // 2}" for n in range(80)]
    items = {
        text: read_lists(write(tmp_path / f"{text}.csv", log_of(item=column, request=requests)))
        for text, column in {"7": texts, "07": [t.replace("7", "07") for t in texts]}.items()
    }
    first, second = (set(lists.items[0].tolist()) for lists in items.values())
    assert (first, second) == ({1, 3}, {1, 2})  # 7 9 10, but 07 10 9


def test_blank_lines_of_a_csv_are_left_out_and_still_count_as_lines(tmp_path):
    path = write(tmp_path / "log.csv", log_of())
    names, first, second, *others = path.read_text().splitlines()
    path.write_text("\n".join([names, "", first, "", second, *others, "", ""]))
    assert len(read_lists(path)) == 20
    path.write_text("\n".join([names, "", first, "", second.replace("r000", ""), *others]))
    with pytest.raises(DataError, match="line 5: request is empty"):
        read_lists(path)


def test_the_seed_changes_the_order_of_the_candidates_alone(tmp_path):
    path = write(tmp_path / "log.parquet", log_of())
    one, other = read_lists(path, seed=0), read_lists(path, seed=1)
    assert not torch.equal(one.items, other.items)
    assert torch.equal(one.items.sort(dim=1).values, other.items.sort(dim=1).values)
    assert torch.equal(one.history, other.history)


def test_candidates_lose_the_order_of_the_file(tmp_path):
    """A file sorted by label must not tell a reranker by place what is liked."""
    labels = [1, 0, 0, 0] * 100
    lists = read_lists(write(tmp_path / "log.parquet", log_of(requests=100, label=labels)))
    where = lists.labels.float().mean(dim=0)
    assert (where > 0.1).all()
    assert (where < 0.4).all()


# Lengths -----------------------------------------------------------------------------------


def with_lengths(lengths, liked=0, scores=None):
    """A log of requests of the given lengths; the candidate at one place is liked."""
    number = [request for request, length in enumerate(lengths) for _ in range(length)]
    place = [place for length in lengths for place in range(length)]
    return {
        "request": number,
        "item": place,
        "score": scores or [1 / (1 + p) for p in place],
        "label": [int(p == liked) for p in place],
        "time": number,
    }


@pytest.mark.parametrize(
    ("lengths", "n"),
    [([5] * 18 + [2, 9], 5), ([3] * 10 + [9] * 10, 9), ([2] * 20 + [3] * 10, 2), ([7] * 20, 7)],
)
def test_the_usual_length_keeps_the_most_candidates(lengths, n, tmp_path):
    lists = read_lists(write(tmp_path / "log.parquet", with_lengths(lengths)))
    assert lists.items.shape == (sum(length >= n for length in lengths), n)


def test_long_requests_keep_their_best_and_all_losses_are_counted(tmp_path):
    """The second best is liked: with n = 2 it stays, and the third best is lost."""
    lengths = [4] * 10 + [2] * 10 + [1] * 3
    path = write(tmp_path / "log.parquet", with_lengths(lengths, liked=1))
    lists = read_lists(path, n=2)
    assert len(lists) == 20
    assert set(lists.items[0].tolist()) == {1, 2}
    assert "fewer are left out: 3;" in lists.meta["note"]
    assert "keep their best by score: 10, which lost 0 liked" in lists.meta["note"]
    lost = read_lists(write(path, with_lengths([*lengths, *[3] * 5], liked=2) | {
        "label": [int(p == 2 or r >= 23) for r, n in enumerate([*lengths, *[3] * 5])
                  for p in range(n)]}), n=2, split=(0.4, 0.2, 0.4))  # fmt: skip
    assert lost.list.tolist() == [23, 24, 25, 26, 27]
    assert lost.meta["without_positive"] == 20
    assert "keep their best by score: 15, which lost 15 liked" in lost.meta["note"]


def test_which_of_equal_scores_is_cut_is_random(tmp_path):
    path = write(tmp_path / "log.parquet", with_lengths([4] * 200, scores=[0.5] * 800) | {
        "label": [1] * 800})  # fmt: skip
    counts = read_lists(path, n=2).items.flatten().bincount(minlength=5)[1:]
    assert ((counts > 70) & (counts < 130)).all()


# Scores, features, shown, users ------------------------------------------------------------


def test_scores_in_the_unit_interval_stay_as_they_are(tmp_path):
    columns = log_of(item=None, request=None) | {
        "item": list(range(80)),
        "request": [n // 4 for n in range(80)],
    }
    lists = read_lists(write(tmp_path / "log.parquet", columns))
    scores = torch.tensor(columns["score"]).float()
    assert torch.equal(lists.scores, scores[lists.items - 1])
    assert "score" not in lists.meta


def test_other_scores_and_features_are_standardised_by_the_training_lists(tmp_path):
    """Where the later requests have other scores, the earlier ones alone decide."""
    raw = torch.randn(80, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 5
    raw[64:] += 100
    columns = log_of(score=raw.tolist(), feature_a=(raw * 2).tolist(), item=list(range(80)))
    lists = read_lists(write(tmp_path / "log.parquet", columns | {"feature_flat": [3] * 80}))
    mean, deviation = raw[:64].mean(), raw[:64].std(correction=0)
    standard = ((raw - mean) / deviation)[lists.items - 1]
    assert lists.scores == pytest.approx(standard.sigmoid(), abs=1e-6)
    assert lists.features[..., 0] == pytest.approx(standard, abs=1e-4)
    assert (lists.features[..., 1] == 0).all()
    assert lists.meta["score"] == pytest.approx([float(mean), float(deviation)])
    assert list(lists.meta["features"]) == ["feature_a", "feature_flat"]
    assert lists.meta["features"]["feature_flat"] == [3, 1]


def test_what_was_shown_is_taken_from_the_file(tmp_path):
    columns = log_of()
    shown = [label or place % 2 for place, label in enumerate(columns["label"])]
    columns |= {"shown": shown, "item": list(range(80))}
    lists = read_lists(write(tmp_path / "log.parquet", columns))
    assert torch.equal(lists.shown, torch.tensor(shown).bool()[lists.items - 1])
    assert "counts as shown" not in lists.meta["note"]


def test_without_users_there_is_no_history(tmp_path):
    lists = read_lists(write(tmp_path / "log.csv", log_of(user=None)), history=7)
    assert not lists.users.any()
    assert lists.history.shape == (20, 7)
    assert not lists.history.any()
    assert lists.meta["users"] == 1
    assert "all histories are empty" in lists.meta["note"]


@pytest.mark.parametrize("noise", ["none", "beta"])
def test_prm_learns_lists_without_history(noise, tmp_path):
    lists = read_lists(write(tmp_path / "log.csv", log_of(user=None)))
    torch.manual_seed(0)
    reranker = build("prm", lists, dim=8, heads=2, score_use="concat")
    generator = {"generator": "scores", "noise": noise, "lambda_e": 1} if noise == "beta" else {}
    config = TrainingConfig(epochs=60, batch_size=8, learning_rate=1e-2, **generator)
    curves = Trainer(reranker, lists.of_split("train"), lists.of_split("train"), config).run()
    assert curves[-1].losses["L_direct"] < 0.8 * curves[0].losses["L_direct"]
    assert all(parameter.isfinite().all() for parameter in reranker.parameters())


class OfFeatures(nn.Module):
    """An engineer's own reranker, which reads the features."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, batch, scores):
        return self.linear(torch.cat([batch.features, scores[..., None]], dim=2))[..., 0]


def test_a_reranker_of_ones_own_learns_from_the_features(tmp_path):
    columns = log_of(requests=100)
    columns["feature_a"] = [z + noise / 2 for z, noise in zip(
        columns["label"], columns["feature_a"], strict=True)]  # fmt: skip
    lists = read_lists(write(tmp_path / "log.parquet", columns))
    reranker, config = OfFeatures(), TrainingConfig(epochs=20, batch_size=16, learning_rate=0.1)
    Trainer(reranker, lists.of_split("train"), lists.of_split("validation"), config).run()
    assert reranker.linear.weight[0, 0] > 0.5


# Faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("request", None, "request is empty, but must be text or a whole number"),
        ("item", None, "item is empty"),
        ("user", None, "user is empty"),
        ("score", None, "score is empty, but must be a finite number"),
        ("score", float("nan"), "score is '?[nN]a[nN]'?, but must be a finite number"),
        ("score", float("inf"), "score is '?inf'?, but must be a finite number"),
        ("score", "good", "score is 'good', but must be a finite number"),
        ("label", 2, "label is '?2'?, but must be 0 or 1"),
        ("label", -1, "label is '?-1'?, but must be 0 or 1"),
        ("label", "yes", "label is 'yes', but must be 0 or 1"),
        ("label", None, "label is empty"),
        ("shown", 0, "shown is '?0'?, but the label is 1"),
        ("shown", "no", "shown is 'no', but must be 0 or 1"),
        ("time", "tomorrow", "time is 'tomorrow', but must be a number or a date such as 2024"),
        ("time", None, "time is empty"),
        ("time", 99, "time is '?99'?, but its request began with another: a request has one time"),
        ("user", 9, "user is 9, but its request began with another: a request has one user"),
        ("feature_a", float("inf"), "feature_a is '?inf'?, but must be a finite number"),
        ("feature_a", "blue", "feature_a is 'blue', but must be a finite number"),
        ("feature_a", None, "feature_a is empty"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_bad_value_is_named_with_its_row(name, value, message, ending, tmp_path):
    row = log_of()["label"].index(1, 5)
    path = write(tmp_path / f"log.{ending}", with_value(name, row, value))
    where = rf"log\.csv, line {row + 2}: " if ending == "csv" else rf"log\.parquet: row {row + 1}: "
    with pytest.raises(DataError, match=where + message) as caught:
        read_lists(path)
    assert caught.value.line == (row + 2 if ending == "csv" else None)


def test_spaces_are_no_value(tmp_path):
    columns = with_value("item", 3, "  ")
    with pytest.raises(DataError, match="line 5: item is empty"):
        read_lists(write(tmp_path / "log.csv", columns))


def test_the_same_item_twice_is_named_with_its_row(tmp_path):
    columns = log_of()
    columns["item"][6] = columns["item"][4]
    message = f"line 8: item is '{columns['item'][4]}', but stands in this request before"
    with pytest.raises(DataError, match=message):
        read_lists(write(tmp_path / "log.csv", columns))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("item", [float(n) for n in range(80)], r"row 1: item is 0\.0, but must be text or a whol"),
        ("score", [[0.5]] * 80, "row 1: score is .*0.5.* must be a finite number"),
        ("label", [[1]] * 80, "row 1: label is .* must be 0 or 1"),
        ("time", [b"now"] * 80, "row 1: time is b'now', but must be a number or a date"),
        ("feature_a", [timedelta(1)] * 80, "row 1: feature_a is .* must be a finite number"),
    ],
)
def test_a_column_of_another_type_is_a_fault_of_its_first_row(name, column, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_lists(write(tmp_path / "log.parquet", log_of(**{name: column})))


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"request": "request_id"}, "has no column 'request': rename 'request_id', if that is it"),
        ({"label": "Label"}, "has no column 'label': rename 'Label'"),
        ({"score": "logit"}, r"has no column 'score': add it\. It has request, item, logit, label"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_missing_column_is_named_with_the_nearest(renamed, message, ending, tmp_path):
    columns = {renamed.get(name, name): column for name, column in log_of().items()}
    with pytest.raises(DataError, match=message):
        read_lists(write(tmp_path / f"log.{ending}", columns))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "is empty"),
        ("log.csv", b"request,item,score,label\n", "has columns, but no rows"),
        ("log.csv", b"request,item,score,label\n1,2,0.5,1,7\n", "cannot be read as CSV"),
        ("log.csv", b"request,item,score,label\n1,\xe9,0.5,1\n", "cannot be read as CSV"),
        ("log.csv.gz", b"\x1f\x8bno", "cannot be read as CSV"),
        ("log.parquet", b"", "cannot be read as Parquet"),
        ("log.parquet", b"request,item,score,label\n1,2,0.5,1\n", "cannot be read as Parquet"),
        ("log.tsv", b"request\titem\n", r"unknown ending: it must be one of \.parquet, \.csv"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_lists(path)


def test_a_missing_file_and_no_rows_say_so(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_lists(tmp_path / "log.csv")
    with pytest.raises(DataError, match="no rows"):
        read_lists(write(tmp_path / "log.parquet", pl.DataFrame(log_of())[:0]))


@pytest.mark.parametrize(
    ("columns", "n", "message"),
    [
        (log_of(), 5, r"no request has n = 5 candidates, the longest has 4"),
        (log_of(request=[f"r{n}" for n in range(80)], user=None, time=None), None, "least 2"),
        (log_of(label=[0] * 80), None, "no list of n = 4 has a positive"),
        (log_of(time=[1] * 80), None, "20 lists at 1 times leave none for validation"),
        (log_of(requests=4), None, "4 lists at 4 times leave none for test"),
    ],
    ids=["too short", "one a request", "no label", "one time", "too few"],
)
def test_lists_that_cannot_be_made_say_why(columns, n, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_lists(write(tmp_path / "log.parquet", columns), n=n)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 1},
        {"n": 0},
        {"history": 0},
        {"split": (0.8, 0.2, 0.0)},
        {"split": (0.8, 0.1, 0.2)},
    ],
)
def test_a_bad_parameter_is_named(wrong, tmp_path):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} = "):
        read_lists(write(tmp_path / "log.parquet", log_of()), **wrong)


# The report --------------------------------------------------------------------------------


def report_of(tmp_path, **columns):
    return check(write(tmp_path / "log.parquet", log_of(**{"requests": 60} | columns)))


def test_a_report_tells_what_was_understood(tmp_path):
    report = report_of(tmp_path, device=["phone"] * 240)
    assert (report.rows, report.requests, report.n) == (240, 60, 4)
    assert report.lengths == (4, 4, 4)
    assert report.positives == (2, 2, 2)
    assert report.splits == {"train": 48, "validation": 6, "test": 6}
    assert report.warnings == []
    text = str(report)
    for part in (
        "log.parquet: 240 rows, 60 requests",
        "  request    text, 60 different",
        "  user       whole numbers, 3 different",
        "  label      0 or 1, 50.0% are 1",
        "  time       numbers, 0 … 59",
        "Ignored: device",
        "Candidates of a request: 4 to 4, median 4; liked: 2 to 2, median 2",
        "Lists of 4: 48 train, 6 validation, 6 test",
        "split by time",
        "Score alone: AUC 0.",
    ):
        assert part in text


def test_the_auc_of_the_score_is_that_of_the_training_lists(tmp_path):
    """In one list in four the score is right about all pairs, in the others about half."""
    label = [1, 1, 0, 0] * 60
    score = ([0.9, 0.8, 0.2, 0.1] + [0.9, 0.1, 0.8, 0.2] * 3) * 15
    score[-48:] = [0.1, 0.2, 0.8, 0.9] * 12  # not of training
    report = report_of(tmp_path, label=label, score=score)
    assert report.auc == pytest.approx((1 + 3 * 0.5) / 4)
    assert report.auc_reversed == pytest.approx((0 + 3 * 0.5) / 4)


LIKED = log_of(requests=60)["label"]
RISING = [float(n) for n in range(240)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": None}, "no time: the split takes the file to be in order"),
        ({"user": None, "user_id": RISING}, "'user_id' is ignored: rename it 'user'"),
        ({"time": None, "Timestamp": RISING}, "'Timestamp' is ignored: rename it 'time'"),
        ({"score": [0.5] * 240}, "all scores are the same"),
        ({"score": [1e9, *RISING[1:]]}, "of the scores tie in their list"),
        ({"score": [float(z) for z in LIKED]}, "score alone tells the liked"),
        ({"feature_a": [-z for z in LIKED]}, "feature_a alone tells the liked"),
        (
            {"score": [0.4 * (1 - z) + n % 7 / 10 for n, z in enumerate(LIKED)]},
            "your score reversed ranks better",
        ),
        ({"label": [1] * 240}, "no training list has both"),
        ({"label": [1, 0, 0, 0] * 45 + [0] * 60}, "25% of the lists have no positive"),
        ({"item": list(range(240))}, "100% of the test candidates never occur in training"),
        ({"user": [n // 4 for n in range(240)]}, "100% of the lists have no history"),
        (
            {"request": [f"r{n // 4}" for n in range(200)] + [f"s{n // 2}" for n in range(40)],
             "time": None, "user": None},
            "29% of the requests are shorter than 4: a smaller n keeps them",
        ),
        (
            {"item": ["best", "x", "y", "z"] * 60, "label": [1, 0, 0, 0] * 60},
            "one item has 100% of the positive labels",
        ),
    ],
)  # fmt: skip
def test_a_report_warns_of_what_may_be_wrong(columns, message, tmp_path):
    report = report_of(tmp_path, **columns)
    assert any(message in warning for warning in report.warnings), report.warnings
    assert str(report).count("\nWarning: ") == len(report.warnings)


def test_a_report_does_not_warn_of_chance(tmp_path):
    """A score without any information: reversed, it is better in half of the files."""
    for seed in range(10):
        report = check(write(tmp_path / "log.parquet", log_of(requests=60, seed=seed)))
        assert len([w for w in report.warnings if "reversed" in w]) <= (report.auc < 0.45)
