import logging
from pathlib import Path

import pytest

from tests.trainables.ray_backend.trunk_trials import begin

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def ray():
    """On loopback, of this process alone."""
    quiet = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in quiet.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray

        ray.init(
            address="local",
            include_dashboard=False,  # Ray Train's own cleaner does nothing without
            num_cpus=4,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=150_000_000,
            _node_ip_address="127.0.0.1",
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}},
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def trunk(tiny_images, lite0_weights, tmp_path):
    return begin(tiny_images, lite0_weights, tmp_path)
