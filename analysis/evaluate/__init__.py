"""The evaluation of a trained network on its dataset."""
