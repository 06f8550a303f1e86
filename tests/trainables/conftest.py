import pytest

from tests.trainables import adapted


@pytest.fixture(scope="session")
def made(tiny_images, lite0_weights, tmp_path_factory):
    return adapted.make(tiny_images, lite0_weights, tmp_path_factory.mktemp("adapted"))
