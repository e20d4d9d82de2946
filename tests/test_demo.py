from dataclasses import replace

from parimend import datasets, demo


def test_the_main_job():
    said = []
    data = datasets.digits()
    data = replace(data, train_x=data.train_x[:700], train_y=data.train_y[:700])
    result = demo.run(data, faults=["bitflip", "replace"], say=lambda *x: said.append(x))
    assert result.accuracy_inside > 90
    for damage in result.damages:
        assert (damage.verdict, damage.found, damage.sha256_equal) == ("corrected", 210, True)
        assert damage.accuracy_repaired == result.accuracy_inside
    assert result.damages[0].accuracy_damaged < 80
    assert result.damages[1].l1_verdict == "corrected"
    assert result.damages[1].l1_largest_error < 1e-9
    assert [label for label, _ in said][:4] == [
        "data",
        "trained freely",
        "trained inside the code",
        "the code",
    ]


def test_linear_programming_is_left_out_where_values_are_not_finite():
    data = datasets.digits()
    small = replace(data, train_x=data.train_x[:200], train_y=data.train_y[:200])
    [damage] = demo.run(small, errors=20, faults=["nonfinite"]).damages
    assert (damage.verdict, damage.found, damage.sha256_equal) == ("corrected", 20, True)
    assert damage.l1_verdict is None


def test_same_seed_same_result():
    data = datasets.digits()
    small = replace(data, train_x=data.train_x[:200], train_y=data.train_y[:200])
    runs = [demo.run(small, errors=20, seed=3, faults=["sign"], l1=False) for _ in range(2)]
    keep = [(r.accuracy_free, r.accuracy_inside, r.damages[0].accuracy_damaged) for r in runs]
    assert keep[0] == keep[1]
