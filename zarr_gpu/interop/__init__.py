"""The tools people already use; each module imports its library, and none is imported unasked."""
