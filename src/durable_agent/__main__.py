"""`durable-agent`, which is also `python -m durable_agent`."""

import sys


def main() -> None:
    """Run a command; Ctrl-C ends it with 130 and no stack trace, also while it is still being loaded."""
    try:
        from durable_agent.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
