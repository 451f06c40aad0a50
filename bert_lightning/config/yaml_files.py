"""YAML files of nested keys, read strictly and written so that they read back to the same values."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bert_lightning.checkpoints.run_files import SETTINGS
from bert_lightning.errors import InputError


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and reads `1e-4` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        key_nodes = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in key_nodes]
        # In Python 1 and true are the same key; in YAML they are two.
        typed = [(type(key), key) for key in keys]
        for number, key in enumerate(keys):
            if typed[number] in typed[:number]:
                mark = key_nodes[number].start_mark
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


class _ExactDumper(yaml.SafeDumper):
    """YAML that `_StrictLoader` reads back to the same values."""


class _FlowDumper(_ExactDumper):
    """The same for values in one line, with numbers such as 1e-06."""


# In the order of the settings, and with letters of every alphabet as they are.
_READABLE: dict[str, Any] = {"sort_keys": False, "allow_unicode": True}


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # In single quotes YAML would read these line breaks as a space.
    style = '"' if any(char in text for char in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_ExactDumper.add_representer(str, _represent_text)
_FlowDumper.add_representer(
    float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", repr(value))
)
# With the same rule, the dumper quotes text that the loader would read as a number, such as the label 1e3.
for _class in (_StrictLoader, _ExactDumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read_yaml(path: Path) -> dict[str, object]:
    """Read a YAML file of nested keys.

    Raises:
        InputError: the file is missing or a folder, is not YAML (the message names the line), or holds no mapping.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        saved = path / SETTINGS
        hint = f": did you mean {saved}, the settings of its run?" if saved.is_file() else ""
        raise InputError(f"{path} is a folder; a YAML file is expected{hint}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        text = raw.decode("utf-8")
        value = yaml.load(text, Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        location = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{path}: {location}{error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{path}: line {line}: YAML has no character {chr(error.character)!r}") from None
    except RecursionError:
        raise InputError(f"{path}: not readable as YAML: too many brackets inside each other") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: keys and values are expected, such as `task: pretraining`")
    return value


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """Return the line, counted from 1, of the key or the list entry at a path; None if the text has no such place.

    >>> line_of("stages:\\n  rte:\\n    axes: [1, 2]\\n", ["stages", "rte", "axes"])
    3
    """
    line = None
    node = yaml.compose(text, Loader=_StrictLoader)
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
            found = next(((key, value) for key, value in pairs if key.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = (node.value[step], node.value[step])
        else:
            found = None
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def dump_yaml(values: dict[str, object]) -> str:
    """Return nested keys as YAML that `read_yaml` reads back to the same values."""
    return yaml.dump(values, Dumper=_ExactDumper, **_READABLE)


def flow_yaml(value: object) -> str:
    """Return a value as YAML in one line, as one would write it after its key.

    >>> flow_yaml([0.9, 1e-06]), flow_yaml(None), flow_yaml("32")
    ('[0.9, 1e-06]', 'null', "'32'")
    """
    text = yaml.dump(_as_lists(value), Dumper=_FlowDumper, default_flow_style=True, width=math.inf, **_READABLE)
    return str(text).removesuffix("\n").removesuffix("\n...")


def _as_lists(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def yaml_value(value: object, path: str) -> Any:
    """Read a value that was given as text, such as one from the command line; other values stay as they are.

    Args:
        value: the text, or a value that is typed already.
        path: the dotted key, for the error message.

    Raises:
        InputError: the text is not YAML.

    >>> yaml_value("[1, 2e-3]", "optimizer.betas")
    [1, 0.002]
    """
    if not isinstance(value, str):
        return value
    try:
        return yaml.load(value, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"{path}: not readable as YAML: {value!r}") from None


def mapping_of_text(value: object, path: str) -> object:
    """Return the mapping that a text writes in YAML's braces; any other value stays as it is.

    Raises:
        InputError: the text is not YAML.

    >>> mapping_of_text("{hidden_dropout_prob: 0.2}", "model.config"), mapping_of_text("lora", "tuning")
    ({'hidden_dropout_prob': 0.2}, 'lora')
    """
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    return yaml_value(value, path)
