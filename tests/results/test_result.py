from __future__ import annotations

from dataclasses import replace

from tests.conftest import Run


def test_a_result_prints_as_three_lines(run: Run) -> None:
    """Break it: leave `repr` to the dataclass, which prints all rows and weights."""
    result = run()
    assert str(result) == repr(result)
    what, how, where = str(result).splitlines()
    assert (
        what == "sflv1 (cut 1), vit-nano on fashion-mini (dirichlet), 4 clients, 2 rounds, seed 7"
    )
    accuracy = f"test accuracy {result.summary['final_accuracy']:.4f}"
    assert how.startswith(accuracy)
    assert " MB up, " in how
    assert " MB down, " in how
    assert how.endswith(" s")
    assert len(how) <= 80
    assert where == str(result.run_dir)


def test_its_bytes_are_those_of_the_run(run: Run) -> None:
    summary = run().summary
    up = sum(summary[f"{purpose}_uplink_bytes"] for purpose in ("cut", "evaluate", "sync"))
    assert f"{up / 1e6:.2f} MB up" in str(run())


def test_names_of_objects_and_the_best_round_are_shown_shortly(run: Run) -> None:
    result = run()
    changed = {
        "model": "object:ViTForImageClassification",
        "dataset": "object:Toy",
        "best_round": 1,
        "best_accuracy": 0.75,
        "finished_rounds": 2,
        "num_rounds": 3,
        "stopped_early": True,
    }
    what, how, _ = str(replace(result, summary={**result.summary, **changed})).splitlines()
    assert what.startswith("sflv1 (cut 1), ViTForImageClassification on Toy (dirichlet), 4 clients")
    assert what.endswith("2 of 3 rounds (stopped early)")  # the seed would make it longer still
    assert "(best 0.7500)" in how
