"""Makes many images on the machines of a Ray cluster, in parts that a run which was stopped does not make again."""
