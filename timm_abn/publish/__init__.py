"""What goes to the Hub: facts, results, model cards, folders. Imports the registered models."""
