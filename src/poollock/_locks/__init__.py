"""The locks: what they have in common, how they travel to other processes, and each kind.

It knows no pool: a lock works in any process that inherits it.
"""
