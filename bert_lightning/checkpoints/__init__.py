"""The ground floor: a path <-> plain configuration, names and tensors. Imports nothing else of ours."""
