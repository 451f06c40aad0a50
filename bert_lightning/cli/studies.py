"""The commands that train studies: `ablate`, `search`."""

import argparse
from typing import TYPE_CHECKING

from bert_lightning.cli.parsing import Commands, module_option, path_argument, whole_number
from bert_lightning.cli.statuses import FAILURE, OK
from bert_lightning.cli.terminal import live_line
from bert_lightning.errors import InputError
from bert_lightning.lazy import without_collections

if TYPE_CHECKING:
    from bert_lightning.studies.launchers import Launcher

LAUNCHERS = ("local", "submitit", "wandb")


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_ablate(commands)
    _add_search(commands)


def _add_ablate(commands: Commands) -> None:
    parser = commands.add(
        "ablate",
        _ablate,
        "train all runs of a study: arms, seeds and stages",
        "If the command ends early for any reason, the same command resumes the study. It does not repeat finished "
        "runs. The exit status is 1 if a run did not finish. --submitit.KEY VALUE sets a parameter of SLURM jobs, "
        "such as --submitit.timeout 240 (minutes) or --submitit.partition gpu.",
        overrides=True,
    )
    parser.add_argument("file", type=path_argument, metavar="FILE", help="the study file")
    directory_option(parser)
    jobs_option(parser, None, "default: 1, with submitit 100")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the number of runs and the estimated time, and train nothing"
    )
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        metavar="NAME",
        help="train only this stage and those that it starts from; repeatable (default: all stages)",
    )
    parser.add_argument("--yes", action="store_true", help="start a study of more than 100 runs")
    parser.add_argument("--retry-failed", action="store_true", help="train failed and stale runs again")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="where the runs train: on this machine (local), as SLURM jobs (submitit), or by the workers of a W&B "
        "sweep, of which this command only writes the definition (wandb); default: local",
    )
    module_option(parser)


def _add_search(commands: Commands) -> None:
    parser = commands.add(
        "search",
        _search,
        "search for the best settings, and train the best trial with fresh seeds",
        "The section search of the study file lists the keys to vary. If the command ends early, the same command "
        "continues the search with the same draws. The exit status is 1 if no trial is complete, or if a run with a "
        "fresh seed did not finish.",
    )
    parser.add_argument("file", type=path_argument, metavar="FILE", help="the study file")
    directory_option(parser)
    jobs_option(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the space and the number of trials done, and train nothing"
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="train the best trial again with those fresh seeds whose runs failed",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="database of the trials, such as postgresql://HOST/NAME (default: DIR/search.db)",
    )
    module_option(parser)


def directory_option(parser: argparse.ArgumentParser) -> None:
    """Add `--directory`, the folder of the study."""
    parser.add_argument(
        "--directory",
        type=path_argument,
        metavar="DIR",
        help="folder of the study (default: studies/<name of the study>)",
    )


def jobs_option(parser: argparse.ArgumentParser, default: int | None = 1, details: str = "default: 1") -> None:
    """Add `--jobs`, how many runs train at the same time."""
    parser.add_argument(
        "--jobs",
        type=whole_number,
        metavar="N",
        default=default,
        help=f"how many runs train at the same time; they share the cores and CUDA devices equally ({details})",
    )


def _ablate(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.studies.ablation import ablate, dry_run
        from bert_lightning.studies.cluster import MOST_JOBS

    _check_retry(options)
    launcher = _launcher(options)
    is_local = options.launcher != "submitit"
    num_jobs = (1 if is_local else MOST_JOBS) if options.jobs is None else options.jobs
    if options.dry_run:
        arguments = options.file, options.directory, num_jobs, options.stage, options.allow_module
        print(*dry_run(*arguments, is_local=is_local), sep="\n")
        return OK
    if options.launcher == "wandb":
        from bert_lightning.studies.sweep import write_sweep

        print(*write_sweep(options.file, options.directory, options.yes, options.allow_module), sep="\n")
        return OK
    with live_line() as reporter:
        record = ablate(
            options.file,
            options.directory,
            num_jobs,
            stages=options.stage,
            retry_failed=options.retry_failed,
            many=options.yes,
            launcher=launcher,
            reporter=reporter,
            allow_modules=options.allow_module,
        )
    runs = [run for run in record.of_arms if not options.stage or run.stage in options.stage]
    finished = all(run.state == "finished" for run in runs)
    return OK if finished else FAILURE


def _check_retry(options: argparse.Namespace) -> None:
    if options.retry_failed and (options.dry_run or getattr(options, "launcher", None) == "wandb"):
        other = "--dry-run, which changes nothing" if options.dry_run else "--launcher wandb, which trains nothing"
        raise InputError(f"--retry-failed does nothing with {other}")


def _launcher(options: argparse.Namespace) -> "Launcher | None":
    """Return the launcher that the options name; None for this machine, and for sweeps, which have none."""
    from bert_lightning.studies.cluster import MOST_JOBS, SubmititLauncher, submitit_parameters

    parameters = submitit_parameters(options.overrides)
    if options.launcher == "submitit":
        return SubmititLauncher(MOST_JOBS if options.jobs is None else options.jobs, parameters)
    if parameters:
        raise InputError(f"--submitit.{next(iter(parameters))} does nothing without --launcher submitit")
    if options.launcher == "wandb" and options.stage:
        raise InputError("--stage does nothing with --launcher wandb, which needs a study of one stage")
    if options.launcher == "wandb" and options.jobs is not None:
        raise InputError("--jobs does nothing with --launcher wandb: start one worker per run to train at once")
    return None


def _search(options: argparse.Namespace) -> int:
    with without_collections(freeze=True):
        from bert_lightning.studies.search.searching import dry_run, is_complete, search

    _check_retry(options)
    file, modules = options.file, options.allow_module
    if options.dry_run:
        print(*dry_run(file, options.directory, options.jobs, options.storage, modules), sep="\n")
        return OK
    with live_line() as reporter:
        record = search(
            file,
            options.directory,
            options.jobs,
            retry_failed=options.retry_failed,
            storage=options.storage,
            reporter=reporter,
            allow_modules=modules,
        )
    return OK if is_complete(record) else FAILURE
