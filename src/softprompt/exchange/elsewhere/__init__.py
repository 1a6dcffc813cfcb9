"""Elsewhere: prompts as tools that are no more kept them. Their files are pickles, which are opened for tensors alone.

`read.py` tells which tool a source is of, `caikit.py` and `nemo.py` read it, `pickles.py` opens what may hold code. May
import what the room above may. Open `read.py` first.
"""
