"""Data planes behind one interface.

`base.py` is the Protocol, `embedded.py` the Rust data plane in this process.
"""
