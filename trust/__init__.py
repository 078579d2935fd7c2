"""How far a run can be trusted: is it reproducible, undamaged, and confirmed by a second run?"""
