"""What chaos and bench share: a receiver, a zygote that forks workers, faults, workloads, the history checker."""
