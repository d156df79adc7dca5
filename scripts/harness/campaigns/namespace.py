"""A network namespace behind a veth pair: a machine of its own, whose packets can be dropped.

Needs root and `ip` and `iptables`. Loss is made by iptables' `statistic` match, which every kernel with netfilter has;
`tc netem` is a module many kernels are built without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack

NAME = "da-chaos"
NEAR, FAR = "10.213.7.1", "10.213.7.2"


class Namespace:
    """A running namespace; processes get into it by `prefix`, and reach this machine at `gateway`."""

    gateway = NEAR
    prefix = ("ip", "netns", "exec", NAME)

    def __init__(self) -> None:
        self._rules: list[list[str]] = []

    @classmethod
    def made(cls, exits: ExitStack) -> Namespace | None:
        """Return a new namespace, or None where it cannot be made."""
        if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "iptables"))):
            return None
        made = cls()
        made._remove()
        exits.callback(made._remove)
        steps = [
            f"ip netns add {NAME}", f"ip link add {NAME}-0 type veth peer name {NAME}-1",
            f"ip link set {NAME}-1 netns {NAME}", f"ip addr add {NEAR}/24 dev {NAME}-0", f"ip link set {NAME}-0 up",
            f"ip -n {NAME} addr add {FAR}/24 dev {NAME}-1", f"ip -n {NAME} link set {NAME}-1 up",
            f"ip -n {NAME} link set lo up",
        ]  # fmt: skip
        return made if all(_ok(step.split()) for step in steps) else None

    def drop(self, rules: Sequence[tuple[str, float]]) -> None:
        """Drop a share of the packets that come in from the namespace (INPUT) or go out to it (OUTPUT)."""
        for chain, share in rules:
            match = [] if share >= 1.0 else ["-m", "statistic", "--mode", "random", "--probability", str(share)]
            rule = [chain, "-i" if chain == "INPUT" else "-o", f"{NAME}-0", *match, "-j", "DROP"]
            if _ok(["iptables", "-I", *rule]):
                self._rules.append(rule)

    def heal(self) -> int:
        """Drop nothing any more; return how many packets were dropped."""
        listed = subprocess.run(["iptables", "-vnxL"], capture_output=True, text=True, check=False).stdout
        dropped = sum(int(line.split()[0]) for line in listed.splitlines() if f"{NAME}-0" in line)
        for rule in self._rules:
            _ok(["iptables", "-D", *rule])
        self._rules.clear()
        return dropped

    def _remove(self) -> None:
        self.heal()
        _ok(["ip", "link", "del", f"{NAME}-0"])
        _ok(["ip", "netns", "del", NAME])


def _ok(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
