"""The experiments of five Keras reports, one file each: the recipe, what the report prints, ours.

`REPORTED` in each file is the report's figure in the tables of results.
"""
