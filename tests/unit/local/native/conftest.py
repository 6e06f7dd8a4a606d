import pytest
import torch


@pytest.fixture
def own_threads():
    """Sets torch's threads; they are as before when the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
