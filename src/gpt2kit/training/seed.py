"""set_seed(): one number for every random generator that a script draws from."""

import os
import random

import numpy as np


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's, numpy's and, where it is installed, torch's generators, of all devices.

    generate(do_sample=True) without a seed draws from torch's generator, so it repeats after this.
    deterministic: torch refuses operations whose results may differ between two runs.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # as torch's own error message asks
        torch.use_deterministic_algorithms(True)
