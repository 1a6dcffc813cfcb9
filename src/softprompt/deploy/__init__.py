"""Replicas of our server on a Ray cluster, behind one address: which there are, which answers, what becomes of lost ones.

May import: `http` and what is below it. Open `fleet.py` first. Ray itself is imported in `on_ray.py` alone, when it is used.
"""
