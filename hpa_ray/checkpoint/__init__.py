"""What is stored of a run: the folder, the state to resume from, the results, the model to ship."""
