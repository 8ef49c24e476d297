"""intrr_rec as TorchX jobs: components (`jobs`), named resources (`resources`) and Slurm without accounting (`slurm`)."""
