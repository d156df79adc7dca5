"""`python -m durable_agent` is `durable-agent`."""

from durable_agent.cli import main

main()
