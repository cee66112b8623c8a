import pytest
from families import FAMILIES, tiny_pair


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request):
    """Target and draft, each family in turn. A test that patches the target may leave it patched."""
    return tiny_pair(request.param)


@pytest.fixture(scope="session")
def llama_pair():
    return tiny_pair("llama")
