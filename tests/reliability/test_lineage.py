"""Counts of the soak: samples in the lineage of the final weights, and faults in checkpoints."""

import json
import random

import pytest
from comparison import differences
from faults import DAMAGES, OF_FOLDERS, Faults, damaged, spoil
from kills import plan_kills
from lineage import descent, drawn_twice, lost_and_repeated, read_trace
from soak import parse


def steps(first, last, session=0):
    return {step: [(0, 10 * step, session), (0, 10 * step + 1, session)] for step in range(first, last + 1)}


def test_the_weights_descend_from_the_last_session_that_took_a_step_before_its_checkpoint():
    # Killed at 7 with a checkpoint at 5; at 9 with one at 5 damaged, so from 3; one that took no step; to the end.
    sessions = [steps(1, 7, 1), steps(6, 6, 2), steps(4, 9, 3), {}, steps(9, 12, 4)]
    lineage = descent(sessions)
    assert {step: samples[0][2] for step, samples in sorted(lineage.items())} == {
        **dict.fromkeys((1, 2, 3), 1),
        **dict.fromkeys(range(4, 9), 3),
        **dict.fromkeys(range(9, 13), 4),
    }


def test_a_last_session_without_steps_changes_nothing():
    assert descent([steps(1, 7, 1), steps(6, 9, 2), {}]) == {**steps(1, 5, 1), **steps(6, 9, 2)}


def test_lost_and_repeated_samples_are_counted():
    whole = steps(1, 6)
    assert lost_and_repeated(descent([steps(1, 4), steps(4, 6)]), whole) == (0, 0)
    skipping = {step: samples for step, samples in whole.items() if step != 4}
    assert lost_and_repeated(descent([skipping]), whole) == (2, 0)
    again = {**whole, 5: whole[4]}
    assert lost_and_repeated(again, whole) == (2, 2)
    assert drawn_twice(again, []) == 2
    assert drawn_twice(whole, []) == 0
    # A stage that begins after step 4 draws afresh.
    assert drawn_twice(again, [4]) == 0


def test_a_trace_joins_ranks_and_leaves_out_a_truncated_line(tmp_path):
    rows = [{"rank": rank, "step": step, "samples": [[0, 2 * step + rank, 7]]} for step in (1, 2) for rank in (1, 0)]
    path = tmp_path / "trace"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"rank": 0, "st')
    assert read_trace(path, 2) == {1: [(0, 2, 7), (0, 3, 7)], 2: [(0, 4, 7), (0, 5, 7)]}
    assert read_trace(tmp_path / "none", 2) == {}


@pytest.mark.parametrize("how", DAMAGES)
def test_each_kind_of_damage_changes_the_file_accordingly(how):
    content = random.Random(0).randbytes(5000) + bytes(9000) + random.Random(1).randbytes(3000)
    for seed in range(50):
        spoiled = damaged(content, how, random.Random(seed))
        assert spoiled != content
        changed = [n for n, (one, other) in enumerate(zip(content, spoiled, strict=False)) if one != other]
        if how == "bit":
            [offset] = changed
            assert (content[offset] ^ spoiled[offset]).bit_count() == 1
        elif how == "truncation":
            assert content.startswith(spoiled)
        else:
            assert max(changed) // 4096 == min(changed) // 4096


def folder_of_shards(folder, step):
    path = folder / f"step-{step:09d}.ckpt"
    path.mkdir()
    for name in ("manifest.json", "part-00000.pt", "part-00001.pt"):
        (path / name).write_bytes(random.Random(f"{step} {name}").randbytes(100))
    return path


def contents(path):
    return {each.name: each.read_bytes() for each in path.iterdir()}


def test_a_fault_in_a_folder_of_shards_hits_one_file_and_eventually_each_one_in_each_way(tmp_path):
    seen = set()
    for seed in range(200):
        (folder := tmp_path / str(seed)).mkdir()
        newest, before = folder_of_shards(folder, 10), folder_of_shards(folder, 5)
        whole, other = contents(newest), contents(before)
        how, of, name = spoil(newest, before, random.Random(seed)).split()
        spoiled = contents(newest)
        assert contents(before) == other
        [changed] = (each for each in whole if spoiled.get(each) != whole[each])
        assert (of, name) == ("of", changed)
        assert (changed not in spoiled) == (how == "removal")
        assert (spoiled.get(changed) == other[changed]) == (how == "torn")
        seen.add((how, name))
    assert len(seen) == len(DAMAGES + OF_FOLDERS) * 3


def test_a_damaged_checkpoint_counts_once_even_if_it_is_rejected_several_times(tmp_path):
    checkpoints = [folder_of_shards(tmp_path, step) for step in (15, 10, 5)]
    faults = Faults(random.Random(0))
    assert faults.damage(checkpoints[:1]) is None
    assert "step-000000015.ckpt: " in faults.damage(checkpoints)
    # Three sessions: killed before it read, killed before it moved the checkpoint away, and one that trained.
    faults.count_rejected(set(), has_trained=False)
    assert faults.damage(checkpoints[1:]) is None, "one at a time"
    faults.count_rejected({"step-000000015.ckpt"}, has_trained=False)
    faults.count_rejected({"step-000000015.ckpt"}, has_trained=True)
    assert (faults.num_damaged, faults.num_rejected) == (1, 1)
    assert faults.damage(checkpoints[1:])
    # A rejected checkpoint that was not damaged counts too, so the soak notices it.
    faults.count_rejected({"step-000000010.ckpt", "step-000000005.ckpt"}, has_trained=True)
    assert (faults.num_damaged, faults.num_rejected) == (2, 3)


def test_a_difference_of_one_bit_is_found_and_nan_equals_itself():
    import torch

    one = {"weights": torch.tensor([0.0, 1.0]), "rows": [{"loss": float("nan"), "step": 3}]}
    assert not list(
        differences(one, {"weights": torch.tensor([0.0, 1.0]), "rows": [{"loss": float("nan"), "step": 3}]})
    )
    assert list(differences(one, {**one, "weights": torch.tensor([-0.0, 1.0])})) == ["/weights"]
    assert list(differences(one, {**one, "rows": [{"loss": 0.5, "step": 3}]})) == ["/rows/0/loss"]
    assert list(differences(one, {"weights": one["weights"]})) == ["/rows"]


@pytest.mark.parametrize(("number", "processes"), [(0, 1), (1, 2), (3, 1), (20, 2)])
def test_the_requested_number_of_kills_is_planned_and_a_third_of_them_while_writing(number, processes):
    kills = plan_kills(number, processes, random.Random(0))
    assert len(kills) == number
    assert 3 * sum(kill.moment == "writing" for kill in kills) >= number
    assert processes > 1 or all(kill.rank is None for kill in kills)


WRONG = [
    ["--kills", "-1"],
    ["--processes", "0"],
    ["--minutes", "0"],
    ["--folder", "."],
    ["--strategy", "deepspeed"],
    ["--sharded", "--processes", "2"],
    ["--sharded", "--strategy", "fsdp"],
    ["--sharded", "--strategy", "fsdp", "--processes", "2", "--asynchronous"],
]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_refused_before_any_work(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(wrong)
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
