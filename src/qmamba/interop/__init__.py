"""Doors to the libraries that people already use; each module needs its own extra.

Nothing here is imported by ``import qmamba``, and importing a module of this room changes nothing
in its host: registrations are explicit calls.
"""
