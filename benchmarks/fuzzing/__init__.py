"""What `fuzz.py` consists of: inputs, the functions they are given to, and the processes this is done in."""
