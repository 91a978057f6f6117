"""Tensors: the only room that loads torch."""
