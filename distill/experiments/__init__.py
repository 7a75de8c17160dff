"""Experiments by name, each a function that `amplify experiment NAME` calls."""
