"""The Flower apps."""
