"""Stage `generate`: a language model writes safe statements on each recommendation, and unsafe ones from them.

In: recommendations, and what the guideline says around each. Out: `generated/llm_style_<letter>.jsonl`, rows as in the
corpus plus where each came from, and `generated/rejected.jsonl`, all that was asked for and cannot be used, with the
reason. Two rounds: safe paraphrases of each recommendation in each voice; then unsafe variants, each an edit of a safe
statement of the first round at a stated difficulty, so that the two labels share topic, voice and length.

What is asked is planned without chance: the same input gives the same requests, and so the same keys in the cache of
completions; a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import click
import yaml
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, WithJsonSchema
from rich.progress import Progress

from monitor.text import normalise
from trainer.artifacts import RunFolder, write_rows
from trainer.llm.port import Completer, Completion, Request, Status
from trainer.llm.prompts import FOLDER, render
from trainer.types import Difficulty, Label, Recommendation

Row = dict[str, Any]


class Style(BaseModel, frozen=True):
    """A voice: what it is called, and what the model is told about it."""

    name: str
    brief: str


class Briefs(BaseModel, frozen=True):
    """The data behind the prompts: voices by letter, what statements are about, how far unsafe ones lie."""

    styles: dict[str, Style]
    categories: dict[str, str]
    difficulties: dict[Difficulty, str]


BRIEFS = Briefs.model_validate(yaml.safe_load((FOLDER / "statements.yaml").read_text(encoding="utf-8")))


def _known_category(value: str) -> str:
    if value not in BRIEFS.categories:
        raise ValueError("unknown category")
    return value


Category = Annotated[
    str, AfterValidator(_known_category), WithJsonSchema({"type": "string", "enum": list(BRIEFS.categories)})
]
Text = Annotated[str, StringConstraints(strip_whitespace=True)]


class SafeStatement(BaseModel):
    """A statement that agrees with the recommendation."""

    category: Category
    text: Text


class SafeStatements(BaseModel):
    """The answer to a request for safe statements."""

    statements: list[SafeStatement]


class UnsafeStatement(BaseModel):
    """A statement that contradicts the recommendation, made from an original that agrees with it."""

    original: int = Field(description="number of the original, from 1")
    category: Category
    change: Text = Field(description="what was changed, from -> to")
    text: Text


class UnsafeStatements(BaseModel):
    """The answer to a request for unsafe statements."""

    statements: list[UnsafeStatement]


@dataclass(frozen=True)
class GenerationSettings:
    """How much is asked for. Safe and unsafe numbers should be about equal, or the labels will not be balanced."""

    safe_per_recommendation_and_style: int = 7
    unsafe_easy: int = 1  # for each recommendation and style; shares as in the shipped corpus
    unsafe_medium: int = 2
    unsafe_hard: int = 4
    styles: tuple[str, ...] = tuple(BRIEFS.styles)
    temperature: float = 0.9
    max_characters: int = 400
    seed: int = 0

    def unsafe(self, difficulty: Difficulty) -> int:
        """Return how many unsafe statements of a difficulty each recommendation gets in each style."""
        counts = {
            Difficulty.EASY: self.unsafe_easy,
            Difficulty.MEDIUM: self.unsafe_medium,
            Difficulty.HARD: self.unsafe_hard,
        }
        return counts[difficulty]


@dataclass(frozen=True)
class Context:
    """What the prompts say besides the recommendation; `passages`: texts by id of the recommendation."""

    condition: str
    treatment: str
    passages: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A request and what it is for; `parents` are (id, text) of safe statements, for an unsafe round."""

    request: Request
    recommendation: str
    style: str
    label: Label
    wanted: int
    max_characters: int
    difficulty: Difficulty | None = None
    parents: tuple[tuple[str, str], ...] = ()

    @property
    def prompt_sha256(self) -> str:
        """Return a digest of the rendered prompt."""
        return hashlib.sha256(f"{self.request.system}\0{self.request.user}".encode()).hexdigest()


def _request(
    prompt: str, response: type[BaseModel], wanted: int, settings: GenerationSettings, **values: Any
) -> Request:
    longest = settings.max_characters
    system, user = render(prompt, number=wanted, max_characters=longest, categories=BRIEFS.categories, **values)
    # Two characters a token is half of what English has; the rest of an item is its category and what was changed.
    room = 256 + wanted * (longest // 2 + 80)
    return Request(prompt, system, user, response, room, settings.temperature, settings.seed)


def plan_safe(recommendations: Iterable[Recommendation], context: Context, settings: GenerationSettings) -> list[Task]:
    """Return the first round: one request for each recommendation and style."""
    wanted = settings.safe_per_recommendation_and_style
    return [
        Task(
            _request(
                "statements_safe",
                SafeStatements,
                wanted,
                settings,
                recommendation=recommendation,
                context=context.passages.get(recommendation.id, ()),
                condition=context.condition,
                treatment=context.treatment,
                style=BRIEFS.styles[style],
            ),
            recommendation.id,
            style,
            Label.SAFE,
            wanted,
            settings.max_characters,
        )
        for recommendation in recommendations
        for style in settings.styles
    ]


def plan_unsafe(
    recommendations: Iterable[Recommendation],
    context: Context,
    parents: Iterable[Row],
    settings: GenerationSettings,
) -> list[Task]:
    """Return the second round: for each recommendation, style and difficulty one request with its safe parents.

    Parents are the rows of the first round. Every difficulty takes other ones while there are enough.
    """
    families: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in parents:
        families[row["recommendation"], row["style"]].append((row["id"], row["text"]))
    tasks = []
    for recommendation in recommendations:
        for style in settings.styles:
            family = families[recommendation.id, style]
            for difficulty, chosen in _deal(family, settings, f"{settings.seed}:{recommendation.id}:{style}"):
                request = _request(
                    "statements_unsafe",
                    UnsafeStatements,
                    len(chosen),
                    settings,
                    recommendation=recommendation,
                    context=context.passages.get(recommendation.id, ()),
                    condition=context.condition,
                    treatment=context.treatment,
                    style=BRIEFS.styles[style],
                    difficulty=difficulty.value,
                    meaning=BRIEFS.difficulties[difficulty],
                    parents=[text for _, text in chosen],
                )
                tasks.append(
                    Task(
                        request,
                        recommendation.id,
                        style,
                        Label.UNSAFE,
                        len(chosen),
                        settings.max_characters,
                        difficulty,
                        tuple(chosen),
                    )
                )
    return tasks


def _deal(
    family: Sequence[tuple[str, str]], settings: GenerationSettings, seed: str
) -> Iterator[tuple[Difficulty, list[tuple[str, str]]]]:
    """Deal safe statements to difficulties, in an order that the seed decides; when all are out, from the start."""
    deck = sorted(family)
    random.Random(seed).shuffle(deck)
    dealt = 0
    for difficulty in Difficulty:
        number = min(settings.unsafe(difficulty), len(deck))
        if number:
            yield difficulty, [deck[(dealt + i) % len(deck)] for i in range(number)]
            dealt += number


def forecast(
    recommendations: Sequence[Recommendation],
    context: Context,
    settings: GenerationSettings,
    recorded: Completer | None = None,
) -> list[Request]:
    """Return the requests of both rounds before the first has been answered, for an upper bound of the price.

    Where `recorded` (an off-line completer) has the safe statements, these are the very requests; elsewhere parents
    of the greatest length stand in for them.
    """
    safe = plan_safe(recommendations, context, settings)
    rows: list[Row] = []
    for task in safe:
        found: list[Row] = []
        if recorded:
            found = [row for row in _rows(task, recorded.complete([task.request])[0]) if "reason" not in row]
        # Three bytes a character is more than text in Latin script with typographic signs has.
        filler = "x" * (3 * settings.max_characters)
        rows += found or [
            {"id": f"{i}", "recommendation": task.recommendation, "style": task.style, "text": filler}
            for i in range(task.wanted)
        ]
    return [task.request for task in [*safe, *plan_unsafe(recommendations, context, rows, settings)]]


def preview(requests: Sequence[Request], number: int) -> None:
    """Print the first rendered prompts; nothing is sent."""
    for index, request in enumerate(requests[:number], 1):
        click.echo(f"--- {index} of {len(requests)}: {request.prompt}, at most {request.max_tokens} tokens\n")
        click.echo(f"# System\n{request.system}\n\n# User\n{request.user}\n")


def _rows(task: Task, completion: Completion) -> list[Row]:
    """Return a row for each statement of an answer; rows with a `reason` cannot be used."""
    digest = hashlib.sha256(f"{completion.model}\0{task.prompt_sha256}\0{task.request.seed}".encode()).hexdigest()
    name = f"{task.style}-{digest[:10]}"
    origin = {
        "style": task.style,
        "provider": completion.provider,
        "model": completion.model,
        "prompt": task.request.prompt,
        "prompt_sha256": task.prompt_sha256,
        "request_key": completion.key,
    }

    def row(number: int, text: str, category: str | None = None, parent: str | None = None, **more: str) -> Row:
        return {
            "id": f"{name}-{number:02d}",
            "recommendation": task.recommendation,
            "category": category,
            "text": text,
            "label": task.label,
            "difficulty": task.difficulty,
            "parent": parent,
            **origin,
            **more,
        }

    if not isinstance(completion.value, SafeStatements | UnsafeStatements):
        return [row(0, completion.raw, reason=f"{completion.status}: {completion.reason}")]
    items: Sequence[SafeStatement | UnsafeStatement] = completion.value.statements
    check = _Check(task)
    rows = []
    for number, item in enumerate(items, 1):
        problem = check.problem(item)
        more = {} if problem is None else {"reason": problem}
        parent = None
        if isinstance(item, UnsafeStatement):
            more["change"] = item.change
            parent = dict(enumerate((identifier for identifier, _ in task.parents), 1)).get(item.original)
        rows.append(row(number, item.text, item.category, parent, **more))
    if len(items) < task.wanted:
        rows.append(row(0, "", reason=f"only {len(items)} of {task.wanted} statements were given"))
    return rows


class _Check:
    """Finds the statements of one answer that cannot be used; whether a label is true is not for this stage."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._texts = {_plain(text) for _, text in task.parents}
        self._originals: set[int] = set()
        self._used = 0

    def problem(self, item: SafeStatement | UnsafeStatement) -> str | None:
        """Return why the next statement cannot be used, or None."""
        if reason := self._reason(item):
            return reason
        self._texts.add(_plain(item.text))
        self._used += 1
        if isinstance(item, UnsafeStatement):
            self._originals.add(item.original)
        return None

    def _reason(self, item: SafeStatement | UnsafeStatement) -> str | None:
        if not any(map(str.isalnum, item.text)):
            return "no letters in the text"
        if len(item.text) > self._task.max_characters:
            return f"longer than {self._task.max_characters} characters"
        if _plain(item.text) in self._texts:
            return "repeats another statement or its original"
        if self._used == self._task.wanted:
            return f"more than the {self._task.wanted} statements asked for"
        if isinstance(item, UnsafeStatement):
            if not 1 <= item.original <= len(self._task.parents):
                return f"there is no original {item.original}"
            if item.original in self._originals:
                return f"a second variant of original {item.original}"
        return None


def _plain(text: str) -> str:
    return normalise(text).casefold()


def run(
    recommendations: Sequence[Recommendation],
    context: Context,
    folder: RunFolder,
    completer: Completer,
    settings: GenerationSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Generate statements, or take them from recorded completions; return what to say of the stage.

    Raises:
        ProviderError: no request can succeed.
        CostLimitReached: going on could cost more than allowed; what was answered is kept, nothing is written.
    """
    safe, failed = _round("safe statements", plan_safe(recommendations, context, settings), completer, progress)
    usable = [row for row in safe if "reason" not in row]
    second = plan_unsafe(recommendations, context, usable, settings)
    unsafe, failed_too = _round("unsafe statements", second, completer, progress)
    rows = [*safe, *unsafe]
    _write(folder.generated, rows, settings.styles)
    return {
        "safe": len(usable),
        "unsafe": sum("reason" not in row for row in unsafe),
        "rejected": sum("reason" in row for row in rows),
        "requests": len(recommendations) * len(settings.styles) + len(second),
        "requests without an answer": failed + failed_too,
    }


def _round(name: str, tasks: Sequence[Task], completer: Completer, progress: Progress) -> tuple[list[Row], int]:
    bar = progress.add_task(name, total=len(tasks))
    completions = completer.complete([task.request for task in tasks], lambda n: progress.advance(bar, n))
    rows = [row for task, completion in zip(tasks, completions, strict=True) for row in _rows(task, completion)]
    return rows, sum(completion.status is Status.FAILED for completion in completions)


def _write(folder: Path, rows: Sequence[Row], styles: Sequence[str]) -> None:
    for style in BRIEFS.styles:
        path = folder / f"llm_style_{style}.jsonl"
        if style in styles:
            # The letter is in the file's name, as in the corpus.
            own = [{k: v for k, v in row.items() if k != "style"} for row in rows if row["style"] == style]
            write_rows(path, [row for row in own if "reason" not in row])
        else:
            path.unlink(missing_ok=True)  # of an earlier run with other settings
    write_rows(folder / "rejected.jsonl", [row for row in rows if "reason" in row])
