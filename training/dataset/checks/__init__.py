"""Measurements of pictures and the findings made from them."""
