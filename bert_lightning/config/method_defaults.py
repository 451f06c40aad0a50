"""Learning rate and length of a method, for experiments that set none.

A method that trains few parameters needs another rate than full fine-tuning, and often more epochs. Its class says
which: `default_learning_rate` and `default_epochs`, as in `model/tuning/tuning.py: Tuning`.
"""

from bert_lightning.config.nested import at, copied, section_at
from bert_lightning.config.settings import Tables

# The choices whose classes may have such defaults, in order; the first one that has a default gives it.
_CHOICES = ("tuning", "adversarial", "step_method")
_RATE, _EPOCHS = "optimizer.learning_rate", "trainer.max_epochs"


def method_defaults(classes: dict[str, type]) -> dict[str, tuple[float, str]]:
    """Return the defaults of the chosen methods: key -> value, and the choice that gives it.

    Args:
        classes: path of a choice -> the class that is chosen.

    >>> from bert_lightning.model.tuning import BitFit
    >>> method_defaults({"tuning": BitFit})
    {'optimizer.learning_rate': (0.001, 'tuning'), 'trainer.max_epochs': (16, 'tuning')}
    """
    found: dict[str, tuple[float, str]] = {}
    for key, attribute in ((_RATE, "default_learning_rate"), (_EPOCHS, "default_epochs")):
        for choice in _CHOICES:
            value = getattr(classes.get(choice), attribute, None)
            if value is not None:
                found.setdefault(key, (value, choice))
    return found


def with_method_defaults(values: dict[str, object], tables: Tables) -> dict[str, object]:
    """Add the defaults of the chosen methods to the values of an experiment, where it sets nothing itself.

    A rate is for AdamW, so any other optimiser keeps its own default. A length is added if neither steps nor epochs
    are set.
    """
    names = {choice: section_at(values, choice).get("name") for choice in _CHOICES if choice in tables}
    classes = {choice: tables[choice][name] for choice, name in names.items() if name in tables[choice]}
    for key, (value, _) in method_defaults(classes).items():
        section_path, _, name = key.partition(".")
        given = section_at(values, section_path)
        is_other = key == _RATE and at(values, "optimizer.name") not in (None, "adamw")
        is_given = given.keys() & ({"max_steps", "max_epochs"} if key == _EPOCHS else {name})
        # A section of a wrong type is reported when it is read.
        if not is_other and not is_given and isinstance(values.get(section_path, {}), dict):
            values, section = copied(values, section_path)
            section[name] = value
    return values
