"""What commands import, and that imports do not search for garbage."""

import gc
import subprocess
import sys

from bert_lightning.lazy import without_collections

# Each of these takes from a tenth of a second to seconds.
HEAVY = {"datasets", "distributed", "IPython", "mlflow", "onnx", "pandas", "pyarrow", "tensorboard", "wandb"}


def test_training_imports_nothing_heavy_besides_torch_and_lightning(home, tmp_path):
    code = f"""
import sys
from bert_lightning.cli import main
arguments = ["fit", "--config", {str(home / "pretraining.yaml")!r}, "--run-directory", {str(tmp_path / "run")!r}]
assert main([*arguments, "--trainer.max_steps", "1", "--wandb.mode", "disabled"]) == 0
print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_imports_do_not_search_for_garbage_and_the_search_goes_on_afterwards():
    assert gc.isenabled()
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_public_name_is_imported_without_searching_for_garbage():
    code = """
import gc
import bert_lightning
before = sum(each["collections"] for each in gc.get_stats())
bert_lightning.load_experiment
# One search may begin between the two lines.
print(sum(each["collections"] for each in gc.get_stats()) - before <= 1, gc.isenabled())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
