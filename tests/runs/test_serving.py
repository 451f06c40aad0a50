"""Exports in other programs: pipelines of transformers, the serialised tokenizer, plain onnxruntime."""

import numpy as np
import onnxruntime
import pytest
import tokenizers
import torch
import transformers

from bert_lightning import export, load
from bert_lightning.checkpoints.files import write_with_checksum
from bert_lightning.checkpoints.native import ENTRY
from bert_lightning.checkpoints.reading import read_checkpoint
from bert_lightning.interpretability.features import FeatureExtractor
from bert_lightning.model import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForRelationClassification,
    BertForTokenClassification,
)
from bert_lightning.model.onnx_export import INPUTS
from bert_lightning.tasks.catalogue import TASKS
from bert_lightning.tasks.multiple_choice.settings import MultipleChoiceData
from bert_lightning.tasks.multiple_choice.task import MultipleChoiceTask
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.relation_classification.settings import RelationClassificationData
from bert_lightning.tasks.relation_classification.task import RelationClassificationTask
from bert_lightning.tasks.token_classification.settings import TokenClassificationData
from bert_lightning.tasks.token_classification.task import TokenClassificationTask

TEXTS = ["The old cat sees the young dog.", "The river follows the quiet stone.", "zzz Zé 犬"]
TAGS = ["O", "B-animal", "I-animal", "B-place", "I-place"]


@pytest.fixture
def runs(classifier, home, tokenizer, tmp_path):
    """A function from a task to a checkpoint of it."""

    def checkpoint_of(name):
        if name in ("text-classification", "pretraining"):
            return classifier if name == "text-classification" else home / "runs/whole"
        torch.manual_seed(3)
        config = BertConfig.preset(
            "tiny", vocab_size=len(tokenizer), max_position_embeddings=48, initializer_range=0.3
        )
        length = {"max_seq_length": 48}
        if name == "token-classification":
            model = BertForTokenClassification(config, labels=TAGS)
            task = TokenClassificationTask(
                model, config, tokenizer, TokenClassificationData(window_overlap=8, **length), TAGS
            )
        elif name == "question-answering":
            settings = QuestionAnsweringData(max_question_length=12, doc_stride=8, **length)
            model = BertForQuestionAnswering(config)
            task = QuestionAnsweringTask(model, config, tokenizer, settings, no_answer=False)
        elif name == "multiple-choice":
            task = MultipleChoiceTask(BertForMultipleChoice(config), config, tokenizer, MultipleChoiceData(**length))
        else:
            model = BertForRelationClassification(config, labels=["no", "yes"])
            settings = RelationClassificationData(**length)
            task = RelationClassificationTask(model, config, tokenizer, settings, labels=["no", "yes"])
        weights = {f"model.{key}": tensor for key, tensor in task.model.state_dict().items()}
        content = {"state_dict": weights, ENTRY: task.checkpoint_entry(), "global_step": 1}
        write_with_checksum(tmp_path / "run.ckpt", lambda file: torch.save(content, file))
        return tmp_path / "run.ckpt"

    return checkpoint_of


def pipeline(name, folder, **options):
    """Open a pipeline of transformers."""
    return transformers.pipeline(name, str(folder), device="cpu", **options)


def check_text_classification(run, folder):
    """The same label, and the same probability of each label."""
    for ours, theirs in zip(
        load(run).predict(TEXTS), pipeline("text-classification", folder)(TEXTS, top_k=None), strict=True
    ):
        assert theirs[0]["label"] == ours["label"]
        assert {each["label"]: each["score"] for each in theirs} == pytest.approx(ours["probabilities"], abs=2e-6)


def check_token_classification(run, folder):
    """The same tag of each word, with the aggregation that takes the first piece of a word."""
    served = pipeline("token-classification", folder, ignore_labels=[], aggregation_strategy="none")
    for text in TEXTS:
        [ours] = load(run).predict([{"tokens": text.replace(".", " .").split()}])
        pieces = served(text)
        firsts = [each["entity"] for each in pieces if not each["word"].startswith("##")]
        # Punctuation and ideographs are words of their own for the pipeline.
        assert firsts == ours["tags"]
        spans = pipeline("token-classification", folder, aggregation_strategy="first")(text)
        assert {span["entity_group"] for span in spans} == {tag[2:] for tag in ours["tags"] if tag != "O"}


def check_feature_extraction(run, folder):
    """The same hidden states of each token."""
    checkpoint = read_checkpoint(run)
    served = pipeline("feature-extraction", folder)
    for text, ours in zip(TEXTS, FeatureExtractor(checkpoint).extract(TEXTS), strict=True):
        np.testing.assert_allclose(np.array(served(text))[0], ours.states[0], atol=2e-5)


def check_fill_mask(run, folder):
    """The same five entries for a mask, and the hidden states of the encoder."""
    texts = ["The old [MASK] sees the dog.", "[MASK] river."]
    for ours, theirs in zip(load(run).predict(texts), pipeline("fill-mask", folder)(texts, top_k=5), strict=True):
        [candidates] = ours["masks"]
        assert [each["token_str"] for each in theirs] == [each["token"] for each in candidates]
        expected = [each["probability"] for each in candidates]
        assert [each["score"] for each in theirs] == pytest.approx(expected, abs=2e-6)
    check_feature_extraction(run, folder)


def check_question_answering(run, folder):
    """The same answer. transformers 5 has no pipeline for it, so the best span is found here."""
    assert "question-answering" not in transformers.pipelines.SUPPORTED_TASKS or pipeline(
        "question-answering", folder
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    question, context = "Who sees the dog?", "The old cat sees the young dog. The river is quiet."
    [ours] = load(run).predict([{"question": question, "context": context}])
    inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**inputs)
    positions = [n for n, segment in enumerate(inputs.sequence_ids(0)) if segment == 1]
    scores = {
        (start, end): float(output.start_logits[0, start] + output.end_logits[0, end])
        for start in positions
        for end in positions
        if start <= end < start + 30
    }
    start, end = max(scores, key=scores.get)
    assert ours["answer"] == context[offsets[start][0] : offsets[end][1]]


def check_multiple_choice(run, folder):
    """The same probabilities; transformers has the model but no pipeline."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    context, choices = "The old cat.", ["The dog.", "The road follows the tree.", ""]
    [ours] = load(run).predict([{"context": context, "choices": choices}])
    inputs = tokenizer([context] * 3, choices, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**{name: tensor[None] for name, tensor in inputs.items()}).logits[0]
    assert logits.softmax(-1).tolist() == pytest.approx(ours["probabilities"], abs=2e-6)


CHECKS = {
    "pretraining": check_fill_mask,
    "text-classification": check_text_classification,
    "token-classification": check_token_classification,
    "question-answering": check_question_answering,
    "multiple-choice": check_multiple_choice,
    # Its export is a masked language model, as that of pre-training.
    "cloze": None,
    # transformers has no model for entity markers, and `export` refuses it (test_export.py).
    "relation-classification": None,
}


@pytest.mark.parametrize("task", TASKS)
def test_transformers_predicts_what_we_predict(runs, task, tmp_path):
    check = CHECKS[task]
    if check is not None:
        run = runs(task)
        export(str(run), "huggingface", tmp_path / "out")
        check(run, tmp_path / "out")


@pytest.mark.parametrize("form", ["huggingface", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_serialised_tokenizer_alone_gives_our_ids_with_special_tokens(classifier, tmp_path, form):
    export(str(classifier), form, tmp_path / "out")
    ours = load(classifier).task.tokenizer
    served = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text, ids in zip(TEXTS, ours.encode_batch(TEXTS), strict=True):
        assert served.encode(text).ids == [ours.cls_id, *ids, ours.sep_id] == theirs(text)["input_ids"]
    pair = served.encode("The cat.", "The dog.")
    assert pair.ids == theirs("The cat.", "The dog.")["input_ids"]
    assert pair.type_ids == theirs("The cat.", "The dog.")["token_type_ids"]
    if form == "huggingface":
        # Reading the folder again gives the same vocabulary; an ONNX folder is no checkpoint.
        assert read_checkpoint(tmp_path / "out").vocabulary.entries == tuple(ours.vocabulary.entries)


@pytest.mark.slow
def test_onnxruntime_and_the_serialised_tokenizer_are_enough_to_predict(classifier, tmp_path):
    export(str(classifier), "onnx", tmp_path / "out")
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(TEXTS)
    columns = (
        [each.ids for each in encodings],
        [each.type_ids for each in encodings],
        [each.attention_mask for each in encodings],
    )
    inputs = {name: np.array(values, dtype=np.int64) for name, values in zip(INPUTS, columns, strict=True)}
    logits = onnxruntime.InferenceSession(tmp_path / "out/model.onnx").run(["logits"], inputs)[0]
    scores = np.exp(logits - logits.max(1, keepdims=True))
    for row, ours in zip(scores / scores.sum(1, keepdims=True), load(classifier).predict(TEXTS), strict=True):
        assert row.tolist() == pytest.approx(list(ours["probabilities"].values()), abs=1e-5)
