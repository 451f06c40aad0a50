"""Search of hyper-parameters: draws that can be repeated, pruning from outside, one database with one writer."""
