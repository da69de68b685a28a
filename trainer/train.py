"""`guardline train`: what the options of the command line say, and what is printed before and after the stages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from pydantic import TypeAdapter
from rich.console import Console

from monitor.settings import DEFAULT_RUN
from trainer.artifacts import RunFolder
from trainer.forecast import forecast
from trainer.guideline.guidelines import DEFAULT_PACK, Pack
from trainer.llm.costs import LEDGER, Ledger
from trainer.llm.options import ProviderOptions, provider_options
from trainer.llm.providers import ProviderSettings, load_provider
from trainer.model import encoder
from trainer.pipeline import STAGES, Pipeline, in_words, progress_bar, recorded_model
from trainer.settings import (
    DEFAULT_ENCODER,
    PROFILES,
    Precision,
    PretrainingSettings,
    TrainSettings,
    VerifierSettings,
)
from trainer.statements import generation
from trainer.statements.generation import GenerationSettings
from trainer.statements.judge import require_other_model
from trainer.verifier import pretraining, shipped, zero_shot
from trainer.verifier.crossencoder import PairReader


def _show(
    pack: Pack,
    settings: TrainSettings,
    llm: ProviderOptions,
    judge: ProviderOptions | None,
    folder: RunFolder,
) -> None:
    """Print prompts or prices, as the options say; send nothing."""
    judges = judge.recorded(folder.completions) if judge else None
    found = forecast(pack, settings, llm.recorded(folder.completions), judges)
    if llm.preview:
        generation.preview([*found.writer, *found.judge], llm.preview)
    if not llm.estimate_only:
        return
    total: float | None = 0.0
    for role, own, requests in (("Writer", llm, found.writer), ("Judge", judge, found.judge)):
        if own is None:
            continue
        counts = ", ".join(f"{n} {name}" for name, n in Counter(r.prompt for r in requests).items())
        price = own.estimate(requests, folder.completions)
        total = None if total is None or price.ceiling is None else total + price.ceiling
        click.echo(f"{role}: {own.settings.model} at {own.settings.base_url}\nasked for: {counts}\n{price}\n")
    if judge and total is not None:
        click.echo(f"Both together: at most ${total:.4f}, every answer repaired once")
    if not found.exact:
        click.echo(
            "The number of recommendations is what rules find, until a language model has extracted them: for a "
            "closer figure run `guardline train extract` with the same options first, and then --estimate again."
        )
    click.echo("Nothing was sent.")


def _settings(
    profile: str, base: str | None, pooling: str | None, seed: int | None, epochs: int | None
) -> TrainSettings:
    """Return a profile with what the options change of its encoder."""
    settings = PROFILES[profile]
    own = settings.encoder
    return replace(
        settings,
        encoder=replace(
            own,
            base=base or own.base,
            pooling=pooling or own.pooling,
            seed=own.seed if seed is None else seed,
            epochs=epochs or own.epochs,
        ),
    )


def _verifier(own: VerifierSettings | None, base: str | None, epochs: int | None) -> VerifierSettings | None:
    """Return a profile's settings of the verifier with what the options change; None: no verifier."""
    if base == "none":
        return None
    if base is None and epochs is None:
        return own
    own = own or VerifierSettings()
    return replace(own, base=base or own.base, epochs=own.epochs if epochs is None else epochs)


def _pretrain(output: Path, base: str | None, evidence: Path | None) -> None:
    console = Console(stderr=True)
    settings = PretrainingSettings()
    settings = replace(settings, base=base or settings.base)
    console.print(f"Pre-training a general verifier from {settings.base} into {output}: about an hour on two cores")
    with progress_bar(console) as progress:
        summary = pretraining.run(output, settings, evidence, progress)
        task = progress.add_task("reading guidelines it has not seen, for `guardline package`", total=None)
        frozen = encoder.Embedder(*encoder.load_pretrained(DEFAULT_ENCODER), max_length=256, sub_batch=64)
        generic = zero_shot.fit_generic(
            PairReader(*shipped.load(output)),
            frozen,
            pretraining.read_all(pretraining.DATA, None),
            advance=lambda pairs: progress.update(task, advance=pairs),
        )
        zero_shot.save(generic, output)
    console.print(in_words(summary))
    console.print(f"Start from it: guardline train --verifier {output}")


def _generation(own: GenerationSettings, styles: Sequence[str], per_style: int | None) -> GenerationSettings:
    """Return settings with what the options change of the statements that are asked for.

    As many unsafe statements as safe ones, so that the labels balance; of seven, one is easy and four are hard.
    """
    if styles:
        own = replace(own, styles=tuple(styles))
    if per_style:
        medium, hard = round(per_style * 2 / 7), round(per_style * 4 / 7)
        own = replace(
            own,
            safe_per_recommendation_and_style=per_style,
            unsafe_easy=per_style - medium - hard,
            unsafe_medium=medium,
            unsafe_hard=hard,
        )
    return own


def _asked_before(folder: RunFolder) -> GenerationSettings | None:
    """Return what a language model was asked for in a run; None where nobody was asked."""
    if recorded_model(folder, "provider") is None:
        return None
    try:
        content = json.loads((folder.root / "settings.json").read_text())
        return TypeAdapter(GenerationSettings).validate_python(content["generation"])
    except (ValueError, KeyError):
        return None


def _letters(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Read "a,b,l": letters of known styles, each once, in the order of the alphabet."""
    chosen = {part.strip() for part in value.split(",")} if value is not None else set()
    if unknown := chosen - generation.BRIEFS.styles.keys():
        known = ", ".join(f"{letter} ({style.name})" for letter, style in generation.BRIEFS.styles.items())
        raise click.BadParameter(f"{', '.join(map(repr, sorted(unknown)))}: there are {known}")
    return tuple(sorted(chosen))


def _cost(folder: RunFolder, models: Sequence[ProviderSettings]) -> str:
    """Say what language models have cost in this run folder."""
    spent = max(Ledger(folder.completions).spent, 0.0)  # sums of floats may end a little below
    said = f"Language models: ${spent:.4f} so far in this run folder"
    if unknown := [own.model for own in models if not own.priced]:
        said += f", without {', '.join(unknown)}, whose prices are not known"
    return f"{said}; every call is in {folder.completions / LEDGER}"


@click.command()
@click.argument("stages", nargs=-1, type=click.Choice(STAGES))
@click.option(
    "--run",
    "run_",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Run folder.  [default: {DEFAULT_RUN.parent}/<pack id>]",
)
@click.option(
    "--pack",
    "pack_",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=DEFAULT_PACK,
    help="Guideline pack.  [default: remdesivir for COVID-19]",
)
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default="full",
    show_default=True,
    help="quick: minutes; full: better; smoke: tests only.",
)
@click.option(
    "--encoder",
    "base",
    help=f"Encoder to start from: {', '.join(encoder.PRESETS)}, a Hugging Face name or a path.  "
    "[default: all-MiniLM-L6-v2]",
)
@click.option(
    "--pooling",
    type=click.Choice([pooling.value for pooling in encoder.Pooling]),
    help="How tokens become a sentence.  [default: the encoder's own]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of the encoder.  [default: the profile's]")
@click.option("--seed", type=int, help="Of the encoder.  [default: the profile's]")
@click.option(
    "--verifier",
    metavar="NAME|PATH|none",
    help="Verifier to start from: a cross-encoder such as cross-encoder/nli-deberta-v3-xsmall, any encoder, a folder; "
    "none: judge by the encoder alone.  [default: the general verifier that ships]",
)
@click.option("--verifier-epochs", type=click.IntRange(min=0), help="Of the verifier.  [default: the profile's]")
@click.option(
    "--pretrain",
    is_flag=True,
    help="With the stage `verifier`: make a general verifier to start from, in --run, from pairs on other topics.",
)
@click.option(
    "--evidence",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --pretrain: evidence pairs besides, {premise, hypothesis, label, group} a line, such as VitaminC's.",
)
@click.option(
    "--precision",
    type=click.Choice([precision.value for precision in Precision]),
    help="Of the package: int8 for CPUs, fp16 for GPUs, fp32 for either.  [default: the profile's]",
)
@click.option("--tensorrt", is_flag=True, help="With fp16 or fp32: have Triton run the package through TensorRT.")
@click.option("--judge", "judge_", metavar="NAME|FILE", help="Another language model, to judge the statements.")
@click.option(
    "--styles",
    metavar="A,B",
    callback=_letters,
    help="Voices that the language model writes in, by letter.  [default: all "
    f"{len(generation.BRIEFS.styles)}: {', '.join(generation.BRIEFS.styles)}]",
)
@click.option(
    "--per-style",
    type=click.IntRange(min=1),
    metavar="N",
    help="Safe statements that it writes for each recommendation and voice, and as many unsafe ones.  [default: 7]",
)
@click.option("--again", is_flag=True, help="Run the stages even where nothing has changed.")
@provider_options
def command(
    stages: tuple[str, ...],
    run_: Path | None,
    pack_: Path,
    profile: str,
    base: str | None,
    pooling: str | None,
    epochs: int | None,
    seed: int | None,
    verifier: str | None,
    verifier_epochs: int | None,
    pretrain: bool,
    evidence: Path | None,
    precision: str | None,
    tensorrt: bool,
    judge_: str | None,
    styles: tuple[str, ...],
    per_style: int | None,
    again: bool,
    llm: ProviderOptions,
) -> None:
    """Train a model package: all stages, or only those named, in their order.

    Stages whose inputs have not changed are skipped, so an interrupted run goes on where it stopped. Without a
    --provider no language model is asked: the run folder's recorded answers are used where it has some; else rules
    extract the recommendations, and the pack's recorded statements are learnt from.
    """
    if pretrain:
        if stages != ("verifier",):
            raise click.UsageError("--pretrain belongs to the stage `verifier`: guardline train verifier --pretrain")
        _pretrain(run_ or DEFAULT_RUN.parent / "general-verifier", verifier, evidence)
        return
    if evidence is not None:
        raise click.UsageError("--evidence belongs to --pretrain")
    pack = Pack.load(pack_)
    settings = _settings(profile, base, pooling, seed, epochs)
    settings = replace(settings, verifier=_verifier(settings.verifier, verifier, verifier_epochs))
    if precision:
        settings = replace(settings, export=replace(settings.export, precision=Precision(precision)))
    if tensorrt:
        if settings.export.precision is Precision.INT8:
            raise click.UsageError("--tensorrt cannot run a package of eight bits: give --precision fp16 or fp32")
        settings = replace(settings, export=replace(settings.export, tensorrt=True))
    folder = RunFolder(run_ or DEFAULT_RUN.parent / pack.spec.id)
    # What is recorded answers only the requests that it was recorded for.
    asked = (None if llm.online else _asked_before(folder)) or settings.generation
    settings = replace(settings, generation=_generation(asked, styles, per_style))
    provider = llm.settings if llm.online else recorded_model(folder, "provider")
    llm = replace(llm, settings=provider or llm.settings)
    judging = llm.judge(load_provider(judge_)) if judge_ else None
    if not judging and (recorded := recorded_model(folder, "judge")):
        judging = replace(llm.judge(recorded), online=False)
    if judging and provider:
        # Before anything is paid for; the stage looks at who wrote the statements, too.
        require_other_model(judging.settings.model, [provider.model])
    if not llm.sends:
        _show(pack, settings, llm, judging, folder)
        return
    completer = llm.completer(folder.completions) if provider else None
    judge = judging.completer(folder.completions) if judging else None
    console = Console(stderr=True)
    console.print(f"Training [bold]{pack.spec.id}[/bold] ({profile} profile) in {folder.root}")
    for role, name, own in (("Writer", "--provider", llm if provider else None), ("Judge", "--judge", judging)):
        if own:
            how = f"at {own.settings.base_url}" if own.online else f"recorded answers only, for want of {name}"
            console.print(f"{role}: {own.settings.model}, {how}")
    pipeline = Pipeline(folder, pack, settings, completer, judge, provider, judging.settings if judging else None)
    try:
        pipeline.run(stages or STAGES, console, again=again)
    finally:
        if (folder.completions / LEDGER).exists():
            console.print(_cost(folder, [own for own in (pipeline.provider, pipeline.judged_by) if own]))
    if not stages or "evaluate" in stages:
        console.print(f"Model package: {folder.package}\nReport:        {folder.evaluation / 'report.html'}")
