"""Asking by hand: sessions in a terminal, what they remember, and how trees are shown."""
