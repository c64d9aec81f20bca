"""Patch table → trained model. The first room that imports torch."""

import os

# Torch's tensors in huge pages, where the kernel offers them on request (Linux): training on a CPU allocates
# gigabytes a second, and page faults of 4 KB took most of its time (2.7 → 17 GB/s of fresh memory on a 2-core VM).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
