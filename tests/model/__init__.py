"""Tests of the language-model tiers, on small models with random weights."""
