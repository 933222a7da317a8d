"""Jobs on stored arrays that take minutes: copy, convert, rechunk, check, migrate.

Each is a function that the command line wraps: what decides is pure (``planning``), what is done is
written down in the target until it is finished (``journal``), so that an interrupted job goes on
where it stopped, and nothing unfinished can be opened.
"""
