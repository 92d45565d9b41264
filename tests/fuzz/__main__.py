"""Runs fuzz targets: `python -m tests.fuzz json --seconds 600`, or all of them, one after the other, if none is named.

What is found is kept in .fuzz/NAME: inputs that reach something new in `corpus`,
from which the next run goes on, and each input that breaks the check in a file
`crash-…`, which `--input` runs again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

SECONDS_AN_INPUT = 20
"""An input that takes longer hangs."""
MEGABYTES = 1_024
"""Memory that a target may take in all."""


def main() -> None:
    """Reads the arguments and fuzzes until time or runs are over, or something is found."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris has no wheel for this platform; there is one for CPython on Linux x86-64.")
    with atheris.instrument_imports(include=["crypto", "gateway", "jwt", "protocol"]):
        from tests.fuzz.targets import TARGETS
    args = _arguments(TARGETS)
    for name in args.names or TARGETS:
        process = os.fork()  # libFuzzer ends its process
        if not process:
            _fuzz(atheris, TARGETS[name](), args.keep / name, args)
        if os.waitpid(process, 0)[1]:
            sys.exit(f"{name} failed")


def _arguments(names: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz parsers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of them, or some of: {', '.join(names)}")
    parser.add_argument("--seconds", type=int, default=60, help="how long for each (60)")
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs for each at most")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same inputs; 0 takes a fresh one")
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"), help="where corpora and findings are kept (.fuzz)")
    parser.add_argument("--input", type=Path, help="run this one input instead")
    return parser.parse_args()


def _fuzz(atheris: Any, target: Target, place: Path, args: argparse.Namespace) -> None:
    """Does not come back."""
    corpus = _lay_out(place, target.seeds, target.words)
    options = {
        "artifact_prefix": f"{place}/",
        "dict": place / "words",
        "max_len": target.longest,
        "max_total_time": args.seconds,
        "rss_limit_mb": MEGABYTES,
        "runs": args.runs,
        "seed": args.seed,
        "timeout": SECONDS_AN_INPUT,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], str(args.input or corpus), *flags], target.check)
    atheris.Fuzz()


def _lay_out(place: Path, seeds: list[bytes], words: Iterable[str]) -> Path:
    """Writes what libFuzzer begins with; the directory of the corpus."""
    corpus = place / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in words)
    (place / "words").write_text("# words\n" + "".join(lines))
    return corpus


if __name__ == "__main__":
    main()
