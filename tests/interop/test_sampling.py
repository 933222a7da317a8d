"""Who visits which samples when: every sample once, the same again, and from anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarr_gpu.interop.sampling import Sampling, block_edges, merged, places, runs


@st.composite
def samplings(draw, **fixed):
    sizes = draw(st.lists(st.integers(1, 9), min_size=0, max_size=12))
    batch = draw(st.none() | st.integers(1, 7))
    return {
        "edges": np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**70)),
        "group": draw(st.integers(1, 5)),
        "batch_size": batch,
        "world_size": draw(st.integers(1, 5)),
        **fixed,
    }


def everyone(options, epoch, workers):
    """Orders of all workers of all ranks."""
    ranks = [Sampling(rank=r, **options) for r in range(options["world_size"])]
    return [[rank.order(epoch, w, workers) for w in range(workers)] for rank in ranks]


@given(samplings(), st.integers(0, 10**12), st.integers(1, 5))
def test_every_sample_comes_once(options, epoch, workers):
    n = options["edges"][-1]
    ranks = everyone(options, epoch, workers)
    visited = np.concatenate([order for rank in ranks for order in rank])
    assert np.array_equal(np.sort(visited), np.arange(n))
    counts = [sum(map(len, rank)) for rank in ranks]
    assert max(counts) - min(counts) <= 1
    for r, rank in enumerate(ranks):
        plan = Sampling(rank=r, **options)
        assert counts[r] == len(plan)
        assert [len(order) for order in rank] == [plan.share(w, workers) for w in range(workers)]
        size = options["batch_size"] or 1
        assert sum(-(-len(order) // size) for order in rank) == plan.batches  # one is not full


@given(samplings(shuffle=True), st.integers(0, 100), st.sampled_from(["pad", "drop"]))
def test_balanced_ranks_have_the_same_number(options, epoch, balance):
    options["balance"] = balance
    n, world = options["edges"][-1], options["world_size"]
    ranks = everyone(options, epoch, 2)
    counts = {sum(map(len, rank)) for rank in ranks}
    visited = np.concatenate([order for rank in ranks for order in rank])
    assert len(counts) == 1
    if balance == "pad":
        assert np.array_equal(np.unique(visited), np.arange(n))
        assert len(visited) - n < world
        assert np.bincount(visited, minlength=1).max() <= -(-world // max(1, n)) + 1
    else:
        assert len(np.unique(visited)) == len(visited) > n - world


@given(samplings(batch_size=3, drop_last=True), st.integers(1, 4))
def test_batches_that_are_not_full_are_dropped(options, workers):
    for r, rank in enumerate(everyone(options, 0, workers)):
        plan = Sampling(rank=r, **options)
        whole = Sampling(rank=r, **{**options, "drop_last": False})
        assert all(len(order) % 3 == 0 for order in rank)
        assert sum(map(len, rank)) == len(plan) == 3 * plan.batches
        assert len(whole) - len(plan) < 3


@given(samplings(), st.integers(0, 5), st.integers(1, 3), st.data())
def test_any_position_is_found_again(options, epoch, workers, data):
    plan = Sampling(**options)
    worker = data.draw(st.integers(0, workers - 1))
    order = plan.order(epoch, worker, workers)
    skip = data.draw(st.integers(0, len(order)))
    rest = [g.order[at:] for g, at in plan.groups(epoch, worker, workers, skip=skip)]
    assert np.array_equal(np.concatenate([np.empty(0, int), *rest]), order[skip:])
    assert all(len(part) for part in rest)


@given(samplings(world_size=1), st.integers(0, 5))
def test_groups_hold_few_blocks_and_only_what_is_visited(options, epoch):
    plan = Sampling(**options)
    edges = options["edges"]
    for group, skipped in plan.groups(epoch):
        assert skipped == 0
        assert np.array_equal(runs(group.spans), np.sort(group.order))
        blocks = np.unique(np.searchsorted(edges, group.order, "right"))
        assert len(blocks) <= options["group"]
        assert np.array_equal(runs(group.spans)[places(group.spans, group.order)], group.order)
    if not options["shuffle"]:
        assert np.array_equal(plan.order(epoch), np.arange(edges[-1]))


def test_epochs_and_seeds_have_orders_of_their_own_and_the_same_again():
    edges = np.arange(0, 1001, 10)
    plan = Sampling(edges=edges, shuffle=True, group=10, seed=1)
    other = Sampling(edges=edges, shuffle=True, group=10, seed=2)
    first = plan.order(0)
    assert np.array_equal(first, plan.order(0))
    for order in (plan.order(1), other.order(0), np.arange(1000)):
        assert (order == first).mean() < 0.02


def test_orders_stay_what_they_are():
    """A run that is continued with a newer version goes on where it was."""
    plan = Sampling(edges=np.array([0, 3, 6, 9, 10]), shuffle=True, group=2, seed=7)
    assert plan.order(3).tolist() == [9, 6, 8, 7, 4, 3, 2, 5, 1, 0]
    halves = [
        Sampling(edges=plan.edges, shuffle=True, seed=7, rank=r, world_size=2) for r in (0, 1)
    ]
    assert [half.order(3).tolist() for half in halves] == [[9, 6, 8, 7, 0], [2, 1, 4, 3, 5]]


def test_shuffled_samples_are_spread_evenly():
    """In each tenth of an epoch, about a tenth of the samples of each tenth of the array."""
    n = 100_000
    plan = Sampling(edges=np.arange(0, n + 1, 50), shuffle=True, group=100)
    order = plan.order(5)
    counts, _, _ = np.histogram2d(np.arange(n), order, bins=10)
    assert 0.4 < counts.min() / 1000 <= counts.max() / 1000 < 1.8  # 20 blocks of 50 each
    steps = np.diff(order)
    assert (np.abs(steps) < 2).mean() < 0.01


def test_impossible_arguments_are_refused():
    edges = np.array([0, 4])
    for wrong in (
        {"rank": 2, "world_size": 2}, {"rank": -1}, {"group": 0}, {"batch_size": 0},
        {"drop_last": True}, {"balance": "some"},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Sampling(edges=edges, **wrong)
    with pytest.raises(ValueError, match="worker 3"):
        Sampling(edges=edges).order(0, 3, 3)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=20),
)
def test_merged_spans_have_the_same_numbers(rows):
    spans = np.array([(start, start + n) for start, n in rows], np.int64)
    found = merged(spans)
    numbers = np.unique(runs(spans))
    assert np.array_equal(runs(found), numbers)
    assert (found[1:, 0] > found[:-1, 1]).all()
    assert np.array_equal(places(found, numbers), np.arange(len(numbers)))


@given(st.integers(0, 200), st.integers(1, 30), st.integers(1, 40), st.integers(1, 30))
def test_blocks_are_chunks_or_several(n, stride, chunk, least):
    starts = np.arange(0, max(1, n * stride), chunk)
    edges = block_edges(starts, n, stride, least)
    assert edges[0] == 0 or n == 0
    assert edges[-1] == n
    assert (np.diff(edges) > 0).all()
    first = edges[:-1] * stride  # no sample before it in the block begins in the same chunk
    assert all(at == 0 or at // chunk > (at - stride) // chunk for at in first)
