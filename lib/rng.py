"""Counter-based randomness: every number is a pure function of its key, not of what was drawn before it."""

import hashlib

import numpy as np


def mix(x):
    """The splitmix64 finaliser: uint64 array -> uint64 array (Steele, Lea & Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hashed(*key):
    """uint64 as a pure function of `key`: strings, integers and integer arrays, broadcast together."""
    with np.errstate(over="ignore"):
        state = np.uint64(0x9E3779B97F4A7C15)
        for part in key:
            if isinstance(part, str):
                part = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
            part = np.asarray(part)
            part = part.astype(np.uint64) if part.dtype != np.int64 else part.view(np.uint64)
            state = mix((state + np.uint64(0x9E3779B97F4A7C15)) ^ mix(part + np.uint64(0x9E3779B97F4A7C15)))
    return state


def uniform(*key):
    """Uniform numbers in [0, 1) as a pure function of `key`: integers and integer arrays, broadcast together.

    `uniform(seed, epoch, rows[:, None], np.arange(K))` is (n, K), and each number depends on nothing but its
    own key: not on the batch, the process or the order of calls. A string names a stream, so that two uses
    never share numbers.
    """
    return (hashed(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def stream(*key):
    """A 53-bit seed for another library's generator, as a pure function of `key`."""
    return int(uniform(*key) * 2.0**53)


def permutation(n, *key):
    """A permutation of range(n) as a pure function of `key`."""
    return np.argsort(uniform(*key, np.arange(n)), kind="stable")
