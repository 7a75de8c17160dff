"""What processes that share a batch draw is what one process draws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distill.draws import Draws


@given(prompts=st.integers(1, 24), size=st.integers(1, 24), world=st.integers(1, 5), update=st.integers(0, 9))
def test_a_minibatch_is_shared_out(prompts: int, size: int, world: int, update: int) -> None:
    """Nothing is left out or comes twice, and all know how much the busiest has."""
    alone = Draws(1, prompts, 1, 0, 1).minibatches(update, 0, size)
    shared = [Draws(1, prompts, 1, rank, world).minibatches(update, 0, size) for rank in range(world)]
    batches = list(zip(alone, *shared, strict=True))
    assert len(batches) == -(-prompts // size)
    for whole, *shares in batches:
        own = sorted(place * world + rank for rank, share in enumerate(shares) for place in share.mine)
        assert own == whole.mine
        assert {share.most for share in shares} == {max(len(share.mine) for share in shares)}
