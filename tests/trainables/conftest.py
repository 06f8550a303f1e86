from types import SimpleNamespace

import pytest

from tests import tiny_net
from tests.trainables import adapted


@pytest.fixture(scope="session")
def made_once(tiny_images, tiny_weights, tmp_path_factory) -> SimpleNamespace:
    with tiny_net.known():
        return adapted.make(tiny_images, tiny_weights, tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="module")
def made(made_once: SimpleNamespace, tiny_known: None) -> SimpleNamespace:
    """A trunk and a cell of the variant "tiny"."""
    return made_once
