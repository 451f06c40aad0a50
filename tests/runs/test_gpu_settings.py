"""What a run sets on a machine with GPUs, shown without one."""

from datetime import timedelta

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn
from torch._dynamo.testing import CompileCounter

from bert_lightning.config.experiment import load_experiment
from bert_lightning.data.loading.module import TrainingPlan
from bert_lightning.distributed import sharded
from bert_lightning.distributed.replicated import ReplicatedStrategy
from bert_lightning.model import BertConfig, BertEncoder
from bert_lightning.model.layers.packing import packing_of
from bert_lightning.runs import trainer as trainers
from bert_lightning.tasks.compilation import compile_blocks, prepare_compiler
from bert_lightning.training import micro_batch
from tests.support.task_data import tiny_classification

TIMEOUT = timedelta(seconds=60)


@pytest.fixture
def gpu(monkeypatch):
    """Let CUDA seem available. The state of torch that the tests change is restored."""
    products, fills = torch.get_float32_matmul_precision(), torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cuda.enable_cudnn_sdp(True)
    torch.utils.deterministic.fill_uninitialized_memory = fills


@pytest.fixture
def flags(tables, tokenizer, tmp_path, monkeypatch):
    """Return a function from settings of the Trainer to the flags that Lightning gets."""
    values = tiny_classification(tables, tokenizer, tmp_path)

    class Trainer:
        def __init__(self, **given):
            self.given = given

    monkeypatch.setattr(trainers, "Trainer", Trainer)
    monkeypatch.setattr(trainers, "own_processes", lambda trainer: None)

    def made(*, compiled=False, **settings):
        overrides = [f"--trainer.{name}={value}" for name, value in settings.items()]
        experiment = load_experiment([], overrides, values)
        return trainers.build_trainer(experiment, tmp_path, [], compiled=compiled).given

    return made


def test_compiled_training_is_deterministic_on_a_processor_but_on_a_gpu_only_if_asked(flags, gpu):
    assert flags(accelerator="cpu", compiled=True)["deterministic"] == "warn"
    assert not flags(accelerator="auto", precision="bf16-mixed", compiled=True)["deterministic"]
    assert flags(accelerator="auto", precision="bf16-mixed", deterministic=True)["deterministic"] is True


@pytest.mark.parametrize(("precision", "products"), [("32", "high"), ("bf16-mixed", "highest")])
def test_a_gpu_gets_tensor_cores_for_32_and_no_attention_of_cudnn(flags, gpu, precision, products):
    torch.utils.deterministic.fill_uninitialized_memory = True
    flags(accelerator="gpu", precision=precision)
    assert torch.get_float32_matmul_precision() == products
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_processor_keeps_exact_products_also_beside_a_gpu(flags, gpu):
    flags(accelerator="cpu", precision="32")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("num_processes", "on_gpu", "deterministic", "searches"),
    [(2, True, True, False), (3, True, False, False), (3, True, True, True), (3, False, False, True)],
)
def test_ddp_searches_for_unused_parameters_only_to_keep_bits(num_processes, on_gpu, deterministic, searches):
    options = ReplicatedStrategy(num_processes, on_gpu, deterministic, TIMEOUT)._ddp_kwargs
    assert options["find_unused_parameters"] is searches
    assert options["bucket_cap_mb"] == (100 if on_gpu else 25)


def test_ddp_sends_only_buffers_that_training_may_change(recwarn):
    constant = nn.Linear(2, 2)
    constant.register_buffer("table", torch.ones(2), persistent=False)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        sent = []
        for model in (constant, nn.Sequential(constant, nn.BatchNorm1d(2))):
            strategy = ReplicatedStrategy(2, False, False, TIMEOUT)
            strategy.parallel_devices = [torch.device("cpu")]
            strategy.cluster_environment = LightningEnvironment()
            wrapped = strategy._setup_model(model)
            sent.append(wrapped.will_sync_module_buffers())
    finally:
        torch.distributed.destroy_process_group()
    assert sent == [False, True]
    assert not [each for each in recwarn if "broadcast_buffers" in str(each.message)]


def test_only_a_small_model_keeps_its_blocks_gathered(monkeypatch):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh(
            "cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel")
        )
        found = []
        for limit in (2**31, 0):
            monkeypatch.setattr(sharded, "_KEPT_GATHERED", limit)
            model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            sharded.shard(model, [model[0], model[1]], (), mesh, "32")
            for gathered in (True, False):
                sharded.gather(model, gathered=gathered)
            model(torch.ones(1, 4))
            found.append([block.weight.__class__.__name__ for block in model])
    finally:
        torch.distributed.destroy_process_group()
    assert found == [["Parameter"] * 2, ["DTensor"] * 2]


@pytest.mark.parametrize(("limit", "waits"), [(2**31, True), (0, False)])
def test_a_small_sharded_model_exchanges_gradients_once_per_step(monkeypatch, limit, waits):
    monkeypatch.setattr(sharded, "_KEPT_GATHERED", limit)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        names = ("data_parallel", "tensor_parallel")
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1, 1), mesh_dim_names=names)
        torch.manual_seed(0)
        task = nn.Module()
        task.model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        inputs = torch.randn(2, 3, 4)
        task.model(inputs.flatten(0, 1)).sum().backward()
        expected = [parameter.grad.clone() for parameter in task.model.parameters()]
        task.model.zero_grad()
        sharded.shard(task.model, list(task.model), (), mesh, "32")
        strategy = sharded.ShardedStrategy(1, 1, False, TIMEOUT)
        monkeypatch.setattr(sharded.ShardedStrategy, "lightning_module", task)
        with strategy.block_backward_sync():
            task.model(inputs[0]).sum().backward()
        assert all((parameter.grad is None) == waits for parameter in task.model.parameters())
        task.model(inputs[1]).sum().backward()
        found = [parameter.grad.full_tensor() for parameter in task.model.parameters()]
    finally:
        torch.distributed.destroy_process_group()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_blocks_are_compiled_for_training_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: lambda *given: calls.append(1) or function(*given)
    )
    block = nn.Linear(2, 2)
    names = list(block.state_dict())
    compile_blocks([block])
    block.train()(torch.ones(1, 2))
    block.eval()(torch.ones(1, 2))
    assert len(calls) == 1
    assert list(block.state_dict()) == names


def test_all_blocks_share_one_graph_for_each_form_of_batch(monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounter()
    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic: original(function, dynamic=dynamic, backend=counter)
    )
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=8, specialize_float=False):
        prepare_compiler()
        encoder = BertEncoder(BertConfig.preset("tiny", vocab_size=60, num_hidden_layers=5)).train()
        compile_blocks(encoder.layers)
        encoder.compiles_blocks = True
        for lengths in ((8, 8), (7, 3), (4, 4, 4), (9, 2)):
            ids = torch.randint(5, 60, (len(lengths), max(lengths)))
            encoder(ids, attention_mask=torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
        # Neither another block nor another size is a reason for another graph.
        assert counter.frame_count == 1
        for lengths in ((8, 8), (7, 3), (4, 4, 4), (9, 2)):
            encoder(torch.randint(5, 60, (sum(lengths),)), packing=packing_of(torch.tensor(lengths)))
        assert counter.frame_count == 2
        encoder.eval()(torch.randint(5, 60, (2, 5)))
        assert counter.frame_count == 2


@pytest.mark.parametrize(
    "message", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "CUDNN_STATUS_ALLOC_FAILED"]
)
def test_a_library_without_memory_makes_the_search_go_on(message):
    class Task:
        class step_method:  # noqa: N801
            @staticmethod
            def sums(batch, backward):
                raise RuntimeError(message)

        def parameters(self):
            return iter(())

    class Precision:
        def forward_context(self):
            return torch.no_grad()

    trainer = type("Trainer", (), {"precision_plugin": Precision()})()
    assert not micro_batch._fits(trainer, Task(), {})


def test_the_search_looks_at_the_first_micro_batch_of_a_step_and_makes_no_other():
    made = []

    class Data:
        plan = TrainingPlan(100, 1, 0)

        def training_batches(self, step, plan, share, num_shares):
            made.append(range(64)[share::num_shares] if plan.accumulate == 1 else None)
            return [{"input_ids": torch.zeros(1)}]

    def batch_to_device(batch):
        return batch

    strategy = type("Strategy", (), {"batch_to_device": staticmethod(batch_to_device), "root_device": "cpu"})()
    trainer = type("Trainer", (), {"strategy": strategy, "global_rank": 0, "world_size": 1})()
    search = micro_batch.LargestMicroBatch(64, None, lambda number: None)
    fits = {64: False, 32: False, 16: True}
    sizes = iter(fits.values())
    original = micro_batch._fits
    micro_batch._fits = lambda *_: next(sizes)
    try:
        assert search._search(trainer, None, Data()) == 4
    finally:
        micro_batch._fits = original
    # Whole batches, halves and quarters of 64 samples; the shares of a step interleave.
    assert {len(numbers) for numbers in made} == {64, 32, 16}
