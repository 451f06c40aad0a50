"""The description of question answering."""

from bert_lightning.model import BertForQuestionAnswering
from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData, QuestionAnsweringHead
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.spec import Arguments, Saved, TaskSpec


def _task_arguments(data: QuestionAnsweringDataModule, saved: Saved) -> Arguments:
    threshold = saved.get("null_threshold")
    return {"settings": data.settings, "no_answer": data.no_answer, "null_threshold": threshold}


def _saved_task_arguments(saved: Saved) -> Arguments:
    settings = QuestionAnsweringData(**saved["data"])
    return {"settings": settings, "no_answer": saved["no_answer"], "null_threshold": saved.get("null_threshold")}


QUESTION_ANSWERING = TaskSpec(
    name=QuestionAnsweringTask.name,
    data_settings=QuestionAnsweringData,
    data=QuestionAnsweringDataModule,
    model=BertForQuestionAnswering,
    task=QuestionAnsweringTask,
    head_settings=QuestionAnsweringHead,
    head_arguments=lambda head, data: {"answerability": head.answerability},
    head_options=lambda tensors: {"answerability": "answer_head.weight" in tensors},
    task_arguments=_task_arguments,
    data_arguments=lambda saved: {"no_answer": saved.get("no_answer")},
    saved_task_arguments=_saved_task_arguments,
)
