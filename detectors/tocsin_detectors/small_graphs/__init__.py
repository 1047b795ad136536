"""Small graphs on few rows, evaluated without ONNX Runtime, whose fixed price is most of what they cost.

`planner.py` turns a graph into steps, `_steps.c` performs them, and `evaluator.py` uses that only where it gives what
ONNX Runtime gives, to the bit.
"""
