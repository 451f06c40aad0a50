"""The description of question answering."""

from bert_lightning.model import BertForQuestionAnswering
from bert_lightning.tasks.question_answering.data import QuestionAnsweringDataModule
from bert_lightning.tasks.question_answering.settings import QuestionAnsweringData, QuestionAnsweringHead
from bert_lightning.tasks.question_answering.task import QuestionAnsweringTask
from bert_lightning.tasks.spec import TaskSpec

QUESTION_ANSWERING = TaskSpec(
    name=QuestionAnsweringTask.name,
    data_settings=QuestionAnsweringData,
    data=QuestionAnsweringDataModule,
    model=BertForQuestionAnswering,
    task=QuestionAnsweringTask,
    head_settings=QuestionAnsweringHead,
    head_arguments=lambda head, data: {"answerability": head.answerability},
    head_options=lambda tensors: {"answerability": "answer_head.weight" in tensors},
    kept=("no_answer", "null_threshold"),
    data_arguments=lambda saved: {"no_answer": saved.get("no_answer")},
)
