"""IntRR in PyTorch and TorchRec: raw logs → Semantic IDs → sharded training → trie-constrained decoding."""

__version__ = "0.1.0"
