"""The Ray side of the search: cluster, capacity, lanes and their workers."""
