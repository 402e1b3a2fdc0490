"""The policy: a customer's thresholds, weights and rules in a YAML file, checked when read, hashed in every decision.

The library brings a few by name. `general` is what `jepa signals` takes when nobody names one: a start to copy, because
what a brand or a platform minds is its own decision. Two things are not theirs to switch off. A forecast never
removes, labels or demotes; and a policy that names something no detector looks at gets no silent "safe" but the
decision that `when_not_assessed` names.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jepa.config import configs_folder
from jepa.errors import UserError
from jepa.signals.document import taxonomy
from jepa.signals.document.fields import (
    ANTICIPATED_ACTIONS,
    FINAL_ACTIONS,
    Action,
    Id,
    Probability,
    Text,
    Unit,
)
from jepa.signals.document.hash_chain import digest

Weight = Annotated[float, Field(ge=-10, le=10)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


# Keys of policies for earlier versions, for the error message.
_RENAMED = {"new_look": "visual_change"}


class _Section(BaseModel):
    # Not strict: a person writes 1 for 1.0. Text is still no number, and an unknown key is an error.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Meaning(_Section):
    """What one label of a detector stands for: its IAB id, and whether it counts as a risk when it is observed."""

    iab: Text | None = None
    risk: bool = False

    @field_validator("iab")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            taxonomy.lookup(value)
        return value


class SpanRule(_Section):
    """When a score becomes a span: it starts at `start_at` and ends below `end_at`."""

    start_at: Probability = 0.5
    end_at: Probability = 0.35

    @model_validator(mode="after")
    def _band(self) -> SpanRule:
        if self.end_at > self.start_at:
            raise ValueError(
                f"end_at={self.end_at} is above start_at={self.start_at}; no span would stay open"
            )
        return self


class ForecastRule(_Section):
    """When a curve becomes a forecast: the probability within `horizon_ms` reaches `issue_at`.

    The next forecast of the same label may come after the probability fell below `rearm_at`, or after the
    horizon.
    """

    issue_at: Probability = 0.5
    rearm_at: Probability = 0.35
    horizon_ms: Positive = 3000

    @model_validator(mode="after")
    def _band(self) -> ForecastRule:
        if self.rearm_at > self.issue_at:
            raise ValueError(
                f"rearm_at={self.rearm_at} is above issue_at={self.issue_at}; it would always be issued"
            )
        return self


class Weights(_Section):
    """What each factor of a break's score counts; risks should count against it.

    Editors end scenes with fades and dissolves, and cut inside them. So a cut alone is worth little, and more where
    what follows looks different (`visual_change`). A static picture decides between two candidates that are otherwise
    equal; alone it makes no break, because people stand still in the middle of scenes. A break between two words
    of a speaker is a bad one: `speech_across` outweighs any cut. A causal run knows the side before only
    (`speech_before`), so that counts less.
    """

    fade: Weight = 0.5
    dissolve: Weight = 0.5
    cut: Weight = 0.2
    visual_change: Weight = 0.4
    start: Weight = 0.3
    still_before: Weight = 0.1
    still_after: Weight = 0.1
    silence: Weight = 0.2
    speech_across: Weight = -0.6
    speech_before: Weight = -0.4
    risk_before: Weight = -0.2
    risk_after: Weight = -0.4
    risk_near: Weight = -0.4


class BreakRule(_Section):
    """Where breaks may go. `pre_roll` offers one before the first frame, where only what follows is judged."""

    weights: Weights = Weights()
    before_ms: Positive = 10000
    after_ms: Positive = 3000
    min_score: Annotated[float, Field(ge=-10, le=10)] = 0.25
    min_gap_ms: NotNegative = 8000
    edge_ms: NotNegative = 1000
    max_breaks: Positive = 50
    pre_roll: bool = False
    still_at: Unit = 0.6
    still_ms: Positive = 400


class Rule(_Section):
    """One condition and what follows from it.

    `subject` is what is judged; `signal` is what is read: `risk_before` or `risk_after` for a break, `p` for
    a span or a forecast. `category` is an IAB id, a detector's label, or "any".
    """

    id: Id
    subject: Literal["break", "observed", "anticipated"]
    signal: Literal["risk_before", "risk_after", "p"]
    category: Text = "any"
    at_least: Probability
    action: Action
    reason: Text
    queue: Text | None = None
    human: Literal["required", "not_required"] = "required"

    @model_validator(mode="after")
    def _sensible(self) -> Rule:
        if (self.subject == "break") != (self.signal != "p"):
            raise ValueError(
                f"rule {self.id}: a break is judged by risk_before or risk_after, a span or a forecast by p; "
                f"this rule reads {self.signal} of a {self.subject}"
            )
        if self.action == "skip":
            raise ValueError(f"rule {self.id}: skip is what layout does; choose hold, move or review")
        forecast = self.subject == "anticipated" or self.signal == "risk_after"
        if forecast and self.action not in ANTICIPATED_ACTIONS:
            raise ValueError(
                f"rule {self.id}: a forecast may not {self.action}, since what it is about has not "
                "happened; "
                f"choose one of {', '.join(sorted(ANTICIPATED_ACTIONS))}"
            )
        if self.action in FINAL_ACTIONS and self.subject == "break":
            raise ValueError(
                f"rule {self.id}: {self.action} is for content, not for a break; choose hold or move"
            )
        if self.action in FINAL_ACTIONS and self.human == "required" and self.queue is None:
            raise ValueError(
                f"rule {self.id}: {self.action} needs a person, so name the queue, or say human: not_required"
            )
        return self


class Policy(_Section):
    """A complete policy file. `policy` is its name, `version` its version; both are printed in every decision.

    `groups` gathers labels of a head under one name, such as fire: [ignite bin, burn bin]; a group is a risk.

    Example:
        >>> labels = {"fire": {"iab": "381", "risk": True}}
        >>> policy = Policy.model_validate({"policy": "mine", "version": "1", "about": "no fire", "labels": labels})
        >>> policy.category("fire"), policy.breaks.min_gap_ms
        ('381', 8000)
    """

    policy: Id
    version: Text
    about: Text
    labels: dict[str, Meaning] = {}
    groups: dict[str, list[Text]] = {}
    observed: SpanRule = SpanRule()
    forecast: ForecastRule = ForecastRule()
    breaks: BreakRule = BreakRule()
    tags_at: Probability = 0.5
    when_not_assessed: Literal["allow", "hold", "review"] = "review"
    rules: list[Rule] = []

    @model_validator(mode="after")
    def _distinct(self) -> Policy:
        names = [rule.id for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the rule ids {', '.join(twice)} are used more than once")
        for rule in self.rules:
            if (
                rule.category not in ("any", *self.labels, *self.groups)
                and rule.category not in taxonomy.categories()
            ):
                near = difflib.get_close_matches(rule.category, [*self.labels, *self.groups], n=2)
                near = near or taxonomy.near_misses(rule.category)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise ValueError(
                    f"rule {rule.id}: {rule.category!r} is neither a label of this policy nor an IAB id{hint}"
                )
        return self

    def category(self, label: str, categories: Mapping[str, str] | None = None) -> str | None:
        """The IAB id that this policy gives to a detector's label.

        Args:
            label: the label.
            categories: its head's own table, `HeadMetadata.categories`, for labels that the policy does not name.
        """
        if label in self.labels:
            return self.labels[label].iab
        return (categories or {}).get(label)

    def matches(self, category: str, label: str) -> bool:
        """Whether a rule's category covers a label: by name, by IAB id, or because it covers any."""
        return category in ("any", label) or (category == self.category(label) and category is not None)

    def sha256(self) -> str:
        """Hash of the policy's meaning: comments and the order of keys do not count, defaults do."""
        return digest(self.model_dump(mode="json"))


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would keep the last one in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} appears twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def list_policies() -> list[str]:
    """The policies that come with the library, by name."""
    return sorted(path.stem for path in _bundled().glob("*.yaml"))


def policy_path(policy: str | os.PathLike[str]) -> Path:
    """The file of a policy: a name from `list_policies`, or the path of a file of one's own.

    Example:
        >>> policy_path("general").name, policy_path("./general").name
        ('general.yaml', 'general')
    """
    inside = _bundled() / f"{os.fspath(policy)}.yaml"
    return inside if os.fspath(policy) in list_policies() else Path(policy)


def _bundled() -> Path:
    return configs_folder() / "policy"


def read_policy(policy: str | os.PathLike[str]) -> Policy:
    """Reads and checks a policy.

    Args:
        policy: the name of one that comes with the library (`list_policies`), or the path of a YAML file.

    Raises:
        UserError: missing, not YAML, an unknown key (named, with similar ones), or a value that makes no
        sense.

    Example:
        >>> read_policy("toy-brand").version
        '1.0.0'
    """
    path = policy_path(policy)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the policy {path}: {getattr(error, 'strerror', None) or error}. Give the path of a YAML "
            f"file, or the name of a policy of the library: {', '.join(list_policies())}."
        ) from error
    try:
        # _Loader derives from SafeLoader: no tag can build anything but plain data.
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, TypeError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"the policy {path} is not valid YAML: {detail}. Correct that line.") from error
    if not isinstance(data, dict):
        raise UserError(f"the policy {path} holds no keys. Copy {policy_path('general')} and change it.")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        lines = [_explain(problem["loc"], problem) for problem in error.errors()]
        raise UserError(f"the policy {path} is refused: {'; '.join(lines)}.") from error


def _explain(where: tuple[int | str, ...], problem: Any) -> str:
    key = ".".join(str(step) for step in where)
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        message = message[:1].lower() + message[1:] if message.startswith("Input") else message
        return f"{key}: {message}" if key else message
    renamed = _RENAMED.get(str(where[-1]))
    if renamed is not None:
        return f"{key} is now called {renamed}; rename it"
    known = _keys_at(where[:-1])
    near = difflib.get_close_matches(str(where[-1]), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the keys there are {', '.join(known)}"
    return f"{key} is not a key of a policy; {hint}"


def _keys_at(where: tuple[int | str, ...]) -> list[str]:
    """The keys that a policy knows below a path such as ("rules", 3)."""
    model: type[BaseModel] = Policy
    for step in where:
        annotation = model.model_fields[step].annotation if step in model.model_fields else None
        inner = [annotation, *typing.get_args(annotation)]
        models = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
        model = models[0] if models else model
    return sorted(model.model_fields)
