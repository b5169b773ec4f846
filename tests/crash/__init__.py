"""An engine that ends at a counted change of its state: it is killed (`tests/e2e/test_crash.py`), or its machine's power is cut (`power_cut`)."""
