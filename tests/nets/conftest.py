"""Fixtures around the small nets."""

import pytest
from small_nets import VARIANTS, make_net, make_tokens


@pytest.fixture(name="make_net")
def make_net_fixture():
    return make_net


@pytest.fixture
def tokens():
    return make_tokens()


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def net(request):
    """One net of each kind that TransformerLens's tools are tried on."""
    return make_net(**request.param)
