"""`python -m intrr_rec` is `intrr`: the form that torchrun and TorchX launch."""

from intrr_rec.cli import main

main()
