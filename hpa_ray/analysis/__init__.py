"""What a trained model has learned, and where it is wrong: maps, examples, confusions, suspected label errors.

Before: train, predict. After: cli, and what makes pages of the files written here.
"""
