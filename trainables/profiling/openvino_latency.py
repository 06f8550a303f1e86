"""Say what latency in OpenVINO is measured with; imports nothing heavy but that."""

from __future__ import annotations

from trainables.export.openvino_format import check_installed, version
from trainables.machine import cpu_name
from trainables.profiling.latency import Conditions, Setting


def conditions(setting: Setting) -> Conditions:
    """Name what is measured with here.

    Raises:
        UserError: OpenVINO is not installed.
    """
    check_installed("the runtime openvino")
    return Conditions(
        runtime="openvino",
        version=version(),
        device=cpu_name(),
        precision="float32",
        threads=setting.threads,
        batch=setting.batch,
        throughput_batch=setting.throughput_batch,
    )
