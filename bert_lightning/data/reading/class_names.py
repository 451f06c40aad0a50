"""The names of class labels. Hub data sets, and Parquet files that `datasets` wrote, hold numbers instead."""

import json
from collections.abc import Mapping


def written_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, object]:
    """Return the features that `datasets` wrote into the metadata of a Parquet file; empty for other files."""
    written = (metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    import datasets

    try:
        return dict(datasets.Features.from_dict(json.loads(written)["info"]["features"]))
    except (ValueError, KeyError, TypeError):
        return {}


def with_class_names(values: Mapping[str, object], features: Mapping[str, object]) -> dict[str, object]:
    """Replace the numbers of classes in a row by their names, and -1, which stands for no class, by None.

    Args:
        values: one row.
        features: column -> its feature, as `datasets` describes it. Columns without one stay unchanged.
    """
    return {name: _named(value, features.get(name)) for name, value in values.items()}


def _named(value: object, feature: object) -> object:
    if value is None or feature is None:
        return value
    name_of = getattr(feature, "int2str", None)
    if name_of is not None:
        # A loader may already have turned the number into a name.
        return value if isinstance(value, str) else None if value == -1 else name_of(value)
    if isinstance(value, dict) and isinstance(feature, dict):
        return {key: _named(inner, feature.get(key)) for key, inner in value.items()}
    if isinstance(value, list):
        item = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        # Texts need no names, and a list of texts may be as long as a document.
        return value if getattr(item, "dtype", None) == "string" else [_named(inner, item) for inner in value]
    return value
