"""Scenarios of things that go wrong, against real nodes, judged by the history checker."""
