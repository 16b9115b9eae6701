"""illada: from raw web crawls to a released diffusion language model, as durable workflows on Ray."""

__version__ = "0.4.0"
