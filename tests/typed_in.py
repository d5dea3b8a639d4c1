"""What somebody types into a notebook or a REPL, and what comes of it."""

from __future__ import annotations

# Each paragraph is a cell of a notebook.
TYPED_IN = """
from poollock import {factory}

class Point:
    def __init__(self, x):
        self.x = x

class OwnError(Exception):
    pass

def helper(x):
    return x + 1

def moved(lock, point):
    with lock:
        return Point(helper(point.x))

def fail(x):
    raise OwnError(x)

def seen(points):
    return [(point.x, type(point) is Point) for point in points]

def initialize(x):
    import math
    math.of_initializer = helper(x)

def of_initializer():
    import math
    return math.of_initializer

pool = {factory}(2, initialize, (4,), context={method!r})
print(seen(pool.map(moved, map(Point, range(3)))))
try:
    pool.apply(fail, (5,))
except OwnError as error:
    print(repr(error))

print(pool.map(lambda x: helper(x), range(3)), pool.apply(of_initializer))

def helper(x):
    return x + 100

print(seen(pool.map(moved, map(Point, range(3)))))

def moved(lock, point, back=False):
    return Point(-point.x)

def made_since(x):
    return moved(None, Point(x))

print(seen(pool.map(moved, map(Point, range(3)))), made_since(1).x)

class Point:
    def __init__(self, x):
        self.x = 2 * x

print(seen(pool.map(made_since, range(3))))
pool.terminate()
pool.join()
"""
OUTPUT = """\
[(1, True), (2, True), (3, True)]
OwnError(5)
[1, 2, 3] 5
[(100, True), (101, True), (102, True)]
[(0, True), (-1, True), (-2, True)] -1
[(0, True), (-4, True), (-8, True)]
"""
