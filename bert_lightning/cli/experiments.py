"""Commands about experiment files: `keys`, `init`."""

import argparse
import shutil
import sys
from pathlib import Path

from bert_lightning.cli.parsing import Commands, path_argument, path_text
from bert_lightning.cli.statuses import OK
from bert_lightning.errors import InputError
from bert_lightning.lazy import without_collections

# Lines of this many characters are the longest that read well.
_LONGEST_LINE = 100


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_keys(commands)
    _add_init(commands)


def _add_keys(commands: Commands) -> None:
    parser = commands.add(
        "keys",
        _keys,
        "list the keys of an experiment",
        "Prints type, default and description of each key. For a single key it prints the whole description.",
    )
    parser.add_argument(
        "prefix",
        nargs="?",
        default="",
        metavar="PREFIX",
        help="list only keys that begin with this, such as optimizer or trainer.precision",
    )
    parser.add_argument("--task", metavar="TASK", help="list only the keys of this task")
    _modules_option(parser)
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print a list of objects")
    forms.add_argument("--markdown", action="store_true", help="print the page docs/configuration.md")


def _add_init(commands: Commands) -> None:
    parser = commands.add(
        "init",
        _init,
        "write an experiment file to start from",
        "Every key has a comment. With --data the file fits the data and can be trained as it is. What training "
        "needs in addition is written next to the file: a vocabulary unless --pretrained has one, and for "
        "pre-training on text a token store.",
    )
    parser.add_argument("task", metavar="TASK", help="the task, such as text-classification or pretraining")
    parser.add_argument(
        "--data", type=path_text, metavar="FILE", help="training data; columns, labels and lengths are read from it"
    )
    parser.add_argument("--validation", type=path_text, metavar="FILE", help="validation data")
    parser.add_argument(
        "--pretrained", type=path_text, metavar="PATH_OR_NAME", help="the checkpoint to start from (default: none)"
    )
    parser.add_argument(
        "--output", type=path_argument, metavar="FILE", help="the new file (default: TASK.yaml in this folder)"
    )
    _modules_option(parser)


def _modules_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="NAME",
        help="import your module, which registers tasks; repeatable",
    )


def _import_modules(names: list[str]) -> None:
    with without_collections(freeze=True):
        from bert_lightning.config.extensions import import_module

    for name in names:
        import_module(name, "--allow-module", names)


def _keys(options: argparse.Namespace) -> int:
    if options.markdown and (options.prefix or options.task):
        raise InputError("--markdown prints the whole page: leave out PREFIX and --task")
    import json

    with without_collections(freeze=True):
        from bert_lightning.cli.key_lists import json_values, markdown_page, text_lines
        from bert_lightning.config.keys import all_sections, matching

    _import_modules(options.allow_module)
    sections = matching(all_sections(options.task), options.prefix)
    if options.markdown:
        print(markdown_page(sections), end="")
    elif options.json:
        print(json.dumps(json_values(sections), indent=2, ensure_ascii=False))
    else:
        width = min(shutil.get_terminal_size().columns, _LONGEST_LINE) if sys.stdout.isatty() else None
        print(*text_lines(sections, width), sep="\n")
    return OK


def _init(options: argparse.Namespace) -> int:
    from bert_lightning.checkpoints.files import write_text
    from bert_lightning.runs.data_survey import can_survey, survey_examples, survey_text
    from bert_lightning.runs.starting_file import starting_file
    from bert_lightning.tasks.catalogue import task_spec

    modules = options.allow_module
    _import_modules(modules)
    spec = task_spec(options.task)
    output = options.output or Path(f"{spec.name}.yaml")
    command = " ".join(["bert-lightning fit --config", str(output), *(f"--allow-module {name}" for name in modules)])
    _refuse_existing(output)
    made = output.with_name(f"{output.stem}-data")
    if options.data is None:
        if options.validation is not None:
            raise InputError("--validation does nothing without --data")
        write_text(output, starting_file(spec, pretrained=options.pretrained, name=output.stem, modules=modules))
        print(f"{output}: fill in what says path/to, then run `{command}`")
        return OK
    if not can_survey(spec):
        raise InputError(f"--data is not possible for the task {spec.name}, whose data only it can read")
    if options.pretrained is None or spec.stored_tokenizer is not None:
        _refuse_existing(made)
    if spec.stored_tokenizer is not None:
        survey = survey_text(spec, options.data, options.validation, made, options.pretrained)
    else:
        survey = survey_examples(spec, options.data, options.validation, options.pretrained)
    tokenizer = None
    if survey.vocabulary is not None:
        tokenizer = str(made / "vocabulary")
        survey.vocabulary.save(Path(tokenizer))
        print(f"{len(survey.vocabulary):,} entries: {tokenizer}")
    write_text(output, starting_file(spec, survey, tokenizer, options.pretrained, output.stem, modules))
    print(*survey.notes.values(), f"{output}: run `{command}`", sep="\n")
    return OK


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists and is not overwritten: choose another --output")
