"""One training by workers on several machines: banks are handed to them, a lost one's bank goes on elsewhere, and the driver
alone keeps checkpoints and publishes.

Open `driver.py` first. Ray itself is imported in `on_ray.py` alone, when it is used.
"""
