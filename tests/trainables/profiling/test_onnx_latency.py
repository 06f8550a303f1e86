"""Nets that are timed in turns leave the cores to each other."""

from __future__ import annotations

import time
from pathlib import Path

from trainables.export.candidates import write_candidates
from trainables.profiling.onnx_latency import open_net


def test_a_net_that_has_run_takes_no_core_from_the_next(tmp_path: Path) -> None:
    path = write_candidates(tmp_path, "lite0", [32], 2)[32]
    call = open_net(path, threads=2)(1)
    seconds = []
    for _ in range(3):
        call()
        began = time.process_time()  # of all threads of this process
        time.sleep(0.1)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.02
