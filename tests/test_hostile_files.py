"""Files made to execute code, read by every command that reads files: their marker never appears."""

import json
import os
import pickle
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bert_lightning.checkpoints.files import write_with_checksum
from bert_lightning.checkpoints.names import to_huggingface
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.cli import main
from tests.support.hostile import Evil
from tests.support.small_corpus import make_documents, write_corpus

SOURCE = "from pathlib import Path\nPath({marker!r}).mkdir()\n"


@pytest.fixture
def working_folder(tmp_path, monkeypatch):
    """A working directory in which `marker` must never appear."""
    monkeypatch.chdir(tmp_path)
    Path("raw.txt").write_text("The old cat sees the dog.\n")
    yield tmp_path
    assert not Path("marker").exists()


@pytest.fixture
def evil(working_folder):
    return Evil(working_folder / "marker")


def test_an_unprotected_load_makes_the_marker(evil, tmp_path):
    """Without this, a missing marker would prove nothing."""
    torch.save(evil, "evil.pt")
    torch.load("evil.pt", weights_only=False)
    os.rmdir("marker")
    yaml.load(f"!!python/object/apply:os.mkdir ['{evil.marker}']", Loader=yaml.UnsafeLoader)
    os.rmdir("marker")
    np.load(object_array(evil, "evil.npy"), allow_pickle=True)
    os.rmdir("marker")


def object_array(evil, path):
    array = np.empty(1, dtype=object)
    array[0] = evil
    # `np.save` would add a suffix to a path that has another one.
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=True)
    return path


def readers(home, path):
    """Return every command that reads a checkpoint."""
    config = str(home / "pretraining.yaml")
    start = ["--model.size", "null", "--model.pretrained", str(path)]
    return [
        ["fit", "--config", config, "--run-directory", "new", "--resume", str(path)],
        ["fit", "--config", config, "--run-directory", "new", *start],
        ["validate", "--checkpoint", str(path), "--config", config],
        ["test", "--checkpoint", str(path), "--config", config],
        ["predict", "--checkpoint", str(path), "--input", "raw.txt"],
        ["features", "--checkpoint", str(path), "--input", "raw.txt", "--output", "f.safetensors"],
        ["export", "--checkpoint", str(path), "--format", "huggingface", "--output", "exported"],
    ]


def assert_refused(commands, capsys):
    for command in commands:
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert "Traceback" not in error
        assert not Path("marker").exists(), command


@pytest.mark.parametrize("form", ["zip", "raw"])
@pytest.mark.parametrize("way", ["file", "last", "best"])
def test_our_own_checkpoints_execute_nothing(home, evil, capsys, form, way):
    folder = Path("run/checkpoints")
    file = folder / "step-000000012.ckpt"
    shutil.copytree(home / "runs/whole", "run", symlinks=True)
    for path in folder.iterdir():
        path.unlink()
    content = {"bert_lightning": evil, "state_dict": {}, "global_step": 12}
    write = (lambda f: torch.save(content, f)) if form == "zip" else (lambda f: pickle.dump(content, f))
    # The author of a malicious file writes its checksum, too.
    write_with_checksum(file, write)
    if way != "file":
        (folder / f"{way}.ckpt").symlink_to(file.name)
    commands = readers(home, file if way == "file" else "run")
    if way != "file":
        manifest = json.loads(Path("run/manifest.json").read_text())
        Path("run/manifest.json").write_text(json.dumps({**manifest, "ended": None}))
        commands.append(["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", "run"])
    assert_refused(commands, capsys)


@pytest.fixture
def folder(home, working_folder):
    """A Hugging Face folder."""
    export = ["export", "--checkpoint", str(home / "runs/whole"), "--format", "huggingface", "--output", "folder"]
    assert main(export) == 0
    return Path("folder")


@pytest.mark.parametrize("form", ["zip", "raw", "sharded"])
def test_pickled_weights_of_others_execute_nothing(home, folder, evil, capsys, form):
    tensors = to_huggingface(read_checkpoint(folder).tensors)
    (folder / "model.safetensors").unlink()
    content = {**tensors, "extra": evil}
    if form == "sharded":
        torch.save(content, folder / "pytorch_model-00001-of-00001.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(content, "pytorch_model-00001-of-00001.bin")}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    elif form == "zip":
        torch.save(content, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content))
    capsys.readouterr()
    assert_refused(readers(home, folder), capsys)


def test_other_files_in_a_hugging_face_folder_are_not_opened(home, folder, tokenizer, evil):
    tokenizer.save(folder)
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        torch.save(evil, folder / name)
    (folder / "modeling_evil.py").write_text(SOURCE.format(marker=str(evil.marker)))
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        content = json.loads((folder / name).read_text())
        remote = {"AutoModel": "modeling_evil.Model", "AutoTokenizer": ["modeling_evil.Tokenizer", None]}
        (folder / name).write_text(json.dumps({**content, "auto_map": remote, "trust_remote_code": True}))
    for command in readers(home, folder):
        main(command)
        assert not Path("marker").exists(), command
    assert (Path("exported") / "model.safetensors").exists()
    assert "modeling_evil" not in sys.modules


def test_arrays_of_a_token_store_execute_nothing(home, store, evil, capsys):
    arrays = [path.relative_to(store) for suffix in ("npy", "bin", "tokens") for path in store.rglob(f"*.{suffix}")]
    assert len(arrays) == 4
    for name in arrays:
        shutil.rmtree("store", ignore_errors=True)
        shutil.copytree(store, "store")
        object_array(evil, Path("store") / name)
        command = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", f"new-{name.name}"]
        status = main([*command, "--data.train", "store", "--trainer.max_steps", "20"])
        assert not Path("marker").exists(), name
        error = capsys.readouterr().err
        assert status == 2, (name, error)
        assert "Traceback" not in error


def test_preparing_a_damaged_store_again_executes_nothing(store, corpus, tokenizer, evil):
    shutil.copytree(store, "store")
    tokenizer.save(Path("tok"))
    for path in Path("store").rglob("*.npy"):
        object_array(evil, path)
    main(["prepare", "--input", str(corpus), "--tokenizer", "tok", "--output", "store", "--workers", "1"])


def test_the_configuration_of_a_run_executes_nothing(home, classifier, evil, capsys):
    shutil.copytree(home / "runs/whole", "run", symlinks=True)
    for tag in ("apply:os.mkdir", "new:os.mkdir", "name:os.mkdir", "module:evil_module"):
        text = f"experiment: small\ntask: !!python/object/{tag} ['{evil.marker}']\n"
        if tag.startswith(("name", "module")):
            text = f"experiment: small\ntask: !!python/{tag} ''\n"
        Path("run/config.yaml").write_text(text)
        Path("evil_module.py").write_text(SOURCE.format(marker=str(evil.marker)))
        assert_refused(
            [
                ["fit", "--config", "run/config.yaml", "--run-directory", "new"],
                ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory", "run"],
                ["validate", "--checkpoint", "run"],
                ["test", "--checkpoint", "run"],
                ["reproduce", "run"],
                ["report", "run", "--output", "report.md"],
                ["submission", "run", "--output", "s.zip"],
            ],
            capsys,
        )


def test_scripts_in_a_folder_of_data_are_not_executed(home, tokenizer, evil):
    data = Path("data")
    data.mkdir()
    for name in ("data.py", "__init__.py", "conftest.py", "dataset_infos.py"):
        (data / name).write_text(SOURCE.format(marker=str(evil.marker)))
    (data / "dataset_info.json").write_text("{}")
    write_corpus(data / "text.txt", make_documents(3))
    tokenizer.save(Path("tok"))
    main(["tokenizer", "--input", "data", "--vocab-size", "120", "--output", "new-tok"])
    main(["prepare", "--input", "data", "--tokenizer", "tok", "--output", "s", "--workers", "1"])
    main(["prepare", "--input", "hub:data", "--tokenizer", "tok", "--output", "s2", "--workers", "1"])
    main(["instances", "--input", "data", "--tokenizer", "tok", "--output", "i.jsonl"])
    topics = ["fit", "--config", str(home / "pretraining.yaml"), "--run-directory"]
    main([*topics, "a", "--data.train", "data"])
    values = {"experiment": "x", "task": "text-classification", "model": {"size": "tiny"}}
    values |= {"data": {"tokenizer": "tok"}, "trainer": {"max_steps": 1, "accelerator": "cpu"}}
    Path("x.yaml").write_text(yaml.safe_dump(values))
    for change in (["--data.train", "data"], ["--data.dataset", "sst2", "--data.folder", "data"]):
        main(["fit", "--config", "x.yaml", "--run-directory", "b", *change])
    main(["fit", "--config", "x.yaml", "--run-directory", "c", "--data.dataset", "data"])
    assert not Path("marker").exists()


def test_a_url_is_refused_and_not_fetched(home, working_folder, capsys):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for scheme in ("http", "https", "file", "s3"):
            url = f"{scheme}://127.0.0.1:{server.server_port}/step-000000001.ckpt"
            for command in readers(home, url):
                assert main(command) == 2
                assert "is a URL" in capsys.readouterr().err
    finally:
        server.shutdown()
    assert asked == []


def test_no_command_starts_while_the_protection_is_switched_off(home, evil, monkeypatch, capsys):
    torch.save({"bert_lightning": evil}, "evil.ckpt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for command in readers(home, "evil.ckpt"):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set" in error
