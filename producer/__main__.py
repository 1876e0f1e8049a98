"""`rollstream` and `python -m producer` are the same command."""

from producer.cli import app


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    app(prog_name="rollstream")


if __name__ == "__main__":
    main()
