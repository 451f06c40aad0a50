"""Environment variables in a configuration: `${NAME}` is replaced, `$${NAME}` stays as `${NAME}`."""

import os
import re
from typing import Any

from bert_lightning.errors import InputError

# A second $ before it makes it plain text.
_VARIABLE = re.compile(r"(\$?)\$\{(\w+)\}")
_SECRET = re.compile(r"(KEYS?|TOKEN|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?)(_|$)|(^|_)PAT$", re.IGNORECASE)


def with_variables(text: str, path: str) -> str:
    """Replace `${NAME}` by the variable's value, and a leading `~/` by the home folder, as a shell would.

    Args:
        text: the value of a key.
        path: the dotted key, for the error message.

    Raises:
        InputError: the variable is not set, or its name looks like that of a secret.
    """

    def replace(match: re.Match[str]) -> str:
        name = match[2]
        if match[1]:
            return f"${{{name}}}"
        if _SECRET.search(name):
            raise InputError(
                f"{path} uses ${{{name}}}, which looks like a secret: values are written to a run's files"
            )
        if name not in os.environ:
            raise InputError(f"{path} uses ${{{name}}}, but this environment variable is not set")
        return os.environ[name]

    home = os.path.expanduser("~/") if text.startswith("~/") else ""
    return home + _VARIABLE.sub(replace, text.removeprefix("~/") if home else text)


def with_literal_variables(values: object) -> Any:
    """Return nested keys in which `${NAME}` is escaped, so that the loader reads it as text.

    >>> with_literal_variables({"train": "${ODD_NAME}/store"})
    {'train': '$${ODD_NAME}/store'}
    """
    if isinstance(values, dict):
        return {with_literal_variables(key): with_literal_variables(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        # The loader does not replace variables in the texts of a list.
        return [with_literal_variables(value) if isinstance(value, dict) else value for value in values]
    return _VARIABLE.sub(r"$\g<0>", values) if isinstance(values, str) else values
