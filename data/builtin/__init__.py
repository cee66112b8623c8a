"""Texts and words that the project may ship: the haystack of the demo and the tests."""
