"""Words of a command line -> one verb -> an exit code: 0 done, 2 the user's input is wrong, 1 anything else."""

import argparse
import errno
import importlib
import json
import os
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from hpa_ray import cluster, storage
from hpa_ray.errors import InputError
from hpa_ray.progress import console, one_line
from hpa_ray.redact import redact, redacted

# verb -> (what it does, sections of the configuration it reads)
VERBS = {
    "synth": ("write a synthetic four-channel atlas: PNGs and train.csv", ("synth",)),
    "fetch": ("download images of rare classes (or, with `fetch kaggle`, the competition)", ("fetch",)),
    "check": ("look for missing, damaged and odd files and labels", ("data", "check")),
    "explore": ("figures: classes, what occurs together, samples, intensities", ("data", "explore")),
    "duplicates": ("find images that are all but the same, so that no split separates them", ("data", "duplicates")),
    "split": ("cut the labels into train/val/test or K folds, stratified by class", ("data", "split")),
    "prepare": ("decode and stack the images once, into shards", ("data", "prepare")),
    "doctor": ("say before a start whether a training will work here", ("doctor", "data", "model")),
    "bench": ("measure how fast data are read and trained on here, which is the limit, and plan", ("bench", "data")),
    "train": ("train a classifier on shards or straight from PNGs", ("data", "split", "model", "loss", "augment")),
    "crossval": (
        "K models, each judged by a fold of the images it has not seen, and together an ensemble",
        ("crossval", "data", "split"),
    ),
    "tune": ("search what helps the rare classes: loss, weights, sampling, augmentation", ("tune", "data", "split")),
    "ablate": ("change one thing at a time, with several seeds of each: what does it do?", ("tune", "data", "split")),
    "evaluate": (
        "score a trained model, or several as one, on a part of the data",
        ("evaluate", "inference", "data"),
    ),
    "analyze": ("look at what a trained model gets right and wrong: examples, confusions, a map", ("analyze", "data")),
    "predict": ("classify images: probabilities and a competition csv", ("predict", "inference", "data")),
    "export": ("a trained model as files for others: safetensors, ONNX, model card", ("export",)),
    "report": ("one page that says what a run, a study or several runs are worth", ("report",)),
    "config": ("show the resolved configuration (`config show`) or every key (`config keys`)", ()),
}
MORE_SECTIONS = {
    "evaluate": ("thresholds",),
    "train": ("optim", "train", "thresholds", "run", "inference"),
    "crossval": ("model", "loss", "augment", "optim", "train", "thresholds", "run", "inference"),
    "doctor": ("train", "run"),
    "bench": ("model", "loss", "augment", "optim", "train"),
    "tune": ("model", "optim", "train", "run"),
}
MODULES = {verb: f"{verb}_verb" for verb in VERBS}
MODULES |= {**dict.fromkeys(("synth", "split", "prepare"), "data_verbs"), "ablate": "tune_verb"}
"""Where a verb is; one that needs no torch is in a module that does not import it."""
DRY_RUN = ("prepare", "fetch")
PLACE_ERRORS = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    }
)
"""What the system says of a place that the user can mend or choose anew."""


class Invocation(NamedTuple):
    """What the user typed, before the configuration is resolved."""

    verb: str
    words: tuple[str, ...]
    recipe: str | None = None
    file: str | None = None
    strict: bool = False
    dry_run: bool = False


def main(argv: Sequence[str] | None = None, *, json_line: bool = False) -> int:
    """Run one verb; with json_line its result is printed as the last line, for programs. Returns the exit code."""
    parser = _parser()
    try:
        arguments = parser.parse_intermixed_args(argv)
    except InputError as error:
        return _complain("hpa-ray", error)
    if arguments.verb is None or (arguments.help and arguments.verb is None):
        parser.print_help()
        return 0
    if arguments.verb not in VERBS:
        return _complain("hpa-ray", InputError(f"unknown verb '{arguments.verb}' - there are: {', '.join(VERBS)}"))
    invocation = Invocation(
        arguments.verb,
        tuple(arguments.words),
        arguments.recipe,
        arguments.config,
        arguments.strict,
        arguments.dry_run,
    )
    try:
        if arguments.help:
            return _verb_help(arguments.verb)
        _check_flags(invocation)
        result = run(invocation)
    except InputError as error:
        if arguments.debug:
            _print_traceback()
        return _complain(f"hpa-ray {arguments.verb}", error)
    except KeyboardInterrupt:
        print(f"hpa-ray {arguments.verb}: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.filename and not arguments.debug:
            told = InputError(f"{error.filename}: {_reason(error)}")
            if error.errno in PLACE_ERRORS:
                return _complain(f"hpa-ray {arguments.verb}", told)
            if not storage.is_local(str(error.filename)):
                _complain(f"hpa-ray {arguments.verb}", told)
                return 1
        _print_traceback()
        print(
            f"hpa-ray {arguments.verb}: this is a mistake of the program or the machine, not of your input",
            file=sys.stderr,
        )
        return 1
    if json_line:
        print(json.dumps(redacted(result)), flush=True)
    return 0


def run(invocation: Invocation) -> dict[str, Any]:
    """Run a verb and return its result. Raises InputError."""
    from hpa_ray.config import load_config  # late: `hpa-ray --help` needs none of what these import

    if invocation.verb != "config":  # mistakes first: what the verbs import takes seconds
        words = invocation.words[1:] if invocation.words[:1] == ("kaggle",) else invocation.words  # `fetch kaggle`
        config = load_config(words, recipe=invocation.recipe, file=invocation.file)
        if invocation.verb in ("train", "crossval", "bench") and config.train.fewest_workers > (os.cpu_count() or 1):
            cluster.start_ray(config.train.fewest_workers, use_gpu=config.train.use_gpu)  # joins a cluster or refuses
    module = importlib.import_module(f"hpa_ray.cli.{MODULES[invocation.verb]}")
    with _threads_give_up_after():
        result: dict[str, Any] = getattr(module, invocation.verb)(invocation)
    if repeated := storage.take_retries():
        console.say(f"storage: {repeated:,} requests failed for a while and were repeated")
        result["storage_retries"] = result.get("storage_retries", 0) + repeated
    return result


@contextmanager
def _threads_give_up_after() -> Iterator[None]:
    """Where a verb is interrupted or fails, its threads repeat nothing more: the process waits for them to end."""
    before = signal.getsignal(signal.SIGINT)
    catching = threading.current_thread() is threading.main_thread() and callable(before)

    def interrupt(number: int, frame: Any) -> None:
        storage.abandon()
        if callable(before):
            before(number, frame)

    if catching:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException:  # whatever ends the command, and it goes on its way: no thread may wait for a store
        storage.abandon()
        raise
    finally:
        if catching:
            signal.signal(signal.SIGINT, before)


def _check_flags(invocation: Invocation) -> None:
    """A verb that does not know a flag must not go on as if it were not there."""
    if invocation.dry_run and invocation.verb not in DRY_RUN:
        raise InputError(f"--dry-run: {invocation.verb} has none - {' and '.join(DRY_RUN)} have")
    if invocation.strict and invocation.verb != "check":
        raise InputError(f"--strict: {invocation.verb} has none - check has")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} - `hpa-ray --help` shows how it is used")


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:<11} {text}" for verb, (text, _) in VERBS.items())
    parser = _Parser(
        prog="hpa-ray",
        usage="hpa-ray VERB [--config FILE | --recipe NAME] [key=value ...]",
        description=f"Train classifiers of protein location on Human Protein Atlas images.\n\nverbs:\n{verbs}",
        epilog="Without data a verb works on a small synthetic atlas. `hpa-ray VERB --help` lists a verb's keys.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE", help="a YAML file of keys")
    source.add_argument("--recipe", metavar="NAME", help="a packaged YAML file of keys")
    parser.add_argument("--strict", action="store_true", help="check: exit with code 2 if there is any problem")
    parser.add_argument("--dry-run", action="store_true", help="prepare, fetch: say what would be done, and do nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a mistake in the input")
    parser.add_argument("-h", "--help", action="store_true", help="show this, or with a verb its keys")
    return parser


def _verb_help(verb: str) -> int:
    from hpa_ray.config import config_keys, recipe_names

    text, sections = VERBS[verb]
    print(f"hpa-ray {verb} [--config FILE | --recipe NAME] [key=value ...]\n\n{text}\n")
    keys = config_keys()
    stored = () if verb in ("config", "fetch") else ("storage",)
    for section in (*sections, *MORE_SECTIONS.get(verb, ()), *stored):
        for key, field in keys.items():
            if key.startswith(f"{section}."):
                text = " ".join((field.description or "").split())
                print(f"  {key} = {_as_word(field.default)}\n{textwrap.indent(textwrap.fill(text, 110), ' ' * 6)}")
    if verb == "config":
        print("  config show [key=value ...]   the configuration a run would get, as YAML\n  config keys   all keys")
    print(f"\nrecipes: {', '.join(recipe_names())}", flush=True)  # a reader that has gone is met here, not at exit
    return 0


def _as_word(value: Any) -> str:
    if value is None:
        return "(unset)"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print_traceback() -> None:
    """Of libraries too, whose errors hold addresses, answers of servers, and what files are named."""
    for line in traceback.format_exc().splitlines():
        print(one_line(redact(line)), file=sys.stderr)


def _complain(who: str, error: InputError) -> int:
    for problem in error.problems:
        print(f"{who}: {one_line(problem)}", file=sys.stderr)
    return 2


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError) and not storage.is_local(str(error.filename)):
        return str(error.strerror)  # which says what to do
    if error.errno not in PLACE_ERRORS:
        return f"{error.strerror} - run the same command again when the place is well (train: with run.resume=true)"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{error.strerror} - {'free some space' if full else 'mend it'} or name another place"
