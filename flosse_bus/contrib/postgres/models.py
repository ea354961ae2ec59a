"""No models: the tables are read and written by SQL functions only.

Django sends ``post_migrate`` only to apps that have this module.
"""
