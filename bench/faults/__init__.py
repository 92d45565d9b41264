"""Faults on purpose: a chaos proxy, a balancer, load, and a checker of what clients were told."""
