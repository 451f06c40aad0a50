"""Properties that every adversary has, over the table of all of them."""

import pytest
import torch

from bert_lightning.errors import InputError
from bert_lightning.methods.adversarial import ADVERSARIES, Adversary, Passes, cost_of
from bert_lightning.model import BertEncoder
from bert_lightning.runs.building import build_training
from bert_lightning.tasks.step_method import PlainStep
from bert_lightning.training import micro_batch
from tests.support.methods import (
    ADVERSARIAL,
    NO_DROPOUT,
    WholeBatch,
    first_batch,
    gradients,
    maker,
    micro_batches,
    train,
)

NAMES = [name for name in ADVERSARIES if name != "none"]


class Counting(WholeBatch):
    """A backward pass that counts."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.passes = self.gradients = 0
        self.lasts = []

    def __call__(self, losses, *, is_last=True):
        self.passes += 1
        self.lasts.append(is_last)
        super().__call__(losses)

    def gradient(self, losses, of):
        self.gradients += 1
        return super().gradient(losses, of)


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_is_what_a_micro_batch_takes(texts, name, monkeypatch):
    experiment = texts(*ADVERSARIAL[name])
    setup = build_training(experiment, None)
    student, [batch] = micro_batches(experiment)
    forward, plain, asked = [], BertEncoder.forward, []
    monkeypatch.setattr(BertEncoder, "forward", lambda *args, **options: forward.append(1) or plain(*args, **options))
    # The ascents of losses ask autograd themselves.
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: asked.append(1) or grad(*args, **options))
    method = student.step_method
    backward = Counting(method, batch)
    method.sums(batch, backward)
    passes = experiment.adversarial.passes
    assert len(forward) == passes.forward
    # One backward pass of added losses goes through the graphs of two forward passes.
    together = passes.backward - len(asked)
    assert backward.passes == (1 if name in ("smart", "r-drop") else together)
    assert backward.lasts == [False] * (backward.passes - 1) + [True]
    once = PlainStep(student).operations(batch)
    # Of the three parts of a pass, a forward pass is one, and an ascent leaves out the one of the weights.
    expected = passes.forward / 3 + together * 2 / 3 + len(asked) / 3
    assert method.operations(batch) == pytest.approx(expected * once)
    [note] = [note for note in setup.notes if "adversarial" in note]
    assert f"adversarial.name {name} takes {passes.forward} forward and {passes.backward} backward passes" in note


def test_plain_training_and_a_class_of_the_users_have_no_note():
    assert cost_of(ADVERSARIES["none"]()) == cost_of(object()) == []
    assert Adversary().passes == Passes(1, 1)
    assert cost_of(ADVERSARIES["freelb"](num_passes=1)) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_whole_batch_however_it_is_split(texts, name):
    found = []
    for number in (1, 4):
        student, batches = micro_batches(texts(*ADVERSARIAL[name], *NO_DROPOUT), number)
        student.model.double()
        found.append(gradients(student, *batches))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_steps_differ_in_their_noise_and_repeat_it(texts, name, recorded):
    student, batch = first_batch(texts(*ADVERSARIAL[name]))

    def perturbations(step):
        for part in student.step_parts:
            part.begin_step(step, 10, 1)
        recorded.clear()
        gradients(student, batch)
        return list(recorded)

    one, again, other = perturbations(1), perturbations(1), perturbations(2)
    assert all(map(torch.equal, one, again))
    if name in ("pgd", "freelb", "smart"):
        assert not all(map(torch.equal, one, other))
    else:
        assert not student.step_parts


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_draws_the_same_dropout_masks_but_that_of_r_drop_others(texts, name, monkeypatch):
    student, batch = first_batch(texts(*ADVERSARIAL[name]))
    states, plain = [], BertEncoder.forward

    def recording(*arguments, **options):
        states.append(torch.get_rng_state())
        return plain(*arguments, **options)

    monkeypatch.setattr(BertEncoder, "forward", recording)
    gradients(student, batch)
    are_equal = [torch.equal(states[0], state) for state in states[1:]]
    assert are_equal == [name != "r-drop"] * (len(states) - 1)
    assert len(states) > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_computes_once_for_all_passes(experiments, teachers, name, monkeypatch):
    teacher = teachers("text-classification")
    student, batch = first_batch(
        maker(experiments["text-classification"])(*ADVERSARIAL[name], f"--distillation.teacher={teacher}")
    )
    calls, compute = [], type(student).compute
    monkeypatch.setattr(type(student), "compute", lambda self, batch: calls.append(self) or compute(self, batch))
    gradients(student, batch)
    assert len([each for each in calls if each is not student]) == 1
    assert len([each for each in calls if each is student]) > 1


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_tried_with_the_method(texts, name):
    student, batch = first_batch(texts(*ADVERSARIAL[name]))
    assert student.step_method.sums(batch, micro_batch._Backward()).isfinite().all()


@pytest.fixture(scope="module")
def base(texts, tmp_path_factory):
    """A checkpoint to tune."""
    folder = tmp_path_factory.mktemp("base")
    train(texts("--trainer.max_steps=2"), folder)
    return ["--model.size=null", f"--model.pretrained={folder / 'last.ckpt'}"]


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "bitfit"])
@pytest.mark.parametrize("name", NAMES)
def test_a_tuned_run_is_perturbed_trains_its_part_alone_and_resumes_bit_for_bit(
    texts, base, name, tuning, recorded, tmp_path
):
    options = [*ADVERSARIAL[name], *base, f"--tuning.name={tuning}"]
    options += ["--checkpoint.every_n_steps=1", "--checkpoint.keep_last=9"]
    whole = train(texts(*options), tmp_path / "whole")
    assert name == "r-drop" or recorded[-1].any()
    start = build_training(texts(*options), None).task.model.state_dict()
    for parameter_name, parameter in whole.model.named_parameters():
        changed = not torch.equal(parameter, start[parameter_name])
        assert not changed or parameter.requires_grad, parameter_name
    resumed = train(texts(*options), tmp_path / "resumed", tmp_path / "whole/step-000000002.ckpt")
    state = resumed.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.state_dict().items())


def test_a_name_that_is_almost_right_is_suggested(texts):
    with pytest.raises(InputError, match=r"adversarial.name is 'rdrop'.* did you mean 'r-drop'"):
        texts("--adversarial=rdrop")
    with pytest.raises(InputError, match=r"clean_pass does nothing with adversarial.initial 0"):
        texts("--adversarial=freelb", "--adversarial.clean_pass=true", "--adversarial.initial=0")
