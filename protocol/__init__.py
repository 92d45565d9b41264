"""The language Parley speaks: commands, events, models, errors and their bytes.

Pure: no I/O, no asyncio, and nothing of ours is imported here.
"""
