"""Statistics: what figures of rows tell, and how often that is wrong. Two arms compared at any look, drift, calibration;
no base is run.

Open `significance.py` first for the distributions, `sequential.py` and `drift_tests.py` for the tests on them.
"""
