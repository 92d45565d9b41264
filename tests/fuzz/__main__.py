"""Runs one fuzz target: `python -m tests.fuzz NAME --seconds 600`.

What is found is kept in .fuzz/NAME: inputs that reach something new in `corpus`,
from which the next run goes on, and each input that breaks the check in a file
`crash-…`, which `--input` runs again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

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
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz one parser.")
    parser.add_argument("name", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs at most")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same inputs; 0 takes a fresh one")
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"), help="where corpus and findings are kept (.fuzz)")
    parser.add_argument("--input", type=Path, help="run this one input instead")
    args = parser.parse_args()
    target = TARGETS[args.name]()
    place = args.keep / args.name
    corpus = _lay_out(place, target.seeds, target.words)
    atheris.Setup(
        [
            sys.argv[0],
            str(args.input or corpus),
            f"-artifact_prefix={place}/",
            *([f"-dict={place / 'words'}"] if target.words else []),
            f"-max_len={target.longest}",
            f"-max_total_time={args.seconds}",
            f"-rss_limit_mb={MEGABYTES}",
            f"-runs={args.runs}",
            f"-seed={args.seed}",
            f"-timeout={SECONDS_AN_INPUT}",
        ],
        target.check,
    )
    atheris.Fuzz()


def _lay_out(place: Path, seeds: list[bytes], words: Iterable[str]) -> Path:
    """Writes what libFuzzer begins with; the directory of the corpus."""
    corpus = place / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in words)
    (place / "words").write_text("".join(lines))
    return corpus


if __name__ == "__main__":
    main()
