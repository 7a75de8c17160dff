"""The command line, and the composition root: the only place that picks concrete classes.

    amplify run [CONFIG] [--out FOLDER] [--until STAGE | --only STAGE] [--KEY VALUE ...]
    amplify ask --run FOLDER [QUESTION] [--direct] [--overseer program|human|FILE] [--session NAME]
    amplify episodes --run FOLDER [list | show ID | export] [--scope S] [--stop S] [--text T] [--out FILE]
    amplify report FOLDER
    amplify imitate --run FOLDER --out FOLDER
    amplify experiment CONFIG [--seeds N ...] [--out FOLDER] [--json]
    amplify experiment imitation|served [--task NAME] [--seed N] [--json]
    amplify bench NAME [--json] [--run FOLDER]

Without CONFIG, `run` takes the embedded demo.yaml; every key of a configuration is also an option, for example
`--distill.ppo.learning-rate 1e-4`. `amplify COMMAND --help` lists a command's options.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from amplification.benchmarks import ALL, BENCHMARKS, BenchOptions, Settings, measure
from amplification.command_options import AskOptions, EpisodesOptions, ReportOptions
from amplification.errors import InputError
from amplification.options import WHERE, parse
from amplification.telling import told
from distill.config import RunConfig
from distill.configure import check, from_mapping, load_config, load_overseer, refused
from distill.experiments import EXPERIMENTS
from distill.overseer_commands import (
    ExperimentOptions,
    ImitateOptions,
    StudyOptions,
    experiment,
    imitate_run,
    training_progress,
)

if TYPE_CHECKING:
    from rich.console import Console

    from amplification.episode import StopReason

Kind = TypeVar("Kind")

# What libraries are told before they are imported, unless the caller's environment says otherwise.
ENVIRONMENT = {
    "ACCELERATE_DISABLE_RICH": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Threads that wait for work sleep: spinning ones made two busy processes up to nine times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class RunOptions(RunConfig):
    """Run iterated amplification, or carry on with it.

    The defaults shown are those of the configuration named before the options (without one: the embedded demo.yaml).
    """

    out: Path | None = None
    """Folder of the run; runs/NAME after the configuration's name if not given."""
    until: str | None = None
    """End after this stage, for example generation-1/labels."""
    only: str | None = None
    """Do this stage alone; those before it must be complete."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 bad input, 130 interrupted)."""
    args = list(sys.argv[1:] if argv is None else argv)
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
    with told() as ended:
        ended.code = _dispatch(args)
    return ended.code


def _dispatch(args: list[str]) -> int:
    usage = str(__doc__).split("\n\n", 1)[1].rstrip()
    if not args:
        raise InputError(WHERE, "there is no command", f"give one of {', '.join(COMMANDS)}")
    if args[0] in ("-h", "--help"):
        print(usage)
        return 0
    command = COMMANDS.get(args[0])
    if command is None:
        raise InputError(WHERE, f"there is no command '{args[0]}'", f"give one of {', '.join(COMMANDS)}")
    try:
        return command(args[1:])
    except SystemExit as finished:  # tyro's own way to end after --help
        return int(finished.code or 0)


def _run(args: list[str]) -> int:
    path = Path(args.pop(0)) if args and not args[0].startswith("-") else None
    loaded = load_config(path)
    options = _options(RunOptions, args, "run", RunOptions(**dict(loaded)))
    config = RunConfig(**{name: getattr(options, name) for name in RunConfig.model_fields})
    check(config, WHERE)
    folder = options.out or Path("runs") / (path.stem if path else "demo")
    _check_folder(folder)
    if options.until and options.only:
        raise InputError(WHERE, "--until and --only contradict each other", "give one of them")

    if config.model.pretrained is None:
        # A model made from scratch is too small to share out, and so its results depend on no number of cores.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    from distill import iterate
    from distill.progress import TerminalReporter
    from eval.evaluator import Evaluator

    console = _console()
    evaluator = Evaluator(config.evaluation.questions, config.evaluation.attacks)
    with closing(TerminalReporter(console)) as reporter:
        report = iterate.run(config, folder, evaluator, reporter, options.until, options.only)
    if report is not None:
        _show_report(folder, console)
    return 0


def _ask(args: list[str]) -> int:
    options = _options(AskOptions, args, "ask")
    config = _config_of(options.run)
    if options.question is None and options.direct:
        raise InputError(WHERE, "--direct has no question", "give one; in a session, /direct asks the agent alone")

    from amplification.ask import AskSettings, ask, open_session
    from amplification.tasks import TASKS

    tasks = {name: TASKS[name] for name in config.tasks}
    by_hand = options.overseer == "human"
    overseer = config.overseer if by_hand or options.overseer == "configured" else load_overseer(options.overseer)
    settings = AskSettings(tasks, config.serving, config.limits, overseer, by_hand, config.voting)
    if options.question is None:
        open_session(options.run, settings, _console(), options.session)
    else:
        ask(options.run, settings, _console(), options.question, options.direct, options.session)
    return 0


def _episodes(args: list[str]) -> int:
    options = _options(EpisodesOptions, args, "episodes")
    config = _config_of(options.run)
    if options.limit is not None and options.limit < 0:
        raise InputError(WHERE, f"--limit is {options.limit}", "give a number from 0 on")
    if (options.what == "show") != (options.id is not None):
        remedy = "write 'episodes show ID'"
        raise InputError(WHERE, "show needs the id of an episode, and nothing else takes one", remedy)

    from amplification.asking import stored
    from amplification.episodes import Wanted

    wanted, limit = Wanted(options.scope, _stop(options.stop), options.text), options.limit
    if options.id is not None:
        stored.show_episode(options.run, options.id, options.node, config.limits.workspace_chars, _console())
    elif options.what == "export":
        stored.export_episodes(options.run, wanted, limit, options.out, _console())
    else:
        stored.list_episodes(options.run, wanted, 20 if limit is None else limit, _console())
    return 0


def _stop(name: str | None) -> StopReason | None:
    from amplification.episode import StopReason

    if name is not None and name not in list(StopReason):
        raise InputError(WHERE, f"--stop cannot be '{name}'", f"choose from {', '.join(StopReason)}")
    return None if name is None else StopReason(name)


def _report(args: list[str]) -> int:
    options = _options(ReportOptions, args, "report")
    _config_of(options.run)
    _show_report(options.run, _console())
    return 0


def _bench(args: list[str]) -> int:
    options = _options(BenchOptions, args, "bench")
    if options.repeats is not None and options.repeats < 1:
        raise InputError(WHERE, f"--repeats is {options.repeats}", "give a number from 1 on")

    serving = _config_of(options.run).serving if options.run else load_config().serving
    settings = Settings(serving, options.run, options.calls, options.repeats, options.size)
    names = list(BENCHMARKS) if options.what == ALL else [options.what]
    figures: dict[str, dict[str, object]] = {}
    for name in names:
        with _output_to_errors():
            measured = measure(name, settings)
        figures[name] = measured.as_dict()
        if not options.json:
            print(f"{name}: {measured.as_line()}", flush=True)
    if options.json:
        print(json.dumps(figures if options.what == ALL else figures[options.what]))
    return 0


def _imitate(args: list[str]) -> int:
    options = _options(ImitateOptions, args, "imitate")
    config = _config_of(options.run)

    with training_progress() as progress:
        metrics = imitate_run(options, config.serving, progress)
    shown = "{lessons} steps learned; takes {aside_taken:.1%} of those kept aside, {aside_taken_right:.2%} rightly"
    print(f"{shown.format(**metrics)}; imitator: {options.out}")
    return 0


def _experiment(args: list[str]) -> int:
    if args and args[0].endswith((".yaml", ".yml")):
        return _study(args)
    if not args or args[0] in EXPERIMENTS:
        problem = f"'{args[0]}' is configured by a file" if args else "there is no experiment"
        raise InputError(WHERE, problem, "give one such as configs/experiments/drift.yaml, or imitation, or served")
    options = _options(ExperimentOptions, args, "experiment")
    serving = load_config().serving
    with _output_to_errors(), training_progress() as progress:
        measured = experiment(options, serving, progress)
    if options.json:
        print(json.dumps(measured.as_dict()))
    else:
        print(measured.as_line())
    return 0


def _study(args: list[str]) -> int:
    options = _options(StudyOptions, args, "experiment")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from rich.console import Console

    from distill.experiments.running import load_experiment, run_experiment
    from distill.progress import TerminalReporter
    from distill.stage import write_atomically
    from eval.experiments import draw, table

    config = load_experiment(options.config)
    folder = options.out or Path("runs") / "experiments" / options.config.stem
    _check_folder(folder)
    with _output_to_errors(), closing(TerminalReporter(Console(stderr=True))) as reporter:
        outcome = run_experiment(config, options.seeds or config.seeds, folder, reporter)
    result = json.dumps(outcome)
    write_atomically(folder / "result.json", result)
    draw(outcome, config.shown, folder / "picture.svg")
    if options.json:
        print(result)
    else:
        _console().print(table(outcome))
        print(f"results and picture: {folder}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "ask": _ask,
    "episodes": _episodes,
    "report": _report,
    "imitate": _imitate,
    "experiment": _experiment,
    "bench": _bench,
}


def _options(kind: type[Kind], args: list[str], command: str, default: Kind | None = None) -> Kind:
    def refusal(error: ValidationError, place: tuple[str, ...]) -> InputError:
        return refused(RunConfig, error, WHERE, place)

    return parse(kind, args, command, default, refusal)


def _config_of(run: Path) -> RunConfig:
    from distill.stage import read_run_config

    path = run / "config.yaml"
    config = from_mapping(RunConfig, read_run_config(path)["config"], str(path))
    check(config, str(path))
    return config


def _show_report(run: Path, console: Console) -> None:
    report = _read_report(run / "report.json")

    from eval.report import terminal_table

    console.print(terminal_table(report))
    console.print(f"report: {run / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(path, "the run has no report yet", "finish it with the command that began it") from error
    except ValueError as error:
        raise InputError(path, "the report is damaged", "delete it and run the same command again") from error
    return report


def _check_folder(folder: Path) -> None:
    """A run is never written into a folder that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "this is a file", "choose another folder with --out")
    if folder.is_dir() and not (folder / "config.yaml").exists():
        strangers = sorted(item.name for item in folder.iterdir() if not item.name.endswith((".partial", ".lock")))
        if strangers:
            problem = f"the folder holds something else ({strangers[0]}) and no run"
            raise InputError(folder, problem, "choose another folder with --out")


def _console() -> Console:
    from rich.console import Console

    return Console()


@contextmanager
def _output_to_errors() -> Iterator[None]:
    """Send what libraries print, from C++ too, to standard error, so that our result stands alone on the output."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
