"""Fuzz a target with libFuzzer, which mutates inputs towards new coverage.

python -m tests.fuzz image --minutes 10
python -m tests.fuzz request --runs 100000 --seed 1
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import atheris

HERE = Path(__file__).parent
PARSERS = [f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")]
INSTRUMENTED = [
    "handler.image",
    "handler.serving.parsing",
    "handler.serving.image_parsing",
    "handler.serving.open_inference",
    "handler.serving.option_parsing",
    "PIL.ImageFile",
    *PARSERS,
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz until the time or the number of runs is reached, or an input crashes; that is written to `regressions/`."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=["image", "request"])
    parser.add_argument("--minutes", type=float, default=10, help="duration (default: 10)")
    parser.add_argument("--runs", type=int, default=-1, help="maximum number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="random seed; 0 is a random one")
    parser.add_argument("--corpus", type=Path, help="directory of inputs with new coverage, kept for the next run")
    args = parser.parse_args(arguments)
    corpus = args.corpus or HERE.parent.parent / "runs" / "fuzz" / args.target
    found = HERE / "regressions" / args.target
    for directory in (corpus, found):
        directory.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=INSTRUMENTED):
        for name in INSTRUMENTED:  # Pillow would import its parsers with the first file of their format
            importlib.import_module(name)
        target = importlib.import_module(f"{__package__}.{args.target}").target
    from tests.fuzz.seeds import MAX_BYTES, seeds

    for name, data in seeds(args.target).items():
        (corpus / name).write_bytes(data)
    options = [
        f"-max_total_time={round(args.minutes * 60)}", f"-runs={args.runs}", f"-seed={args.seed}",
        f"-artifact_prefix={found}/", f"-max_len={MAX_BYTES}", "-timeout=60",
        "-rss_limit_mb=2048", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
