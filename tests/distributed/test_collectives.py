"""Collective operations of two processes, and of one that is alone."""

import pytest
import torch

from bert_lightning.distributed import collectives

SCRIPT = """
import torch
from bert_lightning.distributed import collectives as c

if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
mine = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * 10**rank
transposed = mine.T
answer = {
    "rank": c.process_rank(),
    "objects": c.gather_objects({"rank": rank}),
    "tensors": [each.tolist() for each in c.gather_tensors(transposed)],
    "sum": c.sum_over_processes(transposed).tolist(),
    "sum over two shares": c.sum_over_shares(mine, 2).tolist(),
    "sum over one share": c.sum_over_shares(mine, 1).tolist(),
    "two shares": c.gather_shares(mine, 2).tolist(),
    "one share": c.gather_shares(mine, 1).tolist(),
    "largest": c.largest_number(5 - rank),
    "holds": [bool(c.holds_everywhere(torch.tensor(each))) for each in (True, rank == 0, rank == 1, False)],
    "unchanged": transposed.tolist() == mine.T.tolist() and mine[0, 0].item() == 10**rank,
}
"""


@pytest.fixture(scope="module")
def answers(two_ranks):
    return two_ranks.execute(SCRIPT)


def test_values_are_gathered_in_order_of_rank(answers):
    for rank, answer in enumerate(answers):
        assert answer["rank"] == rank
        assert answer["objects"] == [{"rank": 0}, {"rank": 1}]
        assert answer["tensors"] == [[[1, 3], [2, 4]], [[10, 30], [20, 40]]]


def test_every_process_gets_the_sum_and_keeps_its_own_tensor(answers):
    for answer in answers:
        assert answer["sum"] == [[11, 33], [22, 44]]
        assert answer["unchanged"]


def test_processes_of_one_share_count_once(answers):
    for answer in answers:
        assert answer["sum over two shares"] == [[11, 22], [33, 44]]
        assert answer["sum over one share"] == [[1, 2], [3, 4]]
        assert answer["two shares"] == [[[1, 2], [3, 4]], [[10, 20], [30, 40]]]
        assert answer["one share"] == [[[1, 2], [3, 4]]]


def test_a_condition_holds_only_if_it_holds_in_every_process(answers):
    assert [answer["holds"] for answer in answers] == [[True, False, False, False]] * 2


def test_every_process_gets_the_largest_number(answers):
    assert [answer["largest"] for answer in answers] == [5, 5]


def test_a_process_that_is_alone_gets_its_own_values_back():
    values = torch.arange(3.0)
    assert collectives.gather_objects("x") == ["x"]
    assert collectives.gather_tensors(values)[0] is values
    assert collectives.sum_over_processes(values) is values
    assert torch.equal(collectives.sum_over_shares(values, 1), values)
    assert torch.equal(collectives.gather_shares(values, 1), values[None])
    assert not collectives.holds_everywhere(torch.tensor(False))
    assert collectives.largest_number(-2) == -2
