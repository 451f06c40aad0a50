"""Hub names, read through the hub's own client from a local server."""

import fnmatch
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bert_lightning.checkpoints import hub
from bert_lightning.checkpoints.huggingface import read_huggingface
from bert_lightning.checkpoints.names import to_huggingface
from bert_lightning.checkpoints.tokenizers.tokenizer_files import Vocabulary
from bert_lightning.model import BertConfig, BertForPreTraining

COMMIT, NAME = "a1b2" * 10, "someone/bert-tiny"
# Answers each request in a fork, so that only the hub's client has to be imported each time.
READER = """
import json, os, sys
from bert_lightning.checkpoints.errors import CheckpointError
from bert_lightning.checkpoints.reading import read_checkpoint
assert "huggingface_hub" not in sys.modules
for line in sys.stdin:
    name, variables = json.loads(line)
    if os.fork():
        os.wait()
        print(flush=True)
        continue
    os.environ |= variables
    os.dup2(1, 2)
    try:
        checkpoint = read_checkpoint(name)
        print(checkpoint.provenance.revision, len(checkpoint.tensors), checkpoint.vocabulary.entries[-1])
    except CheckpointError as error:
        print("error:", error)
    sys.stdout.flush()
    os._exit(0)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Server of the four answers that downloading a model needs."""

    folder: Path

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        files = sorted(self.folder.iterdir())
        status, headers = 200, {}
        if parts[:4] == ["api", "models", *NAME.split("/")] and parts[-1] in ("main", COMMIT):
            if "tree" in parts:
                sizes = [{"path": f.name, "size": f.stat().st_size, "oid": "0" * 40, "type": "file"} for f in files]
                content = json.dumps(sizes).encode()
            else:
                siblings = [{"rfilename": file.name} for file in files]
                content = json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode()
        elif "resolve" in parts and (self.folder / parts[-1]).is_file():
            content = (self.folder / parts[-1]).read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            if parts[-1].endswith((".safetensors", ".bin")):
                headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}
                headers |= {"X-Linked-Size": str(len(content))}
        else:
            status, content = 404, b"{}"
            headers = {"X-Error-Code": "RevisionNotFound" if NAME in self.path else "RepoNotFound"}
        self.send_response(status)
        for name, text in {**headers, "Content-Type": "application/json", "Content-Length": len(content)}.items():
            self.send_header(name, str(text))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = BertConfig.preset("tiny", vocab_size=6, max_position_embeddings=8)
    vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"), lowercase=True)
    BertForPreTraining(config).save_pretrained(tmp_path / "model", vocabulary)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.stdin.close()


@pytest.fixture
def read(model: Path, reader: subprocess.Popen[str], tmp_path: Path):
    """Read a hub name in a new process, because the client reads the address of the hub on import."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Hub,), {"folder": model}))
    # It looks this often whether it is to stop.
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()

    def run(name: str, *, online: bool = True) -> str:
        port = server.server_address[1] if online else 9
        variables = {
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
        }
        print(json.dumps([name, variables]), file=reader.stdin, flush=True)
        lines = [line.rstrip("\n") for line in iter(reader.stdout.readline, "\n")]
        assert len(lines) == 1, lines
        return lines[0]

    yield run
    server.shutdown()
    server.server_close()


def test_a_name_is_downloaded_with_its_commit_and_later_found_without_a_network(read):
    expected = f"{COMMIT} 38 word"
    assert read(NAME) == expected
    assert read(f"hub:{NAME}", online=False) == expected
    assert read(f"hub:{NAME}@{COMMIT}", online=False) == expected


def test_a_missing_model_is_an_error_that_names_it(read):
    assert "hub:someone/else could not be downloaded from the hub" in read("hub:someone/else")
    assert f"{NAME}@v9 could not be downloaded from the hub" in read(f"hub:{NAME}@v9")
    message = read("runs/mistyped", online=False)
    assert message.startswith("error: runs/mistyped does not exist; ")


def test_pickled_weights_are_used_if_there_are_no_others(read, model):
    tensors = to_huggingface(read_huggingface(model).tensors)
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    assert read(NAME) == f"{COMMIT} 38 word"


def test_a_damaged_download_is_named(read, tmp_path):
    read(NAME)
    [weights] = (tmp_path / "cache").rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    assert "model.safetensors is damaged: its SHA-256 differs from the hub's" in read(NAME)


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("bert-base-uncased", True),
        ("hub:google-bert/bert-base-cased@main", True),
        ("./folder", False),
        ("/a/b", False),
        ("a/b/c", False),
        ("../x", False),
    ],
)
def test_paths_that_cannot_be_names_are_not_looked_up(text, is_name):
    assert hub.is_hub_name(text) == is_name


def test_a_pinned_name_is_recognised_as_the_one_it_pins():
    pin = hub.pinned("bert-base-cased", COMMIT)
    assert pin == f"hub:bert-base-cased@{COMMIT}"
    assert hub.is_pinned_form("bert-base-cased", pin)
    assert hub.is_pinned_form("hub:bert-base-cased", pin)
    assert not hub.is_pinned_form("bert-large-cased", pin)
    assert hub.is_pinned_form("bert-base-cased@main", pin)
    assert not hub.is_pinned_form(pin, pin)
    assert not hub.is_pinned_form("bert-base-cased", "hub:bert-base-cased@main")


def test_every_file_that_the_readers_look_at_is_asked_for(monkeypatch, tmp_path):
    patterns = set()

    def snapshot_download(name, revision, allow_patterns):
        patterns.update(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    hub.download(NAME)
    for file in (
        *("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "adapter_config.json", "model.safetensors", "model-00001-of-00002.safetensors"),
        *("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"),
        *("pytorch_model.bin.index.json",),
    ):
        assert any(fnmatch.fnmatch(file, pattern) for pattern in patterns), file
