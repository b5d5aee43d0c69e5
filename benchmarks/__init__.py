"""Measurements that the README and the docstrings quote; each module prints its table."""
