"""The database of a search. One process writes it: the one that holds the lock of the study's folder."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bert_lightning.errors import InputError, WorkError
from bert_lightning.studies.record import DATABASE
from bert_lightning.studies.search.drawing import Draw

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# Names of optuna's user attributes: one of the search, and three of each trial.
_SETTINGS = "bert_lightning"
DIRECTORIES = "directories"
VALUES = "values"
REASON = "reason"
# File systems whose locks fail between machines or after a lost connection, which damages files of SQLite
# (https://www.sqlite.org/faq.html#q5).
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs"}
_MOUNTS = Path("/proc/self/mounts")
# Seconds to wait for another program that uses the database.
_PATIENCE = 5


class Database:
    """One search in a database.

    Args:
        url: URL of the database, as SQLAlchemy reads it.
        name: name of the search.
        is_own: whether only searches of one study use the database, so that an empty one of that name is its own.

    Raises:
        InputError: the database cannot be opened, is locked or damaged, or belongs to another program.
    """

    def __init__(self, url: str, name: str, is_own: bool = False) -> None:
        import optuna

        self.name, self._is_own = name, is_own
        self._shown = _without_password(url)
        check_file(url)
        with self._faults():
            # The driver of SQLite waits by itself while another program writes.
            arguments = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {}
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
        self._open: optuna.Study | None = None
        self._trials: list[FrozenTrial] | None = None

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings that were stored when the search began; None if it has not begun."""
        import optuna

        with self._faults():
            if self.name not in optuna.study.get_all_study_names(self._storage):
                return None
            noted = self._study.user_attrs.get(_SETTINGS)
            is_empty = not self._study.user_attrs and not self._study.get_trials(deepcopy=False)
            if noted is None and is_empty and self._is_own:
                # The command that made it was killed before it stored the settings.
                return None
        if not isinstance(noted, str):
            raise InputError(
                f"{self._shown} holds a search {self.name!r} of another program: choose another database, or another "
                "name for the study"
            )
        return dict(json.loads(noted))

    def begin(self, settings: Mapping[str, object], direction: Literal["minimize", "maximize"]) -> None:
        """Begin the search, and store its settings. An earlier search with this name is deleted."""
        import optuna

        with self._faults():
            if self.name in optuna.study.get_all_study_names(self._storage):
                optuna.delete_study(study_name=self.name, storage=self._storage)
            self._trials = None
            self._open = optuna.create_study(study_name=self.name, storage=self._storage, direction=direction)
            self.note(settings)

    def note(self, settings: Mapping[str, object]) -> None:
        """Replace the stored settings of the search."""
        with self._faults():
            # As text, so that values stay equal in every kind of database.
            self._study.set_user_attr(_SETTINGS, json.dumps(settings))

    @property
    def trials(self) -> "list[FrozenTrial]":
        """All trials in the order of their numbers."""
        # The trials can be cached, because no other process writes.
        if self._trials is None:
            with self._faults():
                self._trials = self._study.get_trials()
        return self._trials

    def start(self, drawn: Draw, directories: Sequence[str]) -> None:
        """Add the next trial and its run directories in one transaction, before any of its runs trains."""
        from optuna.trial import create_trial

        trial, self._trials = drawn.trial, None
        attributes = {DIRECTORIES: list(directories), VALUES: drawn.values}
        with self._faults():
            self._study.add_trial(
                create_trial(
                    state=trial.state,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs=attributes,
                )
            )

    def end(self, number: int, heard: "FrozenTrial | None", outcome: "float | str | None") -> None:
        """Store how a trial ended.

        Args:
            number: the trial.
            heard: the trial with the scores and attributes that a pruner stored; None without a pruner.
            outcome: its score, the reason of its failure, or None if it was stopped early.
        """
        from optuna.trial import TrialState

        with self._faults():
            trial, self._trials = self.trials[number], None
            for step, value in (heard.intermediate_values if heard else {}).items():
                self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
            for key, value in (heard.system_attrs if heard else {}).items():
                self._storage.set_trial_system_attr(trial._trial_id, key, value)
            if isinstance(outcome, str):
                self._storage.set_trial_user_attr(trial._trial_id, REASON, outcome)
                self._study.tell(number, state=TrialState.FAIL)
            elif outcome is None:
                self._study.tell(number, state=TrialState.PRUNED)
            else:
                self._study.tell(number, outcome)

    @property
    def _study(self) -> "optuna.Study":
        import optuna

        if self._open is None:
            # This sampler is never used, because trials are drawn elsewhere.
            self._open = optuna.load_study(
                study_name=self.name, storage=self._storage, sampler=optuna.samplers.RandomSampler(0)
            )
        return self._open

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn errors of database drivers, SQLAlchemy and optuna into our own.

        Raises:
            InputError: the database is locked, its URL or driver is wrong, or it has tables of another version.
            WorkError: the database failed in another way.
        """
        import optuna
        import sqlalchemy.exc

        try:
            yield
        except (InputError, WorkError):
            raise
        except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as error:
            raise InputError(
                f"{self._shown} is not the URL of a database ({_reason(error)}); an example: sqlite:////tmp/search.db"
            ) from None
        except ImportError as error:
            cause = error.__cause__ or error
            raise InputError(f"{self._shown}: the driver of this database is not installed: {cause}") from None
        except RuntimeError as error:
            # optuna compares the version of the tables.
            raise InputError(f"{self._shown}: {_reason(error)}") from None
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, sqlite3.Error) as error:
            reason = _reason(error.__cause__ or error)
            if "locked" in reason:
                raise InputError(f"{self._shown} is locked by another program: end that one first") from None
            raise WorkError(f"{self._shown}: the database failed: {reason}; the same command continues") from None


def default_url(folder: Path) -> str:
    """Return the URL of the default database, a file in the folder of the study."""
    return f"sqlite:///{folder / DATABASE}"


def check_file(url: str) -> None:
    """Check the SQLite file that a URL names, before optuna adds its tables. Other URLs are not checked.

    Raises:
        InputError: the file is on a network file system, locked, damaged, or belongs to another program.
    """
    path = _file_of(url)
    if path is None:
        return
    kind = file_system_of(path)
    if kind in _NETWORK:
        raise InputError(
            f"{path} is on a network file system ({kind}), on whose locks SQLite cannot rely: name a database on a "
            "disk of this machine with --storage sqlite:////PATH, or the database of a server"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; the database is a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            [fault] = next(connection.execute("PRAGMA quick_check(1)"))
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f"{path} is locked by another program: end that one first") from None
        raise InputError(f"{path}: cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} is damaged or no database ({error}); {_REMEDY}") from None
    if fault != "ok":
        raise InputError(f"{path} is damaged ({' '.join(str(fault).split())}); {_REMEDY}")
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise InputError(f"{path} is the database of another program: it has no table of trials; name another file")


_REMEDY = "move it away: the search then draws the same trials again, and reads the runs that are finished"


def file_system_of(path: Path) -> str:
    """Return the kind of file system that holds a path, such as ext4; empty if mounts are not listed."""
    real, best, kind = os.path.realpath(path), "", ""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, mount, type_, *_ = line.split(" ")
        # Blanks are written in octal.
        mount = mount.replace("\\040", " ").replace("\\011", "\t")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, type_
    return kind


def is_in_memory(url: str) -> bool:
    """Return whether a URL names an SQLite database in memory, which would end with its process."""
    return url.startswith("sqlite") and (not url.partition(":///")[2] or ":memory:" in url or "mode=memory" in url)


def _file_of(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for another database or one in memory."""
    scheme, separator, rest = url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or is_in_memory(url):
        return None
    return Path(rest.partition("?")[0])


def _without_password(url: str) -> str:
    """Return a URL as messages may show it."""
    import sqlalchemy

    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # Text that is not a valid URL may still contain a password.
        return url if "@" not in url else f"{url.partition(':')[0]}:…"


def _reason(error: BaseException) -> str:
    """Return the reason in a database error, without the SQL statement and its parameters."""
    text = str(error.orig) if getattr(error, "orig", None) is not None else str(error)  # type: ignore[attr-defined]
    return " ".join(text.splitlines()[0].split()) if text else type(error).__name__
