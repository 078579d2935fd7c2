"""What can be believed of a run: is it reproducible, undamaged, and repeated by a second run?"""
