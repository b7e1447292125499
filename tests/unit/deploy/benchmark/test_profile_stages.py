"""The number of operations that the profile relates times to."""

import torch

from deploy.benchmark.profile_stages import count_operations


def test_count_operations_of_a_convolution():
    """3 → 8 channels, 3 × 3 kernel, stride 2 on 64 × 64 pixels: 2 · 27 · 8 · 32² = 442,368 operations."""
    counted = count_operations(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.zeros(1, 3, 64, 64))
    assert counted == 442_368
