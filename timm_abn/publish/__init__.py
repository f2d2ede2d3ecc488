"""What is said of a model and put on the Hub: facts, results, model cards, folders; above the registered names."""
