"""What prompts are trained for: an objective says what is run behind each input, and what loss its logits make.

`objective.py` is the protocol; every objective has a file of its own. To add one, write its class, name it in
:data:`OBJECTIVES`, and let the config know its name. May import: `evaluation` and what is below it.
Open `objective.py` first.
"""

from __future__ import annotations

from typing import Any

from softprompt.training.objectives.distillation import Distillation
from softprompt.training.objectives.label_scoring import LabelScoring, LabelTarget
from softprompt.training.objectives.language_modeling import LanguageModeling
from softprompt.training.objectives.objective import Objective
from softprompt.training.objectives.preference import Pair, Preference
from softprompt.training.objectives.teacher import Taught
from softprompt.training.objectives.unlikelihood import Unlikelihood, Unwanted

__all__ = [
    "LABEL_SCORING",
    "LANGUAGE_MODELING",
    "OBJECTIVES",
    "Distillation",
    "LabelScoring",
    "LabelTarget",
    "LanguageModeling",
    "Objective",
    "Pair",
    "Preference",
    "Taught",
    "Unlikelihood",
    "Unwanted",
]

LABEL_SCORING = LabelScoring()
LANGUAGE_MODELING = LanguageModeling()
OBJECTIVES: dict[str, Objective[Any]] = {
    "label_scoring": LABEL_SCORING,
    "language_modelling": LANGUAGE_MODELING,
    "distillation": Distillation(),
    "unlikelihood": Unlikelihood(),
    "preference": Preference(),
}
"""By the names that a checked task file has for them."""
