"""How fast reads, writes and metadata are, beside every other engine for arrays in Python.

``rows`` says what is compared and what is aimed at, ``sources`` makes the values, ``engines`` and
``loop`` do the same work in every engine's own words, ``child`` is the process of one engine,
``report`` makes tables; ``__main__`` puts them together.
"""
