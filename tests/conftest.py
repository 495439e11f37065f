"""What holds for all tests."""

from __future__ import annotations

import os

import torch

# The tensors of the tests are small: a second thread costs more than it brings, the more so on a busy machine.
torch.set_num_threads(1)

# Without a GPU, Triton's kernels run in its interpreter. Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
