"""Data files: `<data_dir>/<model>/<seq_len>/<task>.jsonl`, and beside each a `.json` with the recipe it was made by."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from data.ruler.generate import Recipe, generate_rows
from data.ruler.sources import WONDERWORDS, file_digest
from data.ruler.tasks import QA, TASKS
from data.ruler.templates import resolve_template

DEFAULT_DIR = Path(__file__).parent
# Raise it when the rows of any recipe change: files of another version are refused.
GENERATOR_VERSION = 1
_PROBE = "The jittery-commitment of 5437923 tokens: naïve\n\n\tVAR QZXJK = 12345, 'd1a9' ... {x} 漢字 <|user|>"


class DataFileError(RuntimeError):
    """A data file cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class TokenizerId:
    """A tokenizer as far as data are concerned: its name, and a digest of what it does."""

    name: str
    digest: str
    template: str
    """Name of the template it gets by itself."""

    @classmethod
    def of(cls, tokenizer) -> TokenizerId:
        try:
            template = resolve_template(tokenizer).name
        except ValueError:  # its chat template is of no use here: the recipe names another
            template = ""
        vocabulary = sorted(tokenizer.get_vocab().items())
        probe = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
        digest = hashlib.sha256(json.dumps([vocabulary, probe]).encode()).hexdigest()[:16]
        return cls(str(getattr(tokenizer, "name_or_path", "") or f"tokenizer-{digest}"), digest, template)


def token_counter(tokenizer) -> Callable[[str], int]:
    """Counts a text's tokens, the markers in it included, without a BOS or EOS that the tokenizer would add."""
    return lambda text: len(
        tokenizer(
            text, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )["input_ids"]
    )


def data_path(recipe: Recipe, tokenizer: TokenizerId, data_dir: str | Path | None = None) -> Path:
    """Where a recipe's rows are kept. What is not RULER's own is added to the model's folder, as in `NAME+builtin`."""
    task = TASKS[recipe.task]
    parts = [re.sub(r"[^\w.-]+", "__", tokenizer.name).strip("_")]
    if recipe.tokens_to_generate != task.family.tokens_to_generate["official"]:
        parts.append(f"gen{recipe.tokens_to_generate}")
    if task.uses_essays and recipe.haystack != "essay":
        parts.append(re.sub(r"[^\w.-]+", "_", Path(recipe.haystack).stem))
    if recipe.template.name != tokenizer.template:
        parts.append(recipe.template.name)
    if recipe.variant != "ruler":
        parts.append(recipe.variant)
    if recipe.seed != 42:
        parts.append(f"seed{recipe.seed}")
    return Path(data_dir or DEFAULT_DIR) / "+".join(parts) / str(recipe.seq_len) / f"{recipe.task}.jsonl"


def rows_ready(recipe: Recipe, tokenizer: TokenizerId, num_rows: int, data_dir: str | Path | None = None) -> bool:
    """Whether a recipe's file has at least `num_rows` rows. Raises DataFileError if another recipe made it."""
    path = data_path(recipe, tokenizer, data_dir)
    return path.exists() and _rows_there(path, _facts(recipe, tokenizer)) >= num_rows


def ensure_rows(recipe: Recipe, tokenizer, num_rows: int, data_dir: str | Path | None = None) -> tuple[Path, bool]:
    """A file with at least `num_rows` rows: (its path, whether it was written now).

    A shorter file is written anew; its rows stay what they were. Raises DataFileError if the file there was made by
    another recipe, and BudgetError or SourceError if the rows cannot be made.
    """
    tokenizer_id = TokenizerId.of(tokenizer)
    path = data_path(recipe, tokenizer_id, data_dir)
    if rows_ready(recipe, tokenizer_id, num_rows, data_dir):
        return path, False
    rows = list(generate_rows(recipe, token_counter(tokenizer), num_rows))
    facts = _facts(recipe, tokenizer_id)  # after the rows: making them may have downloaded their sources
    path.parent.mkdir(parents=True, exist_ok=True)
    # The recipe first: a file without its recipe is refused, a recipe without its file is only written again.
    _write(_recipe_path(path), [json.dumps(facts, indent=1)])
    _write(path, (json.dumps(row) for row in rows))
    return path, True


def read_rows(path: Path, num_rows: int) -> list[dict]:
    """The first rows of a file. Raises DataFileError for a broken line or too few rows."""
    rows = []
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            if len(rows) == num_rows:
                break
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataFileError(
                    f"{path}, line {number}: not JSON ({error}); delete the file to make it anew"
                ) from error
    if len(rows) < num_rows:
        raise DataFileError(f"{path} has {len(rows)} rows, {num_rows} wanted; delete the file to make it anew")
    return rows


def _facts(recipe: Recipe, tokenizer_id: TokenizerId) -> dict:
    """What decides the bytes of the file; digests are None for sources that are not here."""
    task = TASKS[recipe.task]
    facts = {
        "generator_version": GENERATOR_VERSION,
        "task": recipe.task,
        "seq_len": recipe.seq_len,
        "tokens_to_generate": recipe.tokens_to_generate,
        "seed": recipe.seed,
        "variant": recipe.variant,
        "model_template": recipe.template.name,
        "template_text": recipe.template.before + "{task_template}" + recipe.template.after,
        "tokenizer": tokenizer_id.name,
        "tokenizer_digest": tokenizer_id.digest,
        "wonderwords": WONDERWORDS,
    }
    if task.uses_essays:
        kind = recipe.haystack if recipe.haystack in ("essay", "builtin") else "text"
        facts["haystack"] = kind
        if kind != "builtin":
            source = recipe.sources.find("essays") if kind == "essay" else Path(recipe.haystack)
            facts["haystack_digest"] = file_digest(source) if source else None
    if task.family is QA:
        source = recipe.sources.find(task.args["dataset"])
        facts["questions_digest"] = file_digest(source) if source else None
    return facts


def _rows_there(path: Path, facts: dict) -> int:
    """Rows of an existing file, whose recipe must be `facts`."""
    try:
        made_by = json.loads(_recipe_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(
            f"{path} has no readable recipe beside it ({error}); delete it to make it anew, or use another data_dir"
        ) from error
    # A source that is not here now cannot be compared; the file made from it is still good.
    differing = [
        f"{key}: {made_by.get(key)!r} there, {facts.get(key)!r} asked"
        for key in sorted({*facts, *made_by})
        if made_by.get(key) != facts.get(key) and not (key.endswith("_digest") and facts.get(key, "") is None)
    ]
    if differing:
        raise DataFileError(
            f"{path} was made by another recipe ({'; '.join(differing)}); delete it to make it anew, or use another "
            "data_dir"
        )
    with open(path, "rb") as handle:
        return sum(1 for _ in handle)


def _recipe_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that appears complete or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may be making the same file
    try:
        with open(part, "w", encoding="utf-8") as handle:
            for line in lines:
                handle.write(line + "\n")
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
