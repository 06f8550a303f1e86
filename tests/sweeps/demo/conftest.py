"""The small model of the tests of final_model."""

from tests.sweeps.final_model.conftest import environment, folder, model, net  # noqa: F401
