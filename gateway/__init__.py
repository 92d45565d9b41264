"""The hub: sessions, rules, fan-out. It knows nothing of HTTP."""
