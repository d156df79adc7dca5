"""A worker with the demo's tools: `python workers/demo.py`, as often as you like, in as many terminals.

Your own is the same with your modules' names in place of the demo's.
"""

from durable_agent.cli.processes import worker_process
from durable_agent.settings import read_settings

if __name__ == "__main__":
    worker_process(read_settings(), ["durable_agent.flow.demo"])
