"""Puts a task's text, its answer prefix and the model's chat template together."""

from __future__ import annotations

from dataclasses import dataclass

from data.ruler.sizing import Prompt
from data.ruler.tasks import Family
from data.ruler.templates import TEMPLATES, ModelTemplate


@dataclass(frozen=True)
class Wording:
    """A family's strings inside a model's chat template."""

    body: str
    answer_prefix: str
    template: ModelTemplate

    @classmethod
    def of(cls, family: Family, template: ModelTemplate = TEMPLATES["base"]) -> Wording:
        return cls(family.body, family.answer_prefix, template)

    def prompt(self, outputs: list[str], before_body: str = "", before_all: str = "", **values) -> Prompt:
        """The sample whose text is `before_all`, then the template around `before_body` and the body, then the prefix.

        `values` fill the placeholders of body and prefix.
        """
        prefix = self.answer_prefix.format(**values)
        body = self.body.format(**values)
        text = f"{before_all}{self.template.before}{before_body}{body}{self.template.after}{prefix}"
        return Prompt(text, prefix, outputs)

    def singular(self) -> Wording:
        """The wording for one needle and one answer, by upstream's replacements (the template is left alone)."""
        body, prefix = self.body, self.answer_prefix
        for old, new in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
            body, prefix = body.replace(old, new), prefix.replace(old, new)
        return Wording(body, prefix, self.template)
