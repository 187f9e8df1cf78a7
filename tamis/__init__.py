"""tamis: sift a pretraining corpus, and prove with proxy models that it helped."""

__version__ = "0.1.0"
