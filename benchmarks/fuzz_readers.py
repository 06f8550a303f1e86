"""Fuzz the readers of outside files: every hypothesis test of the suite, for many more examples.

    python benchmarks/fuzz_readers.py --minutes 60 [-k NAME]

Rounds follow one another, each from another seed, until the time is over. A test that fails is
shown with its smallest example and the seed; an image that kills the process stays in --last.
Not measured: a table at the end says how many examples each test has seen.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class OnlyFuzzers:
    """Keeps hypothesis tests alone, gives them more examples, and counts those."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.seen: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, config, items) -> None:
        from hypothesis import HealthCheck, settings

        fuzzers = [item for item in items if hasattr(getattr(item, "obj", None), "hypothesis")]
        config.hook.pytest_deselected(items=[item for item in items if item not in fuzzers])
        items[:] = fuzzers
        more = settings(
            max_examples=self.examples,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        for item in fuzzers:
            function = getattr(item.obj, "__func__", item.obj)
            function._hypothesis_internal_use_settings = more
            inner = item.obj.hypothesis.inner_test

            def counted(*args, inner=inner, name=item.nodeid, **kwargs):
                self.seen[name] += 1
                return inner(*args, **kwargs)

            counted.__signature__ = inspect.signature(inner)
            item.obj.hypothesis.inner_test = counted


def one_round(seed: int, examples: int, name: str, report: Path) -> int:
    import pytest

    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "from hypothesis" in path.read_text(encoding="utf-8")
    ]
    plugin = OnlyFuzzers(examples)
    options = ["-q", "--no-header", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
    code = pytest.main([*options, *(("-k", name) if name else ()), *files], plugins=[plugin])
    report.write_text(json.dumps(plugin.seen))
    return int(code)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of outside files.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--examples", type=int, default=2000, help="of each test in each round")
    parser.add_argument("-k", default="", help="only tests of this name, as pytest's -k")
    parser.add_argument("--last", type=Path, help="where the last image is left")
    parser.add_argument("--round", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round is not None:
        return one_round(options.round, options.examples, options.k, options.report)
    end, total, bad, number = time.monotonic() + 60 * options.minutes, Counter(), [], 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        last = options.last or Path(tempfile.gettempdir()) / "fuzz_readers_last"
        while time.monotonic() < end:
            seed, report = time.time_ns() % 10**9, Path(folder) / f"{number}.json"
            command = [sys.executable, __file__, "--round", str(seed), "--report", str(report)]
            command += ["--examples", str(options.examples), "-k", options.k]
            left = max(30.0, end - time.monotonic() + 30)
            environment = {**os.environ, "FUZZ_LAST": str(last)}
            try:
                run = subprocess.run(
                    command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=left
                )
            except subprocess.TimeoutExpired:
                print("the last round was cut off by the time")
                break
            number += 1
            if report.exists():
                total.update(json.loads(report.read_text()))
            if run.returncode:
                bad.append(seed)
                print(f"seed {seed}, exit code {run.returncode}:\n{run.stdout[-6000:]}")
                if run.returncode < 0:
                    print(f"killed by signal {-run.returncode}; the image is in {last}")
    for name, count in sorted(total.items()):
        print(f"{count:>9,}  {name}")
    print(f"{number} rounds, {sum(total.values()):,} examples, {len(bad)} rounds with a failure")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
