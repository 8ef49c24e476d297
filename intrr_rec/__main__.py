"""The command `intrr`, also as `python -m intrr_rec`: the form that torchrun and TorchX launch."""

from intrr_rec import interrupts

interrupts.watch()  # before any other import: those of the verbs take a good part of a second


def main() -> None:
    """Run the command line; Ctrl-C is one line from the first moment to the last."""
    try:
        from intrr_rec.cli import main as run

        run()
    except KeyboardInterrupt:
        interrupts.leave()


if __name__ == "__main__":
    main()
