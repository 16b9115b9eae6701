"""The graphs: the only place that knows the whole chain."""
