"""What language models would be asked in a whole run, before anything is sent: for `--estimate` and `--preview`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from trainer.artifacts import RunFolder
from trainer.guideline import guidelines
from trainer.guideline.guidelines import Pack
from trainer.llm.port import Completer, Completion, Request, ignore
from trainer.pipeline import STAGES, Pipeline
from trainer.settings import TrainSettings
from trainer.statements import assembly, generation


class _Collector:
    """A completer that sends nothing: it notes what it is asked and answers what is recorded."""

    def __init__(self, recorded: Completer) -> None:
        self._recorded = recorded
        self.model = recorded.model
        self.requests: list[Request] = []

    def complete(self, requests: Sequence[Request], advance: Callable[[int], None] = ignore) -> list[Completion]:
        """Answer as recorded."""
        self.requests += requests
        return self._recorded.complete(requests, advance)


@dataclass(frozen=True)
class Forecast:
    """What a whole run would ask: of the writer, and of the judge if there is one.

    `exact`: the recommendations are those that the run will have, so their number is certain.
    """

    writer: list[Request]
    judge: list[Request]
    exact: bool


def forecast(pack: Pack, settings: TrainSettings, recorded: Completer, judge: Completer | None = None) -> Forecast:
    """Return what language models would be asked in a whole run, from recorded answers where there are some.

    The stages before the statements run in a folder of their own, rules and extracts standing in for what is not
    recorded; so the requests are the very ones of the next run up to the first answer that is missing, and about as
    many and as long from there on. `recorded` and `judge` are off-line completers.
    """
    writer = _Collector(recorded)
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        pipeline = Pipeline(folder, pack, settings, writer)
        pipeline.run(STAGES[: STAGES.index("generate")], Console(quiet=True))
        recommendations, context = pipeline.recommendations(), pipeline.context()
        extraction = json.loads((folder.root / guidelines.REPORT).read_text())
        asked = generation.forecast(recommendations, context, settings.generation, recorded)
        judging = _Collector(judge) if judge else None
        if judging:
            # Written into the scratch folder, as far as recorded: the judge reads the statements themselves.
            generation.run(recommendations, context, folder, recorded, settings.generation, Progress(disable=True))
            assembly.forecast_judge(pack, recommendations, folder, settings.generation, judging)
    return Forecast([*writer.requests, *asked], judging.requests if judging else [], exact=not extraction["fallbacks"])
