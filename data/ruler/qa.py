"""qa_1 and qa_2: a question of SQuAD or HotpotQA, its paragraphs hidden among others."""

from __future__ import annotations

from data.ruler.draws import CannotBuild, Draws
from data.ruler.sizing import Generator, Prompt
from data.ruler.sources import QaData
from data.ruler.tasks import DOCUMENT, Task
from data.ruler.wording import Wording


class Qa(Generator):
    """A unit is a document. Row r asks the r-th question of the data set."""

    step = 10

    def __init__(self, task: Task, wording: Wording, data: QaData):
        self.name, self.wording, self.data = task.name, wording, data

    def build(self, size: int, row: int, draws: Draws) -> Prompt:
        question, documents = self.data.questions[row], self.data.documents
        if size < len(documents):
            chosen = self._choose(question.context, question.same_article, size, draws)
        else:
            chosen = [i % len(documents) for i in range(size)]
        draws.order_documents(chosen, question.gold)
        context = "\n\n".join(DOCUMENT.format(i=i + 1, document=documents[d]) for i, d in enumerate(chosen))
        return self.wording.prompt(list(question.answers), context=context, query=question.text)

    def _choose(self, context: tuple[int, ...], same_article: tuple[int, ...], size: int, draws: Draws) -> list[int]:
        wanted = size - len(context)
        if wanted < 0:
            raise CannotBuild(f"{len(context)} documents belong to the question, {size} wanted")
        if wanted <= len(same_article):
            return [*context, *draws.rng.sample(same_article, wanted)]
        used = {*context, *same_article}
        others = [i for i in range(len(self.data.documents)) if i not in used]
        return [*context, *same_article, *draws.rng.sample(others, wanted - len(same_article))]
