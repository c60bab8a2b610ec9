"""Faults: what the farm does when any part of it is killed, frozen, cut off or full."""
