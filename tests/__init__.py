"""Tests; the folders mirror those of the code, e2e has those that talk to a running server."""
