"""A picture of a run: what workers record in shared memory, the file that the pool makes of it, its summary.

Knows locks, and nothing of pools and tasks but their names.
"""
