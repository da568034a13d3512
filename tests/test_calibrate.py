"""The simulations of `calibrate_ranks`, small: each figure is where its mark can still be met."""

import calibrate_ranks as simulate
import pytest


@pytest.mark.parametrize("seeds", [1, 2])
def test_trainings_of_one_arm_are_seldom_told_apart(seeds: int):
    assert simulate.trainings_told_apart(2, rows=3, seeds=seeds, sigma=0.03) <= 0.34


def test_simulations_give_shares():
    ranks = simulate.rank_errors(1, rows=3)
    covered = simulate.coverage(2, rows=2)
    winner = simulate.winner(1, rows=2)
    same, others = simulate.pretrainings_told_apart(1, sources=1, pretrainings=3)
    shares = [*ranks, *covered.values(), same, others, winner["covered_corrected"]]
    assert all(0 <= share <= 1 for share in shares)
    assert same == 0, "three pretrainings that made the estimate"
