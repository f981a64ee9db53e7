"""Studies of quality on the digits: solvers, int8, the ablation."""
