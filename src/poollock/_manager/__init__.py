"""Locks that live in a server process, and the connections to it.

It knows the locks that it resembles, and no pool.
"""
